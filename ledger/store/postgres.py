"""The one door to PostgreSQL: connections on the reactor, their errors in our words, and a pool for short work."""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import psycopg2
from psycopg2 import extensions
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.logger import Logger
from txpostgres import txpostgres

from ledger.domain.errors import unavailable

log = Logger()

T = TypeVar("T")
Row = tuple[Any, ...]

# SQLSTATE classes that say "not now" rather than "not this": resources, operator intervention, lock not available,
# serialization, connection trouble.
_NOT_NOW: Final = ("53", "57", "55", "40", "08", "58")


class ConnectionLost(Exception):
    """The connection to the database is gone; what was under way on it may or may not have happened."""


class StatementFailed(Exception):
    """The database refused a statement; the connection lives."""

    def __init__(self, sqlstate: str | None, message: str, constraint: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.constraint = constraint

    @property
    def is_passing(self) -> bool:
        """Whether the same statement may succeed later."""
        return self.sqlstate is not None and self.sqlstate[:2] in _NOT_NOW


class _Unwatched:
    """What polls only while the reactor does not watch its socket.

    libpq closes a socket that it finds dead. Had the reactor not let go of it by then, it could not any more, and would
    never watch another of that number.
    """

    reactor: Any

    def continuePolling(self, swallowErrors: bool = False) -> None:
        self.reactor.removeReader(self)
        self.reactor.removeWriter(self)
        super().continuePolling(swallowErrors)  # type: ignore[misc]


class _Cursor(_Unwatched, txpostgres.Cursor):  # type: ignore[misc]
    """A txpostgres cursor whose connection is not watched when the statement is sent."""

    def execute(self, query: str, params: Any = None) -> Deferred[Any]:
        self.reactor.removeReader(self._connection)
        done: Deferred[Any] = super().execute(query, params)
        if done.called and not self._connection.closed:
            self.reactor.addReader(self._connection)  # nothing was sent
        return done


class _Connection(_Unwatched, txpostgres.Connection):  # type: ignore[misc]
    """A txpostgres connection that reports its death while idle instead of raising into the reactor."""

    cursorFactory = _Cursor
    on_lost: Callable[[], None] | None = None

    def doRead(self) -> None:
        try:
            super().doRead()
        except (psycopg2.Error, ConnectionDone, OSError, ValueError):  # the last: the poll took the socket along
            self.close()
            if self.on_lost is not None:
                self.on_lost()


class Session:
    """One connection: one statement at a time, in order, each with a deadline."""

    def __init__(self, reactor: Any, deadline: float = 30.0) -> None:
        self._reactor = reactor
        self._deadline = deadline
        self._connection: Any = _Connection(reactor)

    async def open(self, url: str, **settings: str | int) -> None:
        """Connect, with the given server settings in force for this session."""
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        keepalive = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
        await self._within(
            lambda: self._connection.connect(
                url, options=options, connect_timeout=5, application_name="ledger", **keepalive
            )
        )

    @property
    def is_open(self) -> bool:
        """Whether the connection has not been closed, as far as is known here."""
        raw = self._connection.pollable()
        return raw is not None and not raw.closed

    @property
    def is_idle(self) -> bool:
        """Whether the connection is open and outside of any transaction."""
        return self.is_open and self._connection.info.transaction_status == extensions.TRANSACTION_STATUS_IDLE

    @property
    def has_failed(self) -> bool:
        """Whether a statement of the open transaction has failed, so that it can only be rolled back."""
        return self.is_open and self._connection.info.transaction_status == extensions.TRANSACTION_STATUS_INERROR

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Have `callback` called if the connection dies while nothing runs on it."""
        self._connection.on_lost = callback

    def on_notify(self, callback: Callable[[str, str], None]) -> None:
        """Have `callback` called with the channel and payload of every notification."""
        self._connection.addNotifyObserver(lambda notify: callback(notify.channel, notify.payload))

    async def run(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
        """Run statements in one round trip and return the rows of the last one."""
        if not self.is_open:
            raise ConnectionLost("the connection is closed")
        cursor = self._connection.cursor()
        try:
            await self._within(lambda: cursor.execute(sql, parameters or None))
        except (ValueError, UnicodeError) as error:
            # A NUL or a lone surrogate: never sent, so no SQLSTATE; this is the one PostgreSQL would give.
            raise StatementFailed("22021", first_line(error)) from error
        try:
            return cursor.fetchall() if cursor.description is not None else []
        except psycopg2.Error as error:  # closed since the answer came
            raise self._translated(error) from error

    async def commit(self) -> None:
        """Commit the open transaction; one that has failed raises, where PostgreSQL would roll back in silence."""
        if self.has_failed:
            raise StatementFailed("25P02", "a statement of the transaction had failed")
        await self.run("COMMIT")

    async def _within(self, start: Callable[[], Deferred[Any]]) -> None:
        timer = self._reactor.callLater(self._deadline, self.close)
        try:
            await start()
        except CancelledError as error:
            raise StatementFailed("57014", "the statement took too long") from error
        except (psycopg2.Error, ConnectionDone) as error:
            raise self._translated(error) from error
        except ValueError as error:
            if not self.is_open:  # closed since the answer came
                raise ConnectionLost(first_line(error)) from error
            # Text that PostgreSQL cannot hold: NUL, lone surrogates.
            raise StatementFailed("22021", first_line(error)) from error
        finally:
            if timer.active():
                timer.cancel()

    def _translated(self, error: Exception) -> Exception:
        sqlstate = getattr(error, "pgcode", None)
        diagnosis = getattr(error, "diag", None)
        # A fatal error ends the connection, and may come after the COMMIT that was sent has been done.
        is_fatal = getattr(diagnosis, "severity_nonlocalized", None) in ("FATAL", "PANIC")
        if self.is_open and not is_fatal and (sqlstate is not None or isinstance(error, psycopg2.ProgrammingError)):
            return StatementFailed(sqlstate, first_line(error), getattr(diagnosis, "constraint_name", None))
        self.close()
        return ConnectionLost(first_line(error))

    def close(self) -> None:
        """Close the connection; whoever waits on it sees `ConnectionLost`."""
        if self._connection.pollable() is not None:
            self._connection.close()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type's name."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class Pool:
    """A few connections for short work; whoever waits is served in order, and not without bound."""

    def __init__(self, reactor: Any, url: str, size: int, max_waiting: int = 2_000) -> None:
        self._reactor = reactor
        self._url = url
        self._size = size
        self._max_waiting = max_waiting
        self._idle: list[Session] = []
        self._open = 0
        self._waiting: deque[Deferred[Session | None]] = deque()
        self._closed = True
        self._away = False

    def open(self) -> None:
        """Take work; connections are made as they are needed."""
        self._closed = False

    async def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement outside of any transaction and return its rows."""
        session = await self._take()
        try:
            return await session.run(sql, parameters)
        except (ConnectionLost, StatementFailed) as error:
            raise _refusal(error) from error.__cause__
        finally:
            self._put_back(session)

    async def transact(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Run `work` in one transaction: committed when it returns, rolled back when it raises."""
        session = await self._take()
        committing = False
        try:
            await session.run("BEGIN")
            result = await work(session)
            committing = True
            await session.commit()
        except (ConnectionLost, StatementFailed) as error:
            raise _refusal(error, in_commit=committing) from error.__cause__
        finally:
            if not committing and session.is_open and not session.is_idle:
                # Closing ends the transaction for certain, and a refusal inside one is rare.
                session.close()
            self._put_back(session)
        return result

    @property
    def usage(self) -> tuple[int, int, int]:
        """How many connections are open, how many of them idle, and how many callers wait."""
        return self._open, len(self._idle), len(self._waiting)

    def close(self) -> None:
        """Close every connection; work that waits is refused."""
        self._closed = True
        while self._idle:
            self._discard(self._idle.pop())
        self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for waiter in waiting:
            self._reactor.callLater(0, waiter.errback, unavailable())

    async def _take(self) -> Session:
        if self._closed:
            raise unavailable()
        while self._idle:
            session = self._idle.pop()
            if session.is_idle:
                return session
            self._discard(session)
        if self._open < self._size:
            self._open += 1
            return await self._connect()
        if len(self._waiting) >= self._max_waiting:
            raise unavailable()
        waiter: Deferred[Session | None] = Deferred()
        self._waiting.append(waiter)
        return await waiter or await self._connect()

    async def _connect(self) -> Session:
        session = Session(self._reactor)
        try:
            await session.open(self._url, statement_timeout=10_000, idle_in_transaction_session_timeout=10_000)
        except (ConnectionLost, StatementFailed) as error:
            session.close()
            self._open -= 1
            if not self._away:
                log.warn("No connection to the database: {error}", error=str(error))
            self._away = True
            if not self._open:
                self._refuse_waiting()  # nobody is left to serve them
            raise unavailable() from error
        self._away = False
        return session

    def _put_back(self, session: Session) -> None:
        if self._closed or not session.is_idle:
            self._discard(session)
        elif self._waiting:
            self._hand_over(session)
        else:
            self._idle.append(session)

    def _discard(self, session: Session) -> None:
        session.close()
        if self._waiting and not self._closed:
            self._hand_over(None)  # the place is theirs: they connect anew
        else:
            self._open -= 1

    def _hand_over(self, session: Session | None) -> None:
        # In a later turn of the reactor: a chain of waiters that finish at once must not recurse.
        self._reactor.callLater(0, self._waiting.popleft().callback, session)


def _refusal(error: ConnectionLost | StatementFailed, in_commit: bool = False) -> Exception:
    if isinstance(error, ConnectionLost):
        return unavailable("unknown" if in_commit else "not_done")
    return unavailable() if error.is_passing else error

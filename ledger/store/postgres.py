"""The one door to PostgreSQL: connections on the reactor, and their errors in our words."""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import psycopg2
from psycopg2 import extensions
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from txpostgres import txpostgres

from ledger.store.literals import Literal

Row = tuple[Any, ...]

# SQLSTATE classes that say "not now" rather than "not this": resources, operator intervention, lock not available,
# serialization, connection trouble.
_NOT_NOW: Final = ("53", "57", "55", "40", "08", "58")
_READ_ONLY: Final = "25006"  # a standby answers, until the connections are led to the new primary

_CONNECT_WITHIN: Final = 5.0

# How a dead network is noticed, unless the URL says otherwise.
NETWORK: Final[dict[str, Any]] = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


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
        return self.sqlstate is not None and (self.sqlstate[:2] in _NOT_NOW or self.sqlstate == _READ_ONLY)


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

    def _cancel(self, _: Deferred[Any]) -> None:
        # txpostgres would ask the server to cancel, which blocks, for ever if the server is silent.
        self._connection_to_close().close()

    def _connection_to_close(self) -> Any:
        return self


class _Cursor(_Unwatched, txpostgres.Cursor):  # type: ignore[misc]
    """A txpostgres cursor whose connection is not watched when the statement is sent."""

    def execute(self, query: str | bytes, params: Any = None) -> Deferred[Any]:
        self.reactor.removeReader(self._connection)
        done: Deferred[Any] = super().execute(query, params)
        if done.called and not self._connection.closed:
            self.reactor.addReader(self._connection)  # nothing was sent
        return done

    def _connection_to_close(self) -> Any:
        return self._connection


class _Connection(_Unwatched, txpostgres.Connection):  # type: ignore[misc]
    """A txpostgres connection that reports its death while idle instead of raising into the reactor."""

    cursorFactory = _Cursor
    on_lost: Callable[[], None] | None = None

    def checkForNotifies(self) -> None:
        # txpostgres makes a cooperative task of each; ours are quick, and one comes with every batch.
        notifies = self._connection.notifies
        while notifies:
            notify = notifies.pop(0)
            for observer in self.getNotifyObservers():
                observer(notify)

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
        """Connect within 5 seconds, with the given server settings in force for this session, whatever the URL sets."""

        def connect() -> Deferred[Any]:
            given = extensions.parse_dsn(url)
            options = [given.get("options", ""), *(f"-c {name}={value}" for name, value in settings.items())]
            options.append("-c standard_conforming_strings=on")  # this, and UTF-8, is what `Literal` rests on
            more = {
                "options": " ".join(filter(None, options)),
                "client_encoding": "UTF8",
                "application_name": "ledger",
            }
            started: Deferred[Any] = self._connection.connect(**{**NETWORK, **given, **more})
            return started

        # libpq leaves connect_timeout to who polls the connection.
        await self._within(connect, min(self._deadline, _CONNECT_WITHIN))

    def take_at_once(self, size: int) -> None:
        """Have the socket take so many bytes before it makes the sender wait, or what the kernel grants of them.

        On Linux that is up to net.core.wmem_max. The backend looks at nothing of a statement until it has all of it,
        and what does not go at once goes piece by piece, with a turn of the reactor for each.
        """
        try:
            same = socket.socket(fileno=os.dup(self._connection.fileno()))
        except (psycopg2.Error, OSError) as error:
            raise ConnectionLost(first_line(error)) from error
        with same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

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

    async def run(self, sql: str | bytes, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
        """Run statements in one round trip and return the rows of the last one."""
        if not self.is_open:
            raise ConnectionLost("the connection is closed")
        cursor = self._connection.cursor()
        await self._within(lambda: cursor.execute(sql, parameters or None))
        try:
            return cursor.fetchall() if cursor.description is not None else []
        except psycopg2.Error as error:  # closed since the answer came
            raise self._translated(error) from error

    def render(self, sql: str, parameters: Mapping[str, str | bytes | int]) -> bytes:
        """Return statements with their parameters in place, ready to be run; something else may run meanwhile."""
        try:
            quoted = {name: one if isinstance(one, int) else Literal(one) for name, one in parameters.items()}
            rendered: bytes = self._connection.cursor().mogrify(sql, quoted)
        except psycopg2.Error as error:
            raise self._translated(error) from error
        except ValueError as error:
            raise StatementFailed("22021", first_line(error)) from error
        return rendered

    async def commit(self) -> None:
        """Commit the open transaction; one that has failed raises, where PostgreSQL would roll back in silence."""
        if self.has_failed:
            raise StatementFailed("25P02", "a statement of the transaction had failed")
        await self.run("COMMIT")

    async def _within(self, start: Callable[[], Deferred[Any]], seconds: float | None = None) -> None:
        timer = self._reactor.callLater(self._deadline if seconds is None else seconds, self.close)
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

"""A pool of connections for reads and short transactions."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ledger.domain.errors import unavailable
from ledger.store.postgres import ConnectionLost, Row, Session, StatementFailed

log = Logger()

T = TypeVar("T")


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

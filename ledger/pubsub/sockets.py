"""The open real-time connections of this process: how many there may be, and how they are all closed."""

from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ledger.domain.errors import unavailable
from ledger.pubsub.turns import Clock

_log = Logger()

UNAUTHENTICATED: Final = 4401
TOO_SLOW: Final = 4408
STOPPING: Final = 4503


class Connection(Protocol):
    """One client's connection."""

    def close(self, code: int, reason: str) -> None:
        """Say why, and close; it is gone when the sockets are told so by `remove`."""

    def abort(self) -> None:
        """Close at once."""


class Sockets:
    """Counts connections, refuses those that are too many, and closes all when the server stops."""

    def __init__(self, clock: Clock, most: int = 10_000, most_strangers: int = 1_000) -> None:
        self._clock = clock
        self._most = most
        self._most_strangers = most_strangers
        self._open: dict[Connection, bool] = {}
        self._strangers = 0
        self._closing = False
        self._emptied: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._open)

    @property
    def strangers(self) -> int:
        """How many have not said yet who they are."""
        return self._strangers

    def reopen(self) -> None:
        """Let clients in again after `close_all`."""
        self._closing = False

    def admit(self) -> None:
        """Refuse a client for whom there is no room, or no time left."""
        if self._closing or len(self._open) >= self._most or self._strangers >= self._most_strangers:
            raise unavailable()

    def add(self, connection: Connection, *, known: bool) -> None:
        """Count a connection that begins, or refuse it; `known` says whether its client has been authenticated."""
        self.admit()  # it may be long since it was asked: who the client is had to be found out
        self._open[connection] = known
        self._strangers += not known

    def recognise(self, connection: Connection) -> None:
        """Learn that a connection's client has been authenticated."""
        if self._open.get(connection) is False:
            self._open[connection] = True
            self._strangers -= 1

    def remove(self, connection: Connection) -> None:
        """Learn that a connection is gone; harmless when repeated."""
        known = self._open.pop(connection, True)
        self._strangers -= not known
        if not self._open and self._emptied is not None:
            emptied, self._emptied = self._emptied, None
            emptied()

    async def close_all(
        self, code: int = STOPPING, reason: str = "the server is stopping", deadline: float = 5.0
    ) -> None:
        """Let nobody in until `reopen`, and close all; returns when they are gone, cutting who is late."""
        self._closing = True
        for connection in list(self._open):
            connection.close(code, reason)
        if not self._open:
            return
        gone: Deferred[None] = Deferred()
        self._emptied = lambda: gone.callback(None)
        timer: Any = self._clock.callLater(deadline, self._cut)
        await gone
        if timer.active():
            timer.cancel()

    def _cut(self) -> None:
        _log.info("cutting {count} connections that did not close in time", count=len(self._open))
        for connection in list(self._open):
            connection.abort()
            self.remove(connection)

"""The site: hot endpoints first, then the live streams, then Klein; and the watch over its connections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from ledger.resources.channel import HttpDate, LedgerChannel, LedgerRequest
from ledger.resources.endpoint import MIB, Endpoint
from ledger.resources.exchange import Exchange
from ledger.resources.klein_adapter import KleinAdapter
from ledger.resources.plain_adapter import hot_table, request_lines

IDLE: Final = 60.0  # seconds that a connection may take until its next request is complete
SWEEP: Final = 5.0
_GLANCE: Final = 0.02


_Site: Any = Site  # Twisted leaves most of it without types


class LedgerSite(_Site):  # type: ignore[misc]
    """Twisted's site without access log, sessions, forms or HTTP/2; it knows its connections and can drain them."""

    protocol = LedgerChannel

    def __init__(
        self,
        reactor: Any,
        exchange: Exchange,
        endpoints: Iterable[Endpoint],
        extra: Mapping[str, IResource],  # by their paths, such as /ws
        *,
        plain: bool = True,
    ) -> None:
        endpoints = tuple(endpoints)
        self._klein = KleinAdapter(exchange, endpoints, reactor)
        super().__init__(
            self._klein,
            requestFactory=LedgerRequest,
            timeout=None,
            reactor=reactor,
            parsePOSTFormSubmission=False,
        )
        self.exchange = exchange
        self.hot = hot_table(endpoints) if plain else {}
        self.hot_lines = request_lines(self.hot)
        self.draining = False
        self._extra = {path.encode(): resource for path, resource in extra.items()}
        self._limits = {path.encode(): e.body_limit for e in endpoints for path in e.paths if e.body_limit > MIB}
        self._dialects = {path.encode(): e for e in endpoints for path in e.paths if e.dialect is not None}
        self._channels: dict[LedgerChannel, tuple[int, float]] = {}
        self._date = HttpDate()
        self._sweeping: Any = None

    def date(self) -> bytes:
        """The Date header's text."""
        return self._date.text(self.reactor.seconds())

    def body_limit(self, uri: bytes) -> int:
        """How large the body of a request may be."""
        return self._limits.get(uri.partition(b"?")[0], MIB) if self._limits else MIB

    def dialect_at(self, uri: bytes) -> Endpoint | None:
        """Return the endpoint at a path if it tells refusals in its own way."""
        return self._dialects.get(uri.partition(b"?")[0]) if self._dialects else None

    def opened(self, channel: LedgerChannel) -> None:
        """Watch over a connection."""
        self._channels[channel] = (0, self.reactor.seconds())

    def closed(self, channel: LedgerChannel) -> None:
        """Forget a connection."""
        self._channels.pop(channel, None)

    def reopen(self) -> None:
        """Keep connections alive again after a drain."""
        self.draining = False

    async def drain(self, seconds: float) -> None:
        """Answer what has begun, each connection's last; then close all, at the latest after so many seconds."""
        self.draining = True
        deadline = self.reactor.seconds() + seconds
        while self._is_busy() and self.reactor.seconds() < deadline:
            await self._glance()
        self._each(LedgerChannel.loseConnection)
        while self._channels and self.reactor.seconds() < deadline:
            await self._glance()
        self._each(lambda channel: channel.transport.abortConnection())

    def getResourceFor(self, request: Request) -> Any:
        """Return the live stream at a path, else Klein."""
        return self._extra.get(request.path, self._klein)

    def log(self, request: Any) -> None:
        """Leave the access log unwritten: counts take its place."""

    def startFactory(self) -> None:
        """Begin to look after the connections."""
        if self._sweeping is None:
            self._sweeping = self.reactor.callLater(SWEEP, self._sweep)

    def stopFactory(self) -> None:
        """Cease to look after them."""
        sweeping, self._sweeping = self._sweeping, None
        if sweeping is not None and sweeping.active():
            sweeping.cancel()

    def acceptableProtocols(self) -> list[bytes]:
        """What can be agreed on over TLS."""
        return [b"http/1.1"]

    def _is_busy(self) -> bool:
        return self.exchange.live > 0 or any(channel.requests for channel in self._watched())

    def _watched(self) -> list[LedgerChannel]:
        for channel in [channel for channel in self._channels if channel.transport is None]:
            self.closed(channel)  # a WebSocket has taken the connection over
        return list(self._channels)

    def _each(self, act: Callable[[LedgerChannel], None]) -> None:
        for channel in self._watched():
            act(channel)

    def _glance(self) -> Deferred[None]:
        return deferLater(self.reactor, _GLANCE)

    def _sweep(self) -> None:
        """Close connections on which nothing was asked for too long, and cut those that do not close."""
        now = self.reactor.seconds()
        for channel in self._watched():
            served, since = self._channels[channel]
            if channel.is_waiting or channel.served != served:
                self._channels[channel] = (channel.served, now)
            elif now - since > IDLE + SWEEP:
                channel.transport.abortConnection()
            elif now - since > IDLE:
                channel.loseConnection()
        self._sweeping = self.reactor.callLater(SWEEP, self._sweep)

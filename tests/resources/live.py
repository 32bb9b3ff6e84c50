"""Sites with the live streams: one on loopback, and one in memory."""

from __future__ import annotations

import os
from typing import Any

from ledger.pubsub.sse import EventsResource
from ledger.pubsub.websocket import websocket_resource
from ledger.resources.addresses import Addresses
from ledger.resources.exchange import Exchange
from ledger.resources.guards import Guards
from ledger.resources.live import LiveFront
from ledger.resources.rate_limit import RateLimiter
from ledger.resources.site import LedgerSite
from ledger.services.audit import AuditEvent
from tests.pubsub.server import Server as SocketServer
from tests.pubsub.server import reactor
from tests.pubsub.world import World
from tests.resources.backend import MemoryBackend, Settings
from tests.resources.harness import Server as MemoryServer

ORIGIN = "https://app.example"


def live_site(clock: Any, world: World, exchange: Exchange, endpoints: Any = ()) -> LedgerSite:
    """The real site, with a small world to follow."""
    front = LiveFront(exchange)
    live = {
        "/ws": websocket_resource(world.context, front, reactor),
        "/api/events": EventsResource(world.context, front),
    }
    return LedgerSite(clock, exchange, endpoints, live)


class LiveServer(SocketServer):
    """The real site on loopback, with one origin whose pages may call, behind a proxy on this machine."""

    def __init__(self, limit: tuple[int, int] | None = None) -> None:
        self.audited: list[AuditEvent] = []
        self._limiter = None if limit is None else RateLimiter(*limit, seconds=reactor.seconds)
        super().__init__()

    def site(self, timeout: float) -> Any:
        """The site."""
        assert timeout
        backend = MemoryBackend(Settings(cors_origins=(ORIGIN,)))
        guards = Guards(Addresses(("127.0.0.1",)), self._limiter, self.audited.append)
        return live_site(reactor, self.world, Exchange(backend, guards, reactor.seconds, os.urandom))


class LiveMemoryServer(MemoryServer):
    """A site in memory with everything."""

    def __init__(self) -> None:
        super().__init__()
        world = World(self.clock)
        world.start()
        endpoints = self.site.hot.values()
        self.site = live_site(self.clock, world, self.site.exchange, endpoints)

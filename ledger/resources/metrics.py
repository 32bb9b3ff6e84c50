"""GET /metrics: everything that is counted, in Prometheus' text format, encoded a little at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from copy import copy
from itertools import accumulate
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from twisted.internet.task import deferLater

from ledger.domain.addresses import parsed
from ledger.domain.errors import Refused
from ledger.domain.policy import Action
from ledger.resources.answers import Parts
from ledger.resources.counts import BUCKETS
from ledger.resources.endpoint import Call, Endpoint, Streamed
from ledger.resources.exchange import Exchange
from ledger.services.metering import Read, Reading, buckets_of, gauge

PATH: Final = "/metrics"
CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_TURN: Final = 0.002  # seconds of encoding before others have their turn
_PIECE: Final = 100  # samples that are encoded in one go


class Metrics:
    """All that is told on a scrape: whoever counts adds how to read it."""

    def __init__(self, reactor: Any) -> None:
        self.registry = CollectorRegistry()
        self._reactor = reactor
        self._renewals: list[Callable[[], Awaitable[None]]] = []

    def add(self, read: Read, renew: Callable[[], Awaitable[None]] | None = None) -> None:
        """Have `read` asked on every scrape, after `renew`, which may take a moment."""
        self.registry.register(Reading(read))
        if renew is not None:
            self._renewals.append(renew)

    async def text(self) -> Parts:
        """Return the parts of the text, between which the reactor turns."""
        for renew in self._renewals:
            await renew()
        pieces = _pieces(self.registry)
        reactor, begun, ended = self._reactor, False, False

        async def part() -> bytes:
            nonlocal begun, ended
            if ended:
                return b""
            if begun:
                await deferLater(reactor, 0)
            begun = True
            until = reactor.seconds() + _TURN
            made = []
            for piece in pieces:
                made.append(piece)
                if reactor.seconds() >= until:
                    break
            else:
                ended = True
            return b"".join(made)

        return part


class MetricsEndpoints:
    """GET /metrics, for anyone or for peers on loopback only."""

    def __init__(self, metrics: Metrics, *, for_anyone: bool = False) -> None:
        self._metrics = metrics
        self._for_anyone = for_anyone

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare it."""
        return (
            Endpoint(
                "GET",
                PATH,
                self.read,
                summary="The metrics, in Prometheus' text format, for clients on the machine itself",
                policy=Action.SEE_HEALTH,
                answer=str,
                media_type="text/plain",
                refuses=("forbidden",),
                envelope=False,
                rate_limited=False,
            ),
        )

    async def read(self, _caller: None, call: Call[None, None]) -> Streamed:
        """Tell everything that is counted, to peers on loopback; others are told where `--metrics-listen` says."""
        if not self._for_anyone and not is_loopback(call.address):
            raise Refused("forbidden", "Metrics are told on the machine itself, or where --metrics-listen says")
        return Streamed(await self._metrics.text(), CONTENT_TYPE)


def is_loopback(address: str) -> bool:
    """Whether a client is on this machine; of what is no address, such as a unix socket's peer, nobody knows."""
    known = parsed(address)
    return known is not None and known.is_loopback


def http_metrics(exchange: Exchange) -> Iterator[Metric]:
    """Tell how many requests there were by route and status, and how long they took."""
    counts = exchange.counts
    name, route = "ledger_http", ("method", "route")
    requests = CounterMetricFamily(f"{name}_requests", "Requests that were answered.", labels=(*route, "status"))
    for (endpoint, status), many in counts.requests.items():
        requests.add_metric((*_route(endpoint), str(status)), many)
    yield requests
    text = "From a request's arrival to its answer."
    seconds = HistogramMetricFamily(f"{name}_request_duration_seconds", text, labels=route)
    for endpoint, buckets in counts.buckets.items():
        cumulated = buckets_of(zip(BUCKETS, accumulate(buckets), strict=True))
        seconds.add_metric(_route(endpoint), cumulated, counts.seconds[endpoint])
    yield seconds
    yield gauge(f"{name}_requests_in_progress", "Requests that are being worked on.", exchange.live)


def _route(endpoint: str) -> tuple[str, str]:
    """Return method and path of an endpoint, as it was declared; whatever got to none has no path."""
    method, _, path = endpoint.partition(" ")
    return method, path or "-"


def _pieces(registry: CollectorRegistry) -> Iterator[bytes]:
    """Encode family by family, long ones in pieces of which only the first has the two lines of comment."""
    for family in registry.collect():
        samples = family.samples
        for start in range(0, len(samples) or 1, _PIECE):
            piece = copy(family)
            piece.samples = samples[start : start + _PIECE]
            text = generate_latest(Reading(lambda piece=piece: (piece,)))  # type: ignore[misc]
            yield text.split(b"\n", 2)[2] if start else text

"""GET /metrics: who is told, in which form, and whether what is told of requests is true."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from twisted.internet.defer import Deferred

from ledger.domain.policy import ROLES
from ledger.resources.counts import Counts
from ledger.resources.metrics import CONTENT_TYPE, PATH, Metrics, http_metrics, is_loopback
from ledger.resources.metrics_port import metrics_site
from ledger.resources.openapi import openapi
from ledger.resources.routes import all_endpoints
from ledger.resources.site import LedgerSite
from ledger.services.metering import gauge
from tests.cleanliness import LoggedErrors
from tests.resources.backend import MemoryBackend, Settings
from tests.resources.harness import NOW, Reply, Server
from tests.resources.streams import whole
from tests.scraping import Scrape

LOOPBACK = "127.0.0.1"


class Scraped(Server):
    """A server that tells its metrics."""

    def __init__(self, backend: MemoryBackend | None = None, **more: Any) -> None:
        super().__init__(backend, **more)
        self.metrics = Metrics(self.clock)
        self.metrics.add(lambda: http_metrics(self.exchange))
        endpoints = all_endpoints(self.backend, self.clock.seconds, metrics=self.metrics)
        self.site = LedgerSite(self.clock, self.exchange, endpoints, {}, plain=more.get("plain", True))

    def told(self, peer: str = LOOPBACK, headers: dict[str, str | None] | None = None) -> Reply:
        """The answer to a scrape, which must be there at once."""
        connection = self.connect(peer)
        connection.send(self.request("GET", PATH, None, headers, token=None))
        reply, rest = whole(connection.received())
        assert rest == b""
        return reply

    def scrape(self) -> Scrape:
        """What a scrape says."""
        return Scrape(self.told().body)


def requests(scrape: Scrape) -> dict[tuple[str, str, str], float]:
    """The counts of requests by method, route and status."""
    name = "ledger_http_requests_total"
    return {(told["method"], told["route"], told["status"]): scrape(name, **told) for told in scrape.labels(name)}


class TestForm:
    """What goes over the wire."""

    def test_it_is_prometheus_text_without_an_envelope(self) -> None:
        server = Scraped()
        reply = server.told()
        assert reply.status == 200
        assert reply.header("Content-Type") == CONTENT_TYPE.decode() == "text/plain; version=0.0.4; charset=utf-8"
        assert reply.header("X-Content-Type-Options") == "nosniff"
        assert reply.header("X-Correlation-ID")
        assert reply.body.startswith(b"# HELP ledger_http_requests_total Requests that were answered.\n# TYPE ")
        assert reply.body == generate_latest(server.metrics.registry)

    def test_long_families_in_pieces_are_the_same_text(self) -> None:
        server = Scraped()
        for number in range(60):
            for status in (200, 404, 500):
                server.exchange.counts.count(f"GET /some/{number}", status, 0.002 * number)
        server.metrics.add(lambda: [GaugeMetricFamily("empty", "Nothing at all.", labels=("a",))])
        server.metrics.add(lambda: [gauge("odd", "Two\nlines, \\ and # a sharp.", 1)])
        parts: list[bytes] = []
        expected = generate_latest(server.metrics.registry)
        Deferred.fromCoroutine(_read(server.metrics, parts))
        assert b"".join(parts) == expected
        assert len(expected.splitlines()) > 900
        Scrape(expected).check_histograms()

    def test_others_have_their_turn_while_it_is_encoded(self) -> None:
        server = Scraped()
        clock = server.clock

        def slow(name: str) -> Callable[[], Iterator[Metric]]:
            def read() -> Iterator[Metric]:
                clock.rightNow += 0.0015
                yield gauge(name, "Slow.", 1)

            return read

        for number in range(6):
            server.metrics.add(slow(f"slow{number}"))
        parts: list[bytes] = []
        reading = Deferred.fromCoroutine(_read(server.metrics, parts))
        assert (reading.called, len(parts)) == (False, 1)
        clock.advance(0)
        assert (reading.called, len(parts)) == (True, 3)
        assert set(Scrape(b"".join(parts)).families) >= {f"slow{number}" for number in range(6)}

    def test_what_fails_is_left_out(self, logged_errors: LoggedErrors) -> None:
        server = Scraped()

        def broken() -> list[Metric]:
            raise ZeroDivisionError

        server.metrics.add(broken)
        server.metrics.add(lambda: [gauge("last", "The last one.", 1)])
        assert server.scrape()("last") == 1
        assert len(logged_errors(ZeroDivisionError)) == 1

    def test_what_has_to_be_renewed_is_waited_for(self) -> None:
        server, renewed = Scraped(), Deferred[None]()
        values = [1.0]

        async def renew() -> None:
            await renewed
            values[0] = 2.0

        server.metrics.add(lambda: [gauge("fresh", "Renewed.", values[0])], renew)
        connection = server.connect(LOOPBACK)
        connection.send(server.request("GET", PATH, token=None))
        assert connection.received() == b""
        renewed.callback(None)
        assert Scrape(whole(connection.received())[0].body)("fresh") == 2

    def test_other_methods(self) -> None:
        server = Scraped()
        connection = server.connect(LOOPBACK)
        connection.send(server.request("HEAD", PATH, token=None))
        assert connection.received().startswith(b"HTTP/1.1 200 OK\r\n")
        assert connection.received().endswith(b"\r\n\r\n")
        assert server.ask("POST", PATH, token=None, peer=LOOPBACK).refusal == (405, "method_not_allowed")

    def test_a_scraper_that_hangs_up_ends_it(self) -> None:
        server = Scraped()
        connection = server.connect(LOOPBACK)
        connection.send(server.request("GET", PATH, token=None))
        connection.hang_up()
        assert server.exchange.live == 0
        assert not [call for call in server.clock.getDelayedCalls() if call.getTime() <= server.clock.seconds()]


async def _read(metrics: Metrics, parts: list[bytes]) -> None:
    part = await metrics.text()
    while text := await part():
        parts.append(text)


class TestWho:
    """Only peers on loopback are told, whoever they are."""

    @pytest.mark.parametrize(
        ("address", "is_near"),
        [
            ("127.0.0.1", True),
            ("127.8.9.10", True),
            ("::1", True),
            ("::ffff:127.0.0.1", True),
            ("::ffff:192.0.2.7", False),
            ("192.0.2.7", False),
            ("10.0.0.1", False),
            ("0.0.0.0", False),
            ("2001:db8::1", False),
            ("unix", False),
            ("", False),
            ("localhost", False),
        ],
    )
    def test_addresses(self, address: str, is_near: bool) -> None:
        assert is_loopback(address) is is_near

    def test_peers(self) -> None:
        server = Scraped()
        for peer in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
            assert server.told(peer).status == 200
        for peer in ("192.0.2.7", "2001:db8::1", "::ffff:192.0.2.7"):
            assert server.ask("GET", PATH, token=None, peer=peer).refusal == (403, "forbidden")

    @pytest.mark.parametrize("role", ROLES)
    def test_nobodys_role_opens_or_shuts_it(self, role: Any) -> None:
        server = Scraped()
        token = {"anyone": None, "account": "own"}.get(role) or server.backend.log_in(role)
        assert server.ask("GET", PATH, token=token).refusal == (403, "forbidden")
        assert server.told(headers={"Authorization": "Bearer nonsense"}).status == 200

    def test_a_proxy_that_is_trusted_is_as_near_as_its_client(self) -> None:
        server = Scraped(MemoryBackend(Settings(trusted_proxies=("127.0.0.1",))))
        far = {"X-Forwarded-For": "203.0.113.9"}
        assert server.ask("GET", PATH, headers=far, token=None, peer=LOOPBACK).refusal == (403, "forbidden")
        forged = {"X-Forwarded-For": "127.0.0.1, 203.0.113.9"}
        assert server.ask("GET", PATH, headers=forged, token=None, peer=LOOPBACK).refusal == (403, "forbidden")
        assert server.told(headers={"X-Forwarded-For": "127.0.0.1"}).status == 200
        assert server.told().status == 200

    def test_nobody_else_is_believed(self) -> None:
        server = Scraped()
        near = {"X-Forwarded-For": "127.0.0.1"}
        assert server.ask("GET", PATH, headers=near, token=None).refusal == (403, "forbidden")

    def test_no_rate_limit(self) -> None:
        server = Scraped(limit=(2, 60))
        for _ in range(10):
            reply = server.told()
            assert (reply.status, reply.header("X-RateLimit-Limit")) == (200, None)
            refused = server.ask("GET", PATH, token=None)
            assert (refused.status, refused.header("X-RateLimit-Limit")) == (403, None)


class TestRequests:
    """Requests by route and status, and how long they took."""

    def test_by_route_and_status(self, adapter: str) -> None:
        server = Scraped(plain=adapter == "plain")
        for amount in (1, 2, 3, 0):
            server.credit(amount)
        server.ask("POST", "/api/credit", {}, token="nope")
        server.ask("GET", "/nothing/here")
        server.ask("DELETE", "/credit")
        server.ask("OPTIONS", "/credit")
        server.ask("GET", "/api/health/live")
        server.ask("GET", PATH)
        scrape = server.scrape()
        assert requests(scrape) == {
            ("POST", "/credit", "201"): 3,
            ("POST", "/credit", "422"): 1,
            ("POST", "/credit", "401"): 1,
            ("-", "-", "404"): 1,
            ("-", "-", "405"): 1,
            ("OPTIONS", "-", "204"): 1,
            ("GET", "/api/health/live", "200"): 1,
            ("GET", "/metrics", "403"): 1,
            ("GET", "/metrics", "200"): 1,  # this one
        }
        assert requests(server.scrape())["GET", "/metrics", "200"] == 2

    def test_what_a_client_writes_is_no_route(self) -> None:
        server = Scraped()
        account = server.account.account_id
        for path in (f"/api/accounts/{account}", f"/api/accounts/{account}?secret=1", "/x%22y", "/api/accounts/s3cret"):
            server.ask("GET", path)
        text = server.told().body.decode()
        assert 'route="/api/accounts/<id>"' in text
        assert not re.search(rf"{account}|secret|s3cret|x%22y", text)

    def test_how_long_they_took(self, adapter: str) -> None:
        waiting: list[Callable[[], None]] = []
        server = Scraped(MemoryBackend(later=waiting.append), plain=adapter == "plain")
        body = {"user_id": server.user_id, "amount": 1}
        for seconds in (0.002, 0.02, 0.7):
            connection = server.connect()
            connection.send(server.request("POST", "/credit", body))
            assert server.scrape()("ledger_http_requests_in_progress") == 1
            server.clock.advance(seconds)
            waiting.pop()()
        server.ask("GET", "/nothing")
        scrape = server.scrape()
        scrape.check_histograms()
        assert scrape("ledger_http_requests_in_progress") == 0
        name, route = "ledger_http_request_duration_seconds", {"method": "POST", "route": "/credit"}
        les = ("0.001", "0.0025", "0.025", "0.5", "1.0", "+Inf")
        assert [scrape(f"{name}_bucket", le=le, **route) for le in les] == [0, 1, 2, 2, 3, 3]
        assert scrape(f"{name}_sum", **route) == pytest.approx(0.722)
        assert scrape.values(f"{name}_count", route="-") == []  # nothing was done for it that took time


class TestPort:
    """What stands behind --metrics-listen."""

    @pytest.fixture
    def port(self) -> Scraped:
        """A server whose site is that of the port."""
        server = Scraped(limit=(2, 60))
        server.site = metrics_site(server.clock, server.backend, server.metrics, server.exchange.counts)
        return server

    def test_it_tells_everybody(self, port: Scraped) -> None:
        for peer in ("192.0.2.7", "127.0.0.1", "2001:db8::1"):
            assert port.told(peer).status == 200
        assert requests(port.scrape())["GET", PATH, "200"] == 4

    def test_it_serves_nothing_else(self, port: Scraped) -> None:
        assert port.ask("GET", "/api/health/live", token=None).json["status"] == "alive"
        others = all_endpoints(port.backend, port.clock.seconds)
        for endpoint in others:
            if endpoint.path not in (PATH, "/api/health/live"):
                reply = port.ask(endpoint.method, endpoint.path, peer=LOOPBACK)
                assert reply.refusal == (404, "resource_not_found"), endpoint.name
        assert len(others) > 50
        for path in ("/ws", "/docs", "/api/events"):
            assert port.ask("GET", path, peer=LOOPBACK).status == 404

    def test_counts_are_shared(self) -> None:
        counts, server = Counts(), Scraped()
        site = metrics_site(server.clock, server.backend, server.metrics, counts)
        server.site = site
        server.ask("GET", "/api/health/live")
        assert counts.requests == {("GET /api/health/live", 200): 1}


def test_the_document_says_that_it_is_text() -> None:
    document = openapi(all_endpoints(MemoryBackend(), lambda: NOW))
    operation = document["paths"][PATH]["get"]
    assert operation["responses"]["200"]["content"] == {"text/plain": {"schema": {"type": "string"}}}
    assert "application/json" in operation["responses"]["403"]["content"]
    assert "429" not in operation["responses"]
    assert operation["security"] == []

"""The live streams behind the real edge: their refusals and headers are those of every endpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from ledger.services.audit import AuditEvent
from tests.pubsub.server import Reader, asynchronous, until
from tests.pubsub.world import account
from tests.resources.live import ORIGIN, LiveServer
from tests.resources.test_conventions import SECURITY

HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
EVENTS = f"/api/events?topics=accounts:{account('alice1')}"
TOKEN = {"Authorization": "Bearer token-alice1"}


@pytest.fixture
def server() -> Iterator[LiveServer]:
    """The real site on loopback."""
    server = LiveServer()
    yield server
    pytest_twisted.blockon(Deferred.fromCoroutine(server.stop()))


async def refusal(reader: Reader) -> dict[str, Any]:
    """The error, after a look at everything around it."""
    await until(lambda: len(reader.body) == int(reader.headers["content-length"]))
    error: dict[str, Any] = json.loads(reader.body)["error"]
    assert error["code"] == reader.status
    assert error["correlation_id"] == reader.headers["x-correlation-id"]
    assert reader.headers["content-type"] == "application/json"
    assert {name: reader.headers[name.lower()] for name in SECURITY} == SECURITY
    assert "server" not in reader.headers
    return error


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-WebSocket-Key": "x"},
        {"Sec-WebSocket-Key": "\u00ff" * 24},
        {"Sec-WebSocket-Key": None},
        {"Connection": "keep-alive"},
        {"Connection": None},
        {"Sec-WebSocket-Version": "8"},
        {"Sec-WebSocket-Version": None},
        {"sec-websocket-version": "13"},  # twice
        {"Sec-WebSocket-Protocol": "a, a"},
        {"Sec-WebSocket-Extensions": "permessage-deflate; server_max_window_bits=99"},
        {"Origin": "nonsense"},
        {"Host": "localhost:x"},
        {"Upgrade": "h2c"},
    ],
    ids=str,
)
@asynchronous
async def test_no_valid_handshake_is_refused_like_any_request(
    server: LiveServer, headers: dict[str, str | None]
) -> None:
    lines = {**HANDSHAKE, "X-Correlation-ID": "mine", **headers}
    reader = await server.get("/ws", {name: value for name, value in lines.items() if value is not None})
    error = await refusal(reader)
    assert (reader.status, error["reason"], error["correlation_id"]) == (400, "invalid_request", "mine")
    reader.transport.loseConnection()
    assert len(server.world.sockets) == 0


@asynchronous
async def test_a_handshake_that_is_refused_ends_the_connection(server: LiveServer) -> None:
    reader = await server.get("/ws", {**HANDSHAKE, "Sec-WebSocket-Key": "x"})
    await refusal(reader)
    assert reader.headers["connection"] == "close"
    await until(lambda: reader.lost)


@pytest.mark.parametrize("given", ["mine", None])
@asynchronous
async def test_an_answer_that_begins_a_stream_carries_the_standard_headers(
    server: LiveServer, given: str | None
) -> None:
    own = {} if given is None else {"X-Correlation-ID": given}
    for path, headers, status in (("/ws", HANDSHAKE, 101), (EVENTS, TOKEN, 200)):
        reader = await server.get(path, {**headers, **own, "Origin": ORIGIN})
        assert reader.status == status
        correlation_id = reader.headers["x-correlation-id"]
        assert correlation_id == given or len(correlation_id) == 32
        assert {name: reader.headers[name.lower()] for name in SECURITY} == SECURITY
        assert reader.headers["access-control-allow-origin"] == ORIGIN
        assert "server" not in reader.headers
        reader.transport.abortConnection()


@pytest.mark.parametrize("path", ["/api/events", EVENTS, "/ws"])
@asynchronous
async def test_other_methods(server: LiveServer, path: str) -> None:
    reader = await server.get(path, {"Origin": ORIGIN, "Access-Control-Request-Headers": "last-event-id"}, "OPTIONS")
    assert (reader.status, reader.body) == (204, b"")
    assert reader.headers["allow"] == "GET, OPTIONS"
    assert reader.headers["access-control-allow-origin"] == ORIGIN
    assert reader.headers["access-control-allow-methods"] == "GET, OPTIONS"
    accepted = reader.headers["access-control-allow-headers"].split(", ")
    assert {"Authorization", "Last-Event-ID"} <= set(accepted)
    assert {name: reader.headers[name.lower()] for name in SECURITY} == SECURITY
    for method in ("POST", "PUT", "FOO"):
        reader = await server.get(path, {"Content-Length": "0"}, method)
        assert (await refusal(reader))["reason"] == "method_not_allowed"
        assert (reader.status, reader.headers["allow"]) == (405, "GET, OPTIONS")
    reader = await server.get(path, method="HEAD")
    assert reader.status == 405


@asynchronous
async def test_what_is_refused_on_a_socket_is_written_down(server: LiveServer) -> None:
    headers = {"X-Forwarded-For": "203.0.113.1", "X-Correlation-ID": "mine"}
    client = await server.websocket(headers)
    client.say({"type": "auth", "token": "nonsense"})
    assert (await client.next())["reason"] == "invalid_token"
    client.say({"type": "auth", "token": "token-alice1"})
    assert (await client.subscribe("balance_updated"))["reason"] == "insufficient_permissions"
    assert (await client.subscribe("nonsense"))["reason"] == "resource_not_found"
    refused = await server.websocket({**headers, "Authorization": "Bearer nonsense"})
    assert await refused.closed() == 4401
    there = ("203.0.113.1", "mine")
    assert server.audited == [
        AuditEvent("authentication_failed", "invalid_token", "GET /ws", None, None, *there),
        AuditEvent("authorization_failed", "insufficient_permissions", "GET /ws", "account", account("alice1"), *there),
        AuditEvent("authentication_failed", "invalid_token", "GET /ws", None, None, *there),
    ]


@asynchronous
async def test_a_socket_has_one_correlation_id(server: LiveServer) -> None:
    reader = await server.get("/ws", {**HANDSHAKE, "Authorization": "Bearer nonsense"})
    assert reader.status == 101
    await until(lambda: server.audited)
    assert server.audited[0].correlation_id == reader.headers["x-correlation-id"]
    reader.transport.abortConnection()


@asynchronous
async def test_what_is_refused_before_a_stream(server: LiveServer) -> None:
    reader = await server.get(EVENTS, {"Authorization": "Bearer nonsense"})
    assert (await refusal(reader))["reason"] == "invalid_token"
    assert reader.headers["www-authenticate"] == "Bearer"


class TestLimited:
    """How often streams and sockets may be opened, and what is written down of those that may not."""

    @pytest.fixture
    def server(self) -> Iterator[LiveServer]:
        """A server that takes three requests a minute of each client."""
        server = LiveServer(limit=(3, 60))
        yield server
        pytest_twisted.blockon(Deferred.fromCoroutine(server.stop()))

    @asynchronous
    async def test_streams_count_as_their_accounts(self, server: LiveServer) -> None:
        """Whether they are opened or not, and wherever they come from."""
        for left, topic in ((2, EVENTS), (1, "/api/events?topics=balance_updated"), (0, "/api/events")):
            reader = await server.get(topic, {**TOKEN, "X-Forwarded-For": f"203.0.113.{left}"})
            assert (reader.headers["x-ratelimit-limit"], reader.headers["x-ratelimit-remaining"]) == ("3", str(left))
            assert int(reader.headers["x-ratelimit-reset"]) > 0
        reader = await server.get(EVENTS, {**TOKEN, "X-Forwarded-For": "203.0.113.9", "X-Correlation-ID": "mine"})
        error = await refusal(reader)
        assert (reader.status, error["reason"]) == (429, "rate_limit_exceeded")
        assert 50 <= int(reader.headers["retry-after"]) == error["details"]["retry_after"] <= 60
        assert reader.headers["x-ratelimit-remaining"] == "0"
        forbidden, limited = server.audited
        alice1 = account("alice1")
        assert forbidden.reason == "insufficient_permissions"
        assert (forbidden.endpoint, forbidden.actor_id) == ("GET /api/events", alice1)
        assert limited == AuditEvent(
            "rate_limited", "rate_limit_exceeded", "GET /api/events", "account", alice1, "203.0.113.9", "mine"
        )
        other = await server.get(EVENTS, {"Authorization": "Bearer token-admin", "X-Forwarded-For": "203.0.113.9"})
        assert (other.status, other.headers["x-ratelimit-remaining"]) == (200, "2")
        assert len(server.world.sockets) == 2

    @asynchronous
    async def test_whoever_is_not_known_counts_as_the_address(self, server: LiveServer) -> None:
        """And is written down."""
        there = {"X-Forwarded-For": "203.0.113.1", "X-Correlation-ID": "mine"}
        for token in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic x"}):
            reader = await server.get(EVENTS, {**there, **token})
            assert (await refusal(reader))["reason"] == "invalid_token"
        reader = await server.get(EVENTS, there)
        assert (await refusal(reader))["reason"] == "rate_limit_exceeded"
        assert (await server.get(EVENTS, {**there, **TOKEN})).status == 200
        known = ("GET /api/events", None, None, "203.0.113.1", "mine")
        assert server.audited == [
            *[AuditEvent("authentication_failed", "invalid_token", *known)] * 3,
            AuditEvent("rate_limited", "rate_limit_exceeded", *known),
        ]

    @asynchronous
    async def test_handshakes_count_as_their_addresses(self, server: LiveServer) -> None:
        """Those that are none too."""
        there = {"X-Forwarded-For": "203.0.113.1"}
        reader = await server.get("/ws", {**HANDSHAKE, **there})
        assert (reader.status, reader.headers["x-ratelimit-remaining"]) == (101, "2")
        reader.transport.abortConnection()
        for number, headers in enumerate(({"Sec-WebSocket-Key": "x"}, {"Upgrade": "h2c"})):
            reader = await server.get("/ws", {**HANDSHAKE, **there, **headers})
            assert (reader.status, reader.headers["x-ratelimit-remaining"]) == (400, str(1 - number))
        for headers in (HANDSHAKE, {}):
            reader = await server.get("/ws", {**there, **headers})
            assert (await refusal(reader))["reason"] == "rate_limit_exceeded"
            assert reader.headers["retry-after"]
        assert {event.endpoint for event in server.audited} == {"GET /ws"}
        reader = await server.get("/ws", {**HANDSHAKE, "X-Forwarded-For": "203.0.113.2"})
        assert reader.status == 101
        reader.transport.abortConnection()

    @asynchronous
    async def test_other_methods_count_too(self, server: LiveServer) -> None:
        """As any request that reaches nothing."""
        for path in ("/ws", EVENTS, "/ws"):
            assert (await server.get(path, {"Content-Length": "0"}, "POST")).status == 405
        assert (await server.get(EVENTS, {"Content-Length": "0"}, "POST")).status == 429

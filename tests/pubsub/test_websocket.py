"""WebSockets, with real sockets."""

from __future__ import annotations

import os
import statistics
import struct
import time
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults

from ledger.domain.accounts import Owner
from ledger.domain.errors import unavailable
from ledger.pubsub.sockets import Sockets
from tests.pubsub.server import Server, asynchronous, pause, until
from tests.pubsub.world import ASSET, account, expected, identity, record

ALL, ALICE1 = "balance_updated", f"accounts:{account('alice1')}"
ADMIN = {"Authorization": "Bearer token-admin"}
BROWSER = {"Origin": "https://example.org"}


def places(messages: Any) -> list[tuple[str, int, int]]:
    return [(m["topic"], m["seq"], m["part"]) for m in messages if m["type"] == ALL]


@asynchronous
async def test_a_browser_authenticates_by_message(server: Server) -> None:
    client = await server.websocket(BROWSER)
    client.say({"type": "auth", "token": "token-alice1"})
    assert await client.subscribe(ALICE1) == {"type": "subscribed", "topic": ALICE1, "seq": 0}
    server.world.commit("alice1")
    update = await client.next()
    assert (update["type"], update["seq"], update["data"]["balance"]) == (ALL, 1, "1.00")
    client.say({"type": "ping"})
    assert await client.next() == {"type": "pong"}


@asynchronous
async def test_the_header_authenticates(server: Server) -> None:
    client = await server.websocket({"Authorization": "Bearer token-alice1", **BROWSER})
    assert (await client.subscribe(ALICE1))["type"] == "subscribed"
    refused = await client.subscribe(ALL)
    assert (refused["type"], refused["reason"], refused["topic"]) == ("error", "insufficient_permissions", ALL)


@asynchronous
async def test_a_bad_header_is_told_and_closed(server: Server) -> None:
    client = await server.websocket({"Authorization": "Bearer nonsense"})
    assert (await client.next())["reason"] == "invalid_token"
    assert await client.closed() == 4401


@pytest.mark.parametrize("headers", [{}, BROWSER, {"X-Forwarded-For": "127.0.0.1"}], ids=str)
@asynchronous
async def test_without_a_token_nobody_is_anybody(server: Server, headers: dict[str, str]) -> None:
    """Not even on this machine."""
    client = await server.websocket(headers)
    assert (await client.subscribe(ALL))["reason"] == "invalid_token"


@pytest.mark.parametrize("role", ["admin", "support"])
@asynchronous
async def test_everything_is_for_admins_and_support(server: Server, role: str) -> None:
    client = await server.websocket({"Authorization": f"Bearer token-{role}"})
    assert (await client.subscribe(ALL))["type"] == "subscribed"


@asynchronous
async def test_a_handshake_that_ends_when_there_is_no_place_any_more_is_closed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sockets, "admit", lambda _sockets: None)  # as it was when the handshake began
    monkeypatch.setattr(Sockets, "add", refuse)
    client = await server.websocket(ADMIN)
    assert await client.closed() == 4503
    assert len(server.world.sockets) == 0


def refuse(*_given: Any, **_more: Any) -> None:
    """There is no place."""
    raise unavailable()


@asynchronous
async def test_whoever_does_not_authenticate_is_closed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.pubsub.session.PATIENCE", 0.2)
    client = await server.websocket(BROWSER)
    assert await client.closed() == 4401


@asynchronous
async def test_a_revoked_token_closes(server: Server) -> None:
    client = await server.websocket({"Authorization": "Bearer token-alice1"})
    await client.subscribe(ALICE1)
    server.world.tokens.revoke("token-alice1")
    assert await client.closed() == 4401


@asynchronous
async def test_bad_messages_leave_the_connection_open(server: Server) -> None:
    client = await server.websocket()
    client.sendMessage(b"{")
    client.sendMessage(b'{"type": "ping"}', isBinary=True)
    client.sendMessage(b"[" * 60_000)
    client.say({"type": "dance"})
    assert [(await client.next())["reason"] for _ in range(4)] == ["invalid_request"] * 4
    client.say({"type": "ping"})
    assert await client.next() == {"type": "pong"}


@asynchronous
async def test_too_large_a_message_closes(server: Server) -> None:
    client = await server.websocket()
    client.sendMessage(b"x" * 70_000)
    assert await client.closed() == 1009


@asynchronous
async def test_messages_are_never_compressed(server: Server) -> None:
    reader = await server.get(
        "/ws",
        {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Extensions": "permessage-deflate",
        },
    )
    assert reader.status == 101
    assert "sec-websocket-extensions" not in reader.headers
    assert "server" not in reader.headers
    reader.transport.abortConnection()


@pytest.mark.parametrize(
    ("method", "headers", "status", "reason"),
    [
        ("GET", {}, 400, "invalid_request"),
        ("POST", {"Content-Length": "0"}, 405, "method_not_allowed"),
        (
            "GET",
            {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "8"},
            400,
            "invalid_request",
        ),
    ],
)
@asynchronous
async def test_what_is_no_handshake_is_refused_like_any_request(
    server: Server, method: str, headers: dict[str, str], status: int, reason: str
) -> None:
    reader = await server.get("/ws?redirect=https://example.org", headers, method)
    assert reader.status == status
    await until(lambda: reason.encode() in reader.body)
    assert "location" not in reader.headers


@asynchronous
async def test_strangers_are_limited(server: Server) -> None:
    server.world.sockets._most_strangers = 3
    strangers = [await server.websocket(BROWSER) for _ in range(3)]
    with pytest.raises(ConnectionError, match="503"):
        await server.websocket(BROWSER)
    strangers[0].say({"type": "auth", "token": "token-bob"})
    await until(lambda: server.world.sockets.strangers == 2)
    await server.websocket(BROWSER)
    strangers[1].transport.abortConnection()
    await until(lambda: server.world.sockets.strangers == 2)


@asynchronous
async def test_a_long_replay_turns_live_without_a_gap(server: Server) -> None:
    world = server.world
    world.feed.committed([world.journal.commit("alice1", "bob") for _ in range(15_000)])
    await until(lambda: world.feed.published == 15_000)
    client = await server.websocket(ADMIN)
    await client.subscribe(ALL, since=10)
    while len(world.journal.records) < 15_200:
        world.commit("alice1", "bob")
        await pause(0.001)
    await until(lambda: client.messages and client.messages[-1]["seq"] == 15_200)
    assert places(client.messages) == expected(world.journal.records[10:], ALL)


@asynchronous
async def test_a_replay_goes_no_faster_than_it_is_read(server: Server) -> None:
    world = server.world
    world.feed.committed([world.journal.commit("bob") for _ in range(40_000)])
    await until(lambda: world.feed.published == 40_000)
    client = await server.websocket(ADMIN, small=True)
    client.transport.pauseProducing()
    client.say({"type": "subscribe", "topic": ALL, "since": 0})
    session: Any = next(iter(world.sockets._open))
    await until(lambda: not session._outlet.is_open)
    transport = session._line.transport
    for _ in range(50):
        assert len(transport.dataBuffer) + transport._tempDataLen < 500_000
        await pause(0.002)
    client.transport.resumeProducing()
    await until(lambda: client.messages and client.messages[-1]["seq"] == 40_000, 60)
    assert places(client.messages) == expected(world.journal.records, ALL)


@asynchronous
async def test_a_slow_reader_is_closed_and_resumes(server: Server) -> None:
    world = server.world
    client = await server.websocket(ADMIN, small=True)
    other = await server.websocket(ADMIN)
    await client.subscribe(ALL)
    await other.subscribe(ALL)
    client.transport.pauseProducing()
    slow: Any = next(iter(world.sockets._open))
    while not slow._closed:
        assert len(world.journal.records) < 200_000
        world.feed.committed([world.journal.commit("bob") for _ in range(200)])
        # Who is not the slow one keeps up.
        await until(lambda: other.messages and other.messages[-1]["seq"] > len(world.journal.records) - 1_000)
    client.transport.resumeProducing()
    assert await client.closed() == 4408
    again = await server.websocket(ADMIN)
    seen = places(client.messages)
    await again.subscribe(ALL, since=f"{seen[-1][1]}:{seen[-1][2]}")
    last = len(world.journal.records)
    await until(lambda: again.messages and again.messages[-1]["seq"] == last, 60)
    assert seen + places(again.messages) == expected(world.journal.records, ALL)
    await until(lambda: other.messages[-1]["seq"] == last)
    assert places(other.messages) == expected(world.journal.records, ALL)


@asynchronous
async def test_a_flood_of_questions_that_is_not_read_is_cut(server: Server) -> None:
    client = await server.websocket(ADMIN, small=True)
    client.transport.pauseProducing()
    session: Any = next(iter(server.world.sockets._open))
    for _ in range(3_000):
        for _ in range(100):
            client.say({"type": "nonsense " + "x" * 500})
        await pause(0)
        if session._closed:
            break
    assert session._closed
    client.transport.abortConnection()


@asynchronous
async def test_a_client_that_vanishes_leaves_nothing_behind(server: Server) -> None:
    client = await server.websocket({"Authorization": "Bearer token-alice1"})
    await client.subscribe(ALICE1)
    client.transport.abortConnection()
    await until(lambda: len(server.world.sockets) == 0)
    assert server.world.tokens.watches == []
    assert not server.world.hub._accounts


@asynchronous
async def test_an_idle_connection_outlives_the_timeout_of_requests() -> None:
    server = Server(timeout=0.2)
    try:
        client = await server.websocket(ADMIN)
        await client.subscribe(ALL)
        await pause(0.6)
        server.world.commit("bob")
        assert (await client.next())["seq"] == 1
    finally:
        await server.stop()


@asynchronous
async def test_stopping_closes_all_with_a_code(server: Server) -> None:
    clients = [await server.websocket() for _ in range(5)]
    began = time.monotonic()
    await server.world.sockets.close_all()
    assert time.monotonic() - began < 4
    assert [await client.closed() for client in clients] == [4503] * 5


@asynchronous
async def test_stopping_does_not_wait_for_those_who_do_not_answer(server: Server) -> None:
    client = await server.websocket()
    client.transport.pauseProducing()
    await server.world.sockets.close_all(deadline=0.2)
    assert len(server.world.sockets) == 0
    client.transport.abortConnection()


@asynchronous
async def test_wild_bytes_after_the_handshake_only_close(server: Server) -> None:
    for wild in (os.urandom(200), struct.pack("!BBQ", 0x81, 0xFF, 2**62), b"\x8a\x80abcd" * 100, b"\xff" * 1000):
        client = await server.websocket()
        client.transport.write(wild)
        await pause(0.01)
        client.transport.abortConnection()
    await until(lambda: len(server.world.sockets) == 0)


@asynchronous
async def test_a_thousand_subscribers(server: Server) -> None:
    world = server.world
    owners = {
        identity("account", number): Owner(identity("account", number), identity("user", number), ASSET, False)
        for number in range(1000, 2000)
    } | world.context.directory.owners  # type: ignore[attr-defined]
    world.context.directory.owners = owners  # type: ignore[attr-defined]
    clients: list[Any] = []
    for _ in range(10):
        clients += await gatherResults([Deferred.fromCoroutine(server.websocket(ADMIN)) for _ in range(100)])
    for number, client in enumerate(clients, 1000):
        client.say({"type": "subscribe", "topic": f"accounts:{identity('account', number)}"})
    await until(lambda: all(client.messages for client in clients))
    sent: dict[int, float] = {}
    for burst in range(20):
        batch = [
            record(seq, identity("account", 1000 + (seq - 1) % 1000), owners=owners)
            for seq in range(burst * 100 + 1, burst * 100 + 101)
        ]
        world.journal.records += batch
        for committed in batch:
            sent[committed.seq] = time.monotonic()
        world.feed.committed(batch)
        await pause(0.05)
    await until(lambda: all(len(client.messages) == 3 for client in clients))
    delays = []
    for number, client in enumerate(clients):
        messages = list(client.messages)[1:]
        assert [m["seq"] for m in messages] == [number + 1, number + 1001]
        delays += [arrival - sent[m["seq"]] for m, arrival in zip(messages, list(client.arrivals)[1:], strict=True)]
    assert statistics.median(delays) < 0.5  # in one process with its thousand clients; milliseconds when undisturbed
    for client in clients:
        client.messages.clear()
        client.say({"type": "subscribe", "topic": ALL})
    await until(lambda: all(client.messages for client in clients))
    world.commit("bob")
    await until(lambda: all(len(client.messages) == 2 for client in clients))
    assert {client.messages[1]["seq"] for client in clients} == {2001}

"""Server-sent events, with real sockets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ledger.pubsub.sse import Stream
from ledger.pubsub.topics import Grant, read_topic
from tests.pubsub.server import Reader, Server, asynchronous, pause, until
from tests.pubsub.world import TOPICS, USERS, World, account, done, expected

ALL, ALICES, ALICE1 = TOPICS
ALICE1_TOKEN = {"Authorization": "Bearer token-alice1"}
ADMIN = {"Authorization": "Bearer token-admin"}


def path(*topics: str) -> str:
    return f"/api/events?topics={','.join(topics)}"


def heard(reader: Reader) -> list[tuple[str, int, int]]:
    messages = [json.loads(event["data"]) for event in reader.events]
    return [(m["topic"], m["seq"], m["part"]) for m in messages]


@asynchronous
async def test_a_stream_of_events(server: Server) -> None:
    world = server.world
    world.commit("bob")
    await until(lambda: world.feed.published == 1)
    reader = await server.get(path(ALICE1), ALICE1_TOKEN)
    assert reader.status == 200
    assert reader.headers["content-type"] == "text/event-stream"
    assert reader.headers["cache-control"] == "no-store"
    assert reader.headers["x-correlation-id"] == "c0ffee"
    await until(lambda: reader.blocks)
    assert reader.blocks[0]["id"] == "1"
    world.commit("alice1", "alice1")
    await until(lambda: len(reader.events) == 2)
    assert [event["id"] for event in reader.events] == ["2:0", "2:1"]
    message = json.loads(reader.events[1]["data"])
    assert (message["type"], message["topic"], message["seq"], message["part"]) == (ALL, ALICE1, 2, 1)
    assert message["data"]["account_id"] == account("alice1")


@asynchronous
async def test_several_topics_resume_from_every_event(server: Server) -> None:
    world = server.world
    for _ in range(3):
        world.commit("alice1", "bob", "alice2", changes=["alice1"])
    whole = await server.get(path(*TOPICS), {**ADMIN, "Last-Event-ID": "0"})
    wanted = expected(world.journal.records, *TOPICS)
    await until(lambda: len(whole.events) == len(wanted))
    assert heard(whole) == wanted
    ids = [event["id"] for event in whole.events]
    assert len(set(ids)) == len(ids)
    for place, last in enumerate(ids, 1):
        reader = await server.get(path(*reversed(TOPICS)), {**ADMIN, "Last-Event-ID": last})
        missing = len(wanted) - place
        await until(lambda reader=reader, missing=missing: len(reader.events) == missing and reader.blocks)  # type: ignore[misc]
        assert heard(reader) == wanted[place:]


@asynchronous
async def test_an_account_token_sees_its_own(server: Server) -> None:
    reader = await server.get(path(ALICES, ALICE1), ALICE1_TOKEN)
    await until(lambda: reader.blocks)
    server.world.commit("alice2", "alice1")
    await until(lambda: len(reader.events) == 2)
    assert heard(reader) == [(ALICE1, 1, 0), (ALICES, 1, 1)]
    assert [event["id"] for event in reader.events] == ["1:0", "1:2"]


@pytest.mark.parametrize(
    ("where", "headers", "status", "reason"),
    [
        (path(ALICE1), {"Origin": "https://example.org"}, 401, "invalid_token"),
        (path(ALICE1), {"Authorization": "Bearer nonsense"}, 401, "invalid_token"),
        (path(ALICE1), {"Authorization": "Basic abc"}, 401, "invalid_token"),
        (path(ALICE1), {}, 401, "invalid_token"),
        ("/api/events", ALICE1_TOKEN, 400, "missing_fields"),
        (path(" ", ""), ALICE1_TOKEN, 400, "missing_fields"),
        (path("users:7"), ALICE1_TOKEN, 400, "invalid_uuid_format"),
        (path("%ff"), ALICE1_TOKEN, 404, "resource_not_found"),
        (path(ALICE1, ALL), ALICE1_TOKEN, 403, "insufficient_permissions"),
        (path(f"users:{USERS['bob']}"), ALICE1_TOKEN, 403, "unauthorized_access"),
        (path(ALICE1), {**ALICE1_TOKEN, "Last-Event-ID": "x"}, 400, "invalid_cursor"),
        (path(ALICE1), {**ALICE1_TOKEN, "Last-Event-ID": "9:0"}, 400, "invalid_cursor"),
    ],
)
@asynchronous
async def test_what_is_refused_before_the_stream(
    server: Server, where: str, headers: dict[str, str], status: int, reason: str
) -> None:
    reader = await server.get(where.replace(" ", "+"), headers)
    await until(lambda: b"}}" in reader.body)
    assert (reader.status, json.loads(reader.body)["error"]["reason"]) == (status, reason)
    assert len(server.world.sockets) == 0
    assert server.world.tokens.watches == []


@asynchronous
async def test_other_methods_are_refused(server: Server) -> None:
    reader = await server.get(path(ALL), {"Content-Length": "0"}, "POST")
    assert reader.status == 405


@asynchronous
async def test_a_revoked_token_ends_the_stream(server: Server) -> None:
    reader = await server.get(path(ALICE1), ALICE1_TOKEN)
    await until(lambda: reader.blocks)
    server.world.tokens.revoke("token-alice1")
    await until(lambda: len(reader.blocks) == 2)
    assert json.loads(reader.blocks[1]["data"])["code"] == 4401
    await until(lambda: len(server.world.sockets) == 0)
    await until(lambda: reader.received.endswith(b"0\r\n\r\n"))


@asynchronous
async def test_a_token_that_stops_while_the_stream_opens_is_refused(server: Server) -> None:
    journal = server.world.journal
    journal.commit("bob")  # committed elsewhere, so that the journal's head must be read
    journal.slow = True
    opening = Deferred.fromCoroutine(server.get(path(ALICE1), {**ALICE1_TOKEN, "Last-Event-ID": "1"}))
    await until(lambda: journal._waiting)
    server.world.tokens.revoke("token-alice1")
    journal.release()
    reader = await opening
    await until(lambda: b"}}" in reader.body)
    assert (reader.status, json.loads(reader.body)["error"]["reason"]) == (401, "invalid_token")
    assert len(server.world.sockets) == 0
    assert server.world.tokens.watches == []


@pytest.mark.parametrize("where", ["token", "journal"])
@asynchronous
async def test_a_client_that_vanishes_while_the_stream_opens_leaves_nothing_behind(server: Server, where: str) -> None:
    world = server.world
    world.journal.commit("bob")
    world.journal.slow = True
    held: Deferred[None] = Deferred()
    world.tokens.pending = held if where == "token" else None
    opening = Deferred.fromCoroutine(server.get(path(ALICE1), {**ALICE1_TOKEN, "Last-Event-ID": "1"}))
    await until(lambda: world.tokens.waiting if where == "token" else world.journal._waiting)
    server.clients[0].transport.abortConnection()
    await until(lambda: server.clients[0].lost)
    await pause(0.05)
    held.callback(None)
    world.journal.release()
    server.clients[0].received += b"\r\n\r\n"  # what `get` waits for
    await opening
    assert len(world.sockets) == 0
    assert world.tokens.watches == []


@asynchronous
async def test_request_headers_of_any_bytes(server: Server) -> None:
    wild = {**ADMIN, "User-Agent": "\u00ff\u00fe", "Cookie": "\u0080", "X-Anything": "\u00e9"}
    reader = await server.get(path(ALL), wild)
    assert reader.status == 200
    statuses = {"Authorization": 401, "Last-Event-ID": 400, "Host": 200, "Origin": 200, "X-Forwarded-For": 200}
    for name, status in statuses.items():
        reader = await server.get(path(ALICE1), {**ALICE1_TOKEN, name: "Bearer \u00ff\u00fe"})
        assert reader.status == status


@pytest.mark.parametrize("last", ["1:1", "2:0"])
@asynchronous
async def test_the_first_id_is_the_place_that_was_asked_for(server: Server, last: str) -> None:
    """Whoever comes back with it, having seen nothing else, loses nothing."""
    for _ in range(2):
        server.world.commit("alice1", "alice1", "alice1")
    await until(lambda: server.world.feed.published == 2)
    for _ in range(2):
        reader = await server.get(path(ALICE1), {**ALICE1_TOKEN, "Last-Event-ID": last})
        await until(lambda reader=reader: reader.events)  # type: ignore[misc]
        assert reader.blocks[0]["id"] == last
        seq, part = last.split(":")
        assert reader.events[0]["id"] == f"{seq}:{int(part) + 1}"
        last = reader.blocks[0]["id"]


@asynchronous
async def test_stopping_ends_the_streams(server: Server) -> None:
    readers = [await server.get(path(ALL), ADMIN) for _ in range(3)]
    await until(lambda: len(server.world.sockets) == 3)
    await server.world.sockets.close_all()
    for reader in readers:
        await until(lambda reader=reader: reader.received.endswith(b"0\r\n\r\n"))  # type: ignore[misc]
        assert json.loads(reader.blocks[-1]["data"])["code"] == 4503


@asynchronous
async def test_a_client_that_vanishes_leaves_nothing_behind(server: Server) -> None:
    reader = await server.get(path(ALICE1), ALICE1_TOKEN)
    await until(lambda: reader.blocks)
    reader.transport.abortConnection()
    await until(lambda: len(server.world.sockets) == 0)
    assert server.world.tokens.watches == []
    assert not server.world.hub._accounts


@asynchronous
async def test_an_idle_stream_outlives_the_timeout_of_requests() -> None:
    server = Server(timeout=0.2)
    try:
        reader = await server.get(path(ALL), ADMIN)
        await pause(0.6)
        server.world.commit("bob")
        await until(lambda: reader.events)
        assert heard(reader) == [(ALL, 1, 0)]
    finally:
        await server.stop()


@asynchronous
async def test_a_stream_goes_no_faster_than_it_is_read(server: Server) -> None:
    world = server.world
    world.feed.committed([world.journal.commit("bob") for _ in range(20_000)])
    await until(lambda: world.feed.published == 20_000)
    reader = await server.get(path(ALL), {**ADMIN, "Last-Event-ID": "0"})
    reader.transport.pauseProducing()
    stream: Any = next(iter(world.sockets._open))
    await until(lambda: not stream.outlet.is_open)
    transport = stream._request.channel.transport
    for _ in range(50):
        assert len(transport.dataBuffer) + transport._tempDataLen < 500_000
        await pause(0.002)
    reader.transport.resumeProducing()
    await until(lambda: b"id: 20000:0\n" in reader.received[-2000:], 60)
    assert heard(reader) == expected(world.journal.records, ALL)


class FakeRequest:
    """A request whose client reads nothing."""

    startedWriting = 0
    channel: Any = None

    def __init__(self) -> None:
        self.written = b""
        self.aborted = 0
        self.channel = self

    def notifyFinish(self) -> Any:
        return self

    def addBoth(self, callback: Callable[[Any], Any]) -> None:
        self.lost = callback

    def setHeader(self, name: bytes, value: bytes) -> None:
        assert name
        assert value

    def write(self, data: bytes) -> None:
        self.startedWriting = 1
        self.written += data

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def forceAbortClient(self) -> None:
        self.aborted += 1
        self.lost(None)


def streaming() -> tuple[World, FakeRequest]:
    world = World(Clock())
    world.start()
    request = FakeRequest()
    stream = Stream(world.context, request)
    stream.begin(done(world.feed.follow([Grant(read_topic(ALL))], None, stream.outlet)), [])
    return world, request


def test_a_quiet_stream_has_a_heartbeat() -> None:
    world, request = streaming()
    assert request.written == b"retry: 1000\nid: 0\n\n"
    request.written = b""
    for beats in range(1, 11):
        world.clock.advance(15)
        assert request.written == b": still here\n\n" * beats
    assert request.aborted == 0


def test_a_stream_that_nobody_reads_is_cut() -> None:
    world, request = streaming()
    request.producer.pauseProducing()
    world.commit("bob")
    world.settle(46)
    assert request.aborted == 0
    request.producer.resumeProducing()
    world.settle(1)
    assert b"id: 1:0\n" in request.written
    request.producer.pauseProducing()
    world.settle(80)
    assert request.aborted == 1
    assert len(world.sockets) == 0
    assert world.clock.getDelayedCalls() == []


def test_a_stream_that_falls_too_far_behind_is_cut() -> None:
    world, request = streaming()
    request.producer.pauseProducing()
    world.feed.committed([world.journal.commit("bob") for _ in range(10_001)])
    world.settle()
    assert request.aborted == 1

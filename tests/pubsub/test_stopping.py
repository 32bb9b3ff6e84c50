"""An event stream whose client is still being recognised when the server stops."""

from __future__ import annotations

import json

import pytest
from twisted.internet.defer import Deferred

from ledger.domain.policy import Caller
from tests.pubsub.server import Server, asynchronous, until
from tests.pubsub.world import TOPICS, World


@asynchronous
async def test_a_stream_admitted_before_the_stop_does_not_begin_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    world: World = server.world
    known: Deferred[None] = Deferred()
    asked: list[str] = []
    find = world.tokens.authenticate

    async def authenticate(token: str) -> Caller:
        asked.append(token)
        await known
        return await find(token)

    monkeypatch.setattr(world.tokens, "authenticate", authenticate)
    try:
        request = Deferred.fromCoroutine(
            server.get(f"/api/events?topics={TOPICS[2]}", {"Authorization": "Bearer token-alice1"})
        )
        await until(lambda: asked)
        await world.sockets.close_all()
        known.callback(None)
        reader = await request
        await until(lambda: b"}}" in reader.body)
        assert (reader.status, json.loads(reader.body)["error"]["reason"]) == (503, "service_unavailable")
        assert len(world.sockets) == 0
        assert world.tokens.watches == []
        assert not world.hub._accounts
    finally:
        await server.stop()

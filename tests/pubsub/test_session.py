"""The conversation with a WebSocket client, without a socket."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred

from ledger.pubsub.event import Event
from ledger.pubsub.session import MOST_TOPICS, Session
from tests.cleanliness import LoggedErrors
from tests.pubsub.world import ALICE, USERS, World, account, identity

ALL, ALICES, ALICE1 = "balance_updated", f"users:{USERS[ALICE]}", f"accounts:{account('alice1')}"


class Client:
    """The other end of a session: what was sent to it, and how it was closed."""

    def __init__(self, world: World, authorization: str | None = None, *, operator: bool = False) -> None:
        self.world = world
        self.messages: list[dict[str, Any]] = []
        self.closed: list[int] = []
        self.held = False
        self.aborted = False
        self.session = Session(world.context, self)
        self.session.opened(authorization, operator)

    def say(self, message: object, *, binary: bool = False) -> None:
        """Send something to the server."""
        self.session.received(message if isinstance(message, bytes) else msgspec.json.encode(message), binary)

    def subscribe(self, topic: str, **more: object) -> None:
        """Ask for a topic."""
        self.say({"type": "subscribe", "topic": topic, **more})

    def news(self) -> list[dict[str, Any]]:
        """What came since the last time."""
        self.world.settle(0.02)
        messages, self.messages = self.messages, []
        return messages

    def events(self) -> list[tuple[str, int, int]]:
        """The events that came since the last time."""
        return [(m["topic"], m["seq"], m["part"]) for m in self.news() if m["type"] == ALL]

    def refusals(self) -> list[str]:
        """The reasons of the errors that came since the last time."""
        return [m["reason"] for m in self.news() if m["type"] == "error"]

    def send(self, message: bytes) -> None:
        self.messages.append(msgspec.json.decode(message))

    def deliver(self, event: Event) -> None:
        self.send(event.message)

    def hold(self, held: bool) -> None:
        self.held = held

    def close(self, code: int, reason: str) -> None:
        assert reason
        self.closed.append(code)

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
def world() -> World:
    world = World()
    world.start()
    return world


def test_a_first_message_authenticates(world: World) -> None:
    client = Client(world)
    assert world.sockets.strangers == 1
    client.say({"type": "auth", "token": "token-alice1"})
    client.subscribe(ALICE1)
    assert client.news() == [{"type": "subscribed", "topic": ALICE1, "seq": 0}]
    world.commit("alice1")
    (update,) = client.news()
    assert list(update) == ["type", "topic", "seq", "part", "data"]
    assert list(update["data"]) == [
        "user_id",
        "account_id",
        "currency",
        "balance",
        "available",
        "version",
        "transfer_id",
        "transaction",
        "timestamp",
    ]
    assert (update["topic"], update["seq"], update["part"], update["data"]["balance"]) == (ALICE1, 1, 0, "1.00")
    assert world.sockets.strangers == 0
    world.settle(60)
    assert client.closed == []


def test_the_header_authenticates(world: World) -> None:
    client = Client(world, "Bearer token-alice1")
    client.subscribe(ALICE1)
    assert client.news() == [{"type": "subscribed", "topic": ALICE1, "seq": 0}]


@pytest.mark.parametrize("header", ["Bearer nonsense", "Basic abc", ""])
def test_a_bad_header_closes(world: World, header: str) -> None:
    client = Client(world, header)
    assert client.refusals() == ["invalid_token"]
    assert client.closed == [4401]


def test_a_header_that_cannot_be_checked_leaves_time_to_try_again(world: World) -> None:
    world.tokens.away = True
    client = Client(world, "Bearer token-bob")
    assert client.refusals() == ["service_unavailable"]
    assert client.closed == []
    world.tokens.away = False
    client.say({"type": "auth", "token": "token-bob"})
    client.subscribe(f"accounts:{account('bob')}")
    assert [m["type"] for m in client.news()] == ["subscribed"]


def test_whoever_does_not_authenticate_in_time_is_closed(world: World) -> None:
    client = Client(world)
    client.say({"type": "ping"})
    client.subscribe(ALL)
    client.say({"type": "auth", "token": "nonsense"})
    answers = client.news()
    assert [m.get("reason", m["type"]) for m in answers] == ["pong", "invalid_token", "invalid_token"]
    world.settle(4.9)
    assert client.closed == []
    world.settle(0.2)
    assert client.closed == [4401]
    client.say({"type": "auth", "token": "token-bob"})
    assert client.news() == []


def test_the_operator_needs_no_token_and_may_become_somebody(world: World) -> None:
    operator = Client(world, operator=True)
    operator.subscribe(ALL)
    assert [m["type"] for m in operator.news()] == ["subscribed"]
    operator.say({"type": "auth", "token": "token-bob"})
    assert operator.refusals() == ["invalid_request"]  # with somebody else's topics subscribed
    operator.say({"type": "unsubscribe", "topic": ALL})
    operator.say({"type": "auth", "token": "token-bob"})
    operator.subscribe(ALL)
    assert operator.refusals() == ["insufficient_permissions"]
    world.settle(60)
    assert operator.closed == []


def test_an_operator_with_a_token_is_its_bearer(world: World) -> None:
    client = Client(world, "Bearer token-bob", operator=True)
    client.subscribe(ALL)
    assert client.refusals() == ["insufficient_permissions"]


def test_a_revoked_token_closes(world: World) -> None:
    clients = [Client(world, "Bearer token-bob"), Client(world, "Bearer token-alice1"), Client(world)]
    clients[2].say({"type": "auth", "token": "token-bob"})
    for client in clients:
        client.subscribe(ALICE1)
    world.tokens.revoke("token-bob")
    assert [client.closed for client in clients] == [[4401], [], [4401]]
    for client in clients:
        client.session.lost()
    assert world.tokens.watches == []
    assert len(world.sockets) == 0


def test_an_account_token_sees_its_own_account_among_its_users(world: World) -> None:
    one, two = Client(world, "Bearer token-alice1"), Client(world, "Bearer token-alice2")
    for client in (one, two):
        client.subscribe(ALICES)
        client.news()
    world.commit("alice2", "bob", "alice1")
    assert two.events() == [(ALICES, 1, 0)]
    assert one.events() == [(ALICES, 1, 1)]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "invalid_request"),
        (b"{", "invalid_request"),
        (b"[]", "invalid_request"),
        (b"7", "invalid_request"),
        (b"[" * 60_000, "invalid_request"),
        (b'{"type": "\\ud800"}', "invalid_request"),
        ({}, "missing_fields"),
        ({"type": None}, "missing_fields"),
        ({"type": 7}, "invalid_request"),
        ({"type": "dance"}, "invalid_request"),
        ({"type": "auth"}, "missing_fields"),
        ({"type": "auth", "token": 7}, "invalid_request"),
        ({"type": "auth", "token": "nonsense"}, "invalid_token"),
        ({"type": "subscribe"}, "missing_fields"),
        ({"type": "subscribe", "topic": ""}, "missing_fields"),
        ({"type": "subscribe", "topic": ["x"]}, "invalid_request"),
        ({"type": "subscribe", "topic": "nothing"}, "resource_not_found"),
        ({"type": "subscribe", "topic": ALL}, "insufficient_permissions"),
        ({"type": "subscribe", "topic": f"users:{USERS['bob']}"}, "unauthorized_access"),
        ({"type": "subscribe", "topic": f"accounts:{identity('account', 9)}"}, "account_not_found"),
        ({"type": "subscribe", "topic": ALICE1, "since": 1}, "invalid_cursor"),
        ({"type": "subscribe", "topic": ALICE1, "since": "x"}, "invalid_cursor"),
        ({"type": "subscribe", "topic": ALICE1, "since": 0.0}, "invalid_cursor"),
        ({"type": "unsubscribe"}, "missing_fields"),
    ],
)
def test_what_is_refused_leaves_the_connection_open(world: World, message: object, reason: str) -> None:
    client = Client(world, "Bearer token-alice1")
    client.say(message)
    (error,) = client.news()
    assert (error["type"], error["reason"]) == ("error", reason)
    assert error["message"]
    if isinstance(message, dict) and message.get("topic"):
        assert error["topic"] == message["topic"]
    assert "nonsense" not in str(error)
    client.say({"type": "ping"})
    assert client.news() == [{"type": "pong"}]
    assert client.closed == []


def test_binary_messages_are_refused(world: World) -> None:
    client = Client(world, "Bearer token-alice1")
    client.say({"type": "ping"}, binary=True)
    assert client.refusals() == ["invalid_request"]


def test_a_failure_of_ours_is_an_error_too(world: World, logged_errors: LoggedErrors) -> None:
    client = Client(world, "Bearer token-alice1")
    client.world.tokens.callers = {}.keys  # type: ignore[assignment]
    client.say({"type": "auth", "token": "x"})
    assert client.refusals() == ["internal_server_error"]
    assert len(logged_errors(TypeError)) == 1


def test_unsubscribed_topics_are_silent(world: World) -> None:
    client = Client(world, "Bearer token-alice1")
    client.subscribe(ALICE1)
    client.say({"type": "unsubscribe", "topic": ALICE1})
    client.say({"type": "unsubscribe", "topic": "never was"})
    world.commit("alice1")
    assert [m["type"] for m in client.news()] == ["subscribed", "unsubscribed", "unsubscribed"]


def test_since_replays_and_goes_on(world: World) -> None:
    for _ in range(3):
        world.commit("alice1", "bob", "alice1")
    world.settle()
    client = Client(world, "Bearer token-alice1")
    client.subscribe(ALICE1, since="2:0")
    world.commit("alice1")
    first, *rest = client.news()
    assert first == {"type": "subscribed", "topic": ALICE1, "seq": 2}
    assert [(m["seq"], m["part"]) for m in rest] == [(2, 1), (3, 0), (3, 1), (4, 0)]


def test_subscribing_again_goes_on_undisturbed_or_starts_anew(world: World) -> None:
    client = Client(world, "Bearer token-alice1")
    client.subscribe(ALICE1)
    world.commit("alice1")
    client.news()
    client.subscribe(ALICE1)
    world.commit("alice1")
    assert [(m["type"], m["seq"]) for m in client.news()] == [("subscribed", 1), (ALL, 2)]
    client.subscribe(ALICE1, since=0)
    world.commit("alice1")
    assert [(m["type"], m["seq"]) for m in client.news()] == [("subscribed", 0), (ALL, 1), (ALL, 2), (ALL, 3)]


def test_one_connection_follows_only_so_many_topics(world: World) -> None:
    client = Client(world, operator=True)
    for number in range(MOST_TOPICS + 1):
        client.subscribe(f"users:{identity('user', number)}")
    client.subscribe(f"users:{identity('user', 0)}")
    for _ in range(10):
        world.settle()
    answers = [m["type"] for m in client.news()]
    assert answers == ["subscribed"] * MOST_TOPICS + ["error", "subscribed"]


def test_messages_are_answered_in_their_order_and_read_no_faster_than_that(world: World) -> None:
    client = Client(world)
    world.tokens.pending = Deferred()
    client.say({"type": "auth", "token": "token-alice1"})
    client.subscribe(ALICE1)
    for _ in range(200):
        client.say({"type": "ping"})
    assert client.messages == []
    assert client.held
    world.tokens.pending.callback(None)
    for _ in range(20):
        world.settle()
    assert [m["type"] for m in client.news()] == ["subscribed"] + ["pong"] * 200
    assert not client.held


def test_a_client_that_goes_away_while_it_is_checked_leaves_nothing_behind(world: World) -> None:
    client = Client(world)
    world.tokens.pending = Deferred()
    client.say({"type": "auth", "token": "token-alice1"})
    client.subscribe(ALICE1)
    client.session.lost()
    world.tokens.pending.callback(None)
    world.commit("alice1")
    assert client.news() == []
    assert world.tokens.watches == []
    assert len(world.sockets) == world.sockets.strangers == 0
    assert world.clock.getDelayedCalls() == []


def test_a_full_connection_misses_nothing_when_it_drains(world: World) -> None:
    client = Client(world, operator=True)
    client.subscribe(ALL)
    client.subscribe(ALICE1)
    client.news()
    client.session.pause()
    for _ in range(5):
        world.commit("alice1")
    assert client.news() == []
    client.session.resume()
    world.commit("alice1")
    events = client.events()
    for topic in (ALL, ALICE1):
        assert [event for event in events if event[0] == topic] == [(topic, seq, 0) for seq in range(1, 7)]


def test_one_that_does_not_keep_up_is_closed(world: World) -> None:
    client = Client(world, operator=True)
    client.subscribe(ALL)
    client.news()
    client.session.pause()
    for _ in range(10_001):
        world.commit("bob")
    world.settle()
    assert client.closed == [4408]
    client.session.resume()
    assert client.news() == []


def test_one_that_asks_without_reading_is_closed(world: World) -> None:
    client = Client(world, operator=True)
    client.session.pause()
    for _ in range(1_100):
        client.say({"type": "ping"})
    for _ in range(100):
        world.settle()
    assert client.closed == [4408]


def test_all_are_closed_when_the_server_stops(world: World) -> None:
    clients = [Client(world, operator=True) for _ in range(3)]
    stopped = Deferred.fromCoroutine(world.sockets.close_all())
    assert [client.closed for client in clients] == [[4503]] * 3
    clients[0].session.lost()
    clients[1].session.lost()
    assert not stopped.called
    world.settle(6)
    assert stopped.called
    assert [client.aborted for client in clients] == [False, False, True]
    assert len(world.sockets) == 0
    assert world.clock.getDelayedCalls() == []

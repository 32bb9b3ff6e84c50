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
ADMIN = "Bearer token-admin"


class Client:
    """The other end of a session: what was sent to it, and how it was closed."""

    def __init__(self, world: World, authorization: str | None = None) -> None:
        self.world = world
        self.messages: list[dict[str, Any]] = []
        self.closed: list[int] = []
        self.held = False
        self.aborted = False
        self.session = Session(world.context, self)
        self.session.opened(authorization)

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


def test_a_token_may_be_long(world: World) -> None:
    client = Client(world)
    client.say({"type": "auth", "token": "token-" + "x" * 700})
    client.subscribe(ALL)
    assert [m["type"] for m in client.news()] == ["subscribed"]
    client.say({"type": "auth", "token": "x" * 4_097})
    (error,) = client.news()
    assert (error["reason"], error["details"]) == ("invalid_request", {"field": "token"})


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


def test_nobody_becomes_somebody_else_while_topics_are_subscribed(world: World) -> None:
    client = Client(world, ADMIN)
    client.subscribe(ALL)
    assert [m["type"] for m in client.news()] == ["subscribed"]
    for token in ("token-bob", "token-support"):  # the latter is the same user, in another role
        client.say({"type": "auth", "token": token})
        (error,) = client.news()
        assert (error["reason"], error["details"]) == ("invalid_request", {"field": "token"})
    world.commit("bob")
    assert client.events() == [(ALL, 1, 0)]
    client.say({"type": "unsubscribe", "topic": ALL})
    client.say({"type": "auth", "token": "token-bob"})
    client.subscribe(ALL)
    assert client.refusals() == ["insufficient_permissions"]
    world.settle(60)
    assert client.closed == []


def test_a_fresh_token_of_the_same_user_keeps_the_topics(world: World) -> None:
    client = Client(world, "Bearer token-first")
    client.subscribe(ALICES)
    client.news()
    client.say({"type": "auth", "token": "token-second"})
    assert client.news() == []
    world.tokens.revoke("token-first")
    world.commit("alice2", "alice1")
    assert client.events() == [(ALICES, 1, 0), (ALICES, 1, 1)]
    assert client.closed == []
    world.tokens.revoke("token-second")
    assert client.closed == [4401]
    client.session.lost()
    assert world.tokens.watches == []


def test_a_fresh_token_that_is_none_changes_nothing(world: World) -> None:
    client = Client(world, "Bearer token-first")
    client.subscribe(ALICES)
    client.news()
    client.say({"type": "auth", "token": "nonsense"})
    assert client.refusals() == ["invalid_token"]
    world.commit("alice1")
    assert client.events() == [(ALICES, 1, 0)]
    world.tokens.revoke("token-first")
    assert client.closed == [4401]


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


@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe"])
@pytest.mark.parametrize(
    "topic",
    ["x" * 513, "users:" + "x" * 50_000, ["x" * 600], {"x" * 600: None}, "\0" * 50_000],
    ids=["too long", "longer", "list", "object", "escaped"],
)
def test_a_topic_that_is_too_long_is_not_repeated(world: World, kind: str, topic: object) -> None:
    client = Client(world, "Bearer token-alice1")
    client.say({"type": kind, "topic": topic})
    (error,) = client.news()
    assert (error["type"], error["reason"]) == ("error", "invalid_request")
    assert "topic" not in error
    assert len(str(error)) < 300


def test_an_unknown_topic_of_a_length_that_is_read_is_repeated(world: World) -> None:
    client = Client(world, "Bearer token-alice1")
    client.subscribe("x" * 512)
    (error,) = client.news()
    assert (error["reason"], error["topic"]) == ("resource_not_found", "x" * 512)


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
    assert first == {"type": "subscribed", "topic": ALICE1, "seq": 1}  # the last of which nothing more comes
    assert [(m["seq"], m["part"]) for m in rest] == [(2, 1), (3, 0), (3, 1), (4, 0)]


@pytest.mark.parametrize(
    ("since", "told"),
    [("2:0", 1), ("2:1", 1), (2, 2), (None, 3), ("4:0", 3)],
    ids=["a part", "the last part", "a record", "now", "not published yet"],
)
def test_whoever_resumes_from_what_it_was_told_loses_nothing(world: World, since: object, told: int) -> None:
    for _ in range(3):
        world.commit("alice1", "bob", "alice1")
    world.settle()
    world.journal.commit("alice1", "alice1")  # committed elsewhere, not heard of yet
    client = Client(world, "Bearer token-alice1")
    client.session.pause()  # so that a replay stays behind
    client.subscribe(ALICE1, since=since)
    client.subscribe(ALICE1)
    assert [(m["type"], m["seq"]) for m in client.news()] == [("subscribed", told)] * 2
    world.feed.head_moved(4)
    world.settle()
    client.session.resume()
    heard = client.events()
    other = Client(world, "Bearer token-alice1")
    other.subscribe(ALICE1, since=told)
    assert set(heard) <= set(other.events())


def test_a_live_one_that_lags_is_told_where_it_is(world: World) -> None:
    client = Client(world, "Bearer token-alice1")
    client.subscribe(ALICE1)
    world.commit("bob")
    client.news()
    client.session.pause()
    world.commit("alice1", "alice1")
    world.settle()
    client.subscribe(ALICE1)
    assert [(m["type"], m["seq"]) for m in client.news()] == [("subscribed", 1)]
    client.session.resume()
    assert client.events() == [(ALICE1, 2, 0), (ALICE1, 2, 1)]


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
    client = Client(world, ADMIN)
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
    client = Client(world, ADMIN)
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
    client = Client(world, ADMIN)
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
    client = Client(world, ADMIN)
    client.session.pause()
    for _ in range(1_100):
        client.say({"type": "ping"})
    for _ in range(100):
        world.settle()
    assert client.closed == [4408]


def test_all_are_closed_when_the_server_stops(world: World) -> None:
    clients = [Client(world, ADMIN) for _ in range(3)]
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


def test_one_that_finds_no_place_any_more_is_closed(world: World) -> None:
    stopped = Deferred.fromCoroutine(world.sockets.close_all())
    assert stopped.called
    client = Client(world, ADMIN)  # its handshake was under way
    assert client.closed == [4503]
    client.subscribe(ALL)
    assert client.news() == []
    client.session.lost()
    assert len(world.sockets) == world.sockets.strangers == 0
    assert world.tokens.watches == []
    assert world.clock.getDelayedCalls() == []

"""The hub: who gets which events, and what a subscriber can do to the others."""

import time
from typing import Any

import msgspec
import pytest

from ledger.domain.errors import Refused
from ledger.domain.events import updates_of
from ledger.pubsub.event import Event
from ledger.pubsub.hub import Hub, Subscription
from tests.cleanliness import LoggedErrors
from tests.pubsub.world import ALICE, TOPICS, USERS, WORLD, account, expected, record


def heard(events: list[Event]) -> list[tuple[str, int, int]]:
    return [(event.topic, event.seq, event.part) for event in events]


@pytest.mark.parametrize("topic", [*TOPICS, f"users:{USERS['bob']}", f"accounts:{account('wallet')}"])
def test_each_topic_gets_its_updates_and_no_others(topic: str) -> None:
    hub, events = Hub(), list[Event]()
    hub.subscribe(topic, events.append)
    records = [
        record(1, "alice1"),
        record(2, "alice1", "bob", "alice2", "alice1"),
        record(3, changes=["alice2", "bob"]),
        record(4, "wallet", changes=["alice1"]),
        record(5),
    ]
    for committed in records:
        hub.publish(committed)
    assert heard(events) == expected(records, topic)
    assert events


def test_system_accounts_have_no_events() -> None:
    hub, events = Hub(), list[Event]()
    hub.subscribe(f"accounts:{WORLD}", events.append)
    hub.subscribe("balance_updated", events.append)
    hub.publish(record(1, "bob"))
    assert [event.data.account_id for event in events] == [account("bob")]


def test_an_event_carries_the_update_and_its_message() -> None:
    hub, events = Hub(), list[Event]()
    for topic in TOPICS:
        hub.subscribe(topic, events.append)
    committed = record(7, "bob", "alice2", changes=["alice1"])
    hub.publish(committed)
    updates = updates_of(committed)
    by_topic = {(event.topic, event.part): (event.data, msgspec.json.decode(event.message)) for event in events}
    assert [by_topic["balance_updated", part][0] for part in range(3)] == list(updates)
    assert by_topic[f"users:{USERS[ALICE]}", 1][0] == updates[2]
    assert by_topic[f"accounts:{account('alice1')}", 0][1] == {
        "type": "balance_updated",
        "topic": f"accounts:{account('alice1')}",
        "seq": 7,
        "part": 0,
        "data": msgspec.to_builtins(updates[2]),
    }
    assert by_topic["balance_updated", 0][1]["data"]["transaction"]["type"] == "credit"
    assert by_topic["balance_updated", 2][1]["data"]["transaction"] is None


def test_all_subscribers_of_a_topic_share_one_event_encoded_once() -> None:
    hub, events = Hub(), list[Event]()
    for _ in range(3):
        hub.subscribe("balance_updated", events.append)
    hub.publish(record(1, "bob"))
    assert len({id(event) for event in events}) == 1
    assert events[0].message is events[2].message


def test_a_subscriber_that_raises_harms_nobody_and_does_not_flood_the_log(logged_errors: LoggedErrors) -> None:
    hub, before, after = Hub(), list[Event](), list[Event]()

    def broken(_event: Event) -> None:
        raise ZeroDivisionError

    hub.subscribe("balance_updated", before.append)
    hub.subscribe("balance_updated", broken)
    hub.subscribe("balance_updated", after.append)
    for seq in range(1, 101):
        hub.publish(record(seq, "bob"))
    assert [event.seq for event in before] == [event.seq for event in after] == list(range(1, 101))
    assert [event["count"] for event in logged_errors(ZeroDivisionError)] == [1, 2, 4, 8, 16, 32, 64]


def test_cancelling_while_publishing_takes_effect_at_once() -> None:
    hub, events = Hub(), list[Any]()
    subscriptions: list[Subscription] = []

    def first(event: Event) -> None:
        events.append(("first", event.seq))
        for subscription in subscriptions:
            subscription.cancel()

    subscriptions.append(hub.subscribe("balance_updated", first))
    subscriptions.append(hub.subscribe("balance_updated", lambda event: events.append(("second", event.seq))))
    hub.publish(record(1, "bob", "alice1"))
    hub.publish(record(2, "bob"))
    assert events == [("first", 1)]
    assert not any(subscription.active for subscription in subscriptions)


def test_subscribing_while_publishing_begins_with_the_next_record() -> None:
    hub, events = Hub(), list[tuple[str, int, int]]()

    def note(event: Event) -> None:
        events.append((event.topic, event.seq, event.part))

    def greedy(event: Event) -> None:
        if event.seq == 1:
            for topic in TOPICS:
                hub.subscribe(topic, note)

    own = hub.subscribe(f"accounts:{account('alice1')}", greedy)
    hub.publish(record(1, "alice1", "alice1"))
    own.cancel()
    assert events == []
    hub.publish(record(2, "alice1"))
    assert events == sorted(expected([record(2, "alice1")], *TOPICS) * 2)  # greedy heard two parts


def test_a_cancelled_topic_leaves_nothing_behind() -> None:
    hub, events = Hub(), list[Event]()
    subscription = hub.subscribe(f"users:{USERS[ALICE]}", events.append)
    subscription.cancel()
    subscription.cancel()
    hub.publish(record(1, "alice1"))
    assert events == []
    assert not hub._users


@pytest.mark.parametrize(
    ("topic", "reason"),
    [("nothing", "resource_not_found"), ("users:x", "invalid_uuid_format"), ("accounts:", "invalid_uuid_format")],
)
def test_unknown_topics_are_refused(topic: str, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        Hub().subscribe(topic, print)
    assert refused.value.reason == reason


def test_a_watcher_on_everything_costs_next_to_nothing() -> None:
    hub, seen = Hub(), list[int]()
    hub.subscribe("balance_updated", lambda event: seen.append(event.seq))
    records = [record(seq, "bob") for seq in range(1, 1001)]
    best = 1.0
    for _ in range(20):
        began = time.process_time()
        for committed in records:
            hub.publish(committed)
        best = min(best, time.process_time() - began)
    assert len(seen) == 20_000
    assert best < 0.010, f"{best * 1000:.2f} us per record"  # 1.5 us on the machine it was written on

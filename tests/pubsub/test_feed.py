"""The feed: every committed record is published once, in order, whatever order it is learned in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from ledger.domain.errors import Refused
from ledger.domain.events import Committed
from ledger.pubsub.event import Event
from tests.cleanliness import LoggedErrors
from tests.pubsub.world import Ear, World, done, record


class Seen(list[int]):
    """The numbers of the records published."""

    def __init__(self, world: World) -> None:
        super().__init__()
        world.hub.subscribe("balance_updated", self._note)

    def _note(self, event: Event) -> None:
        self.append(event.seq)


@pytest.fixture
def world() -> World:
    world = World()
    for _ in range(10):
        world.journal.commit("bob")
    world.start()
    world.settle()
    return world


def test_it_starts_at_the_head(world: World) -> None:
    seen = Seen(world)
    world.commit("bob")
    world.settle()
    assert world.feed.published == 11
    assert seen == [11]


def test_what_the_writer_hands_over_needs_no_read(world: World) -> None:
    reads, seen = world.journal.reads, Seen(world)
    for _ in range(5):
        for _ in range(2):
            world.feed.head_moved(len(world.journal.records) + 1)  # NOTIFY may come first
            world.clock.advance(0.002)
        world.commit("bob")
        world.clock.advance(0)
    assert seen == [11, 12, 13, 14, 15]
    assert world.journal.reads == reads


def test_what_others_commit_is_read(world: World) -> None:
    seen = Seen(world)
    for _ in range(1200):
        world.journal.commit("bob")
    world.feed.head_moved(1210)
    world.settle(0.1)
    assert seen == list(range(11, 1211))


def test_a_gap_before_a_batch_is_read_first(world: World) -> None:
    seen = Seen(world)
    for _ in range(3):
        world.journal.commit("bob")
    world.commit("bob")
    world.clock.advance(0)
    assert seen == [11, 12, 13, 14]


def test_an_outage_delays_but_skips_nothing(world: World) -> None:
    seen = Seen(world)
    world.journal.commit("bob")
    world.journal.failures = 7
    world.commit("bob")
    world.settle(0.1)
    assert seen == []
    world.settle(30)
    assert seen == [11, 12]
    assert world.journal.failures == 0


def test_a_record_that_is_announced_but_not_there_yet_is_waited_for_without_haste(world: World) -> None:
    seen, reads = Seen(world), world.journal.reads
    world.feed.head_moved(11)
    world.settle(2)
    assert 3 < world.journal.reads - reads < 15
    world.journal.commit("bob")
    world.settle(5)
    assert seen == [11]


def test_a_slow_read_does_not_hold_up_what_is_handed_over(world: World) -> None:
    seen = Seen(world)
    world.journal.slow = True
    late = world.journal.commit("bob")
    world.feed.head_moved(11)
    world.settle()
    world.feed.committed([late])
    world.settle()
    assert seen == [11]
    world.journal.release()
    world.settle()
    assert seen == [11]


def test_a_reconnected_listener_makes_it_look(world: World) -> None:
    seen = Seen(world)
    world.feed.disconnected()
    world.journal.commit("bob")
    world.settle()
    assert seen == []
    world.journal.failures = 2
    world.feed.connected()
    world.settle(10)
    assert seen == [11]


def test_a_restart_goes_on_where_it_stopped(world: World) -> None:
    seen = Seen(world)
    done(world.feed.stop())
    world.commit("bob")
    world.settle()
    assert seen == []
    world.start()
    world.settle()
    assert seen == [11]


def test_what_is_committed_while_it_starts_is_not_missed() -> None:
    world = World()
    seen = Seen(world)
    world.journal.slow = True
    started = Deferred.fromCoroutine(world.feed.start())
    world.commit("bob")
    world.feed.head_moved(1)
    world.feed.connected()
    world.journal.release()
    world.settle()
    assert started.called
    assert seen == [1]


def test_a_record_that_cannot_be_published_is_reported_and_passed_by(world: World) -> None:
    seen, broken = Seen(world), list[Any]()
    world.feed.broken = broken.append
    bad = Committed(record(11, "bob").record, {})
    world.journal.records.append(bad)
    world.feed.committed([bad])
    world.commit("bob")
    world.settle()
    assert broken[0].check(KeyError)
    done(world.feed.stop())
    world.start()
    world.settle()
    assert seen == [12]


def test_long_batches_are_published_in_slices(world: World) -> None:
    seen = Seen(world)
    world.feed.committed([world.journal.commit("bob") for _ in range(2000)])
    turns = 0
    while world.clock.getDelayedCalls():
        world.clock.calls.sort(key=lambda call: call.getTime())
        call = world.clock.calls.pop(0)
        call.called = 1
        before = len(seen)
        call.func(*call.args, **call.kw)
        assert len(seen) - before <= 256
        turns += 1
    assert seen == list(range(11, 2011))
    assert turns >= 8


def test_before_the_start_nobody_can_follow(logged_errors: LoggedErrors) -> None:
    world = World()
    with pytest.raises(Refused) as refused:
        Ear(world, "balance_updated").follow()
    assert refused.value.reason == "service_unavailable"
    assert logged_errors() == []


actions = st.lists(
    st.one_of(
        st.tuples(st.just("own"), st.integers(1, 4)),  # a batch of ours, to be handed over later
        st.tuples(st.just("other"), st.integers(1, 4)),  # another process's
        st.tuples(st.just("hand"), st.integers(0, 9)),  # hand one of the batches over, perhaps again
        st.tuples(st.just("notify"), st.integers(0, 9)),  # of a head so far back
        st.tuples(st.just("wait"), st.sampled_from([0, 1, 10, 1000])),
        st.tuples(st.just("fail"), st.integers(1, 3)),
        st.tuples(st.just("slow"), st.just(0)),
        st.tuples(st.just("release"), st.just(0)),
        st.tuples(st.just("reconnect"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(actions, st.integers(0, 5))
def test_published_is_the_journal_once_and_in_order(steps: list[tuple[str, int]], before: int) -> None:
    world = World()
    journal, feed = world.journal, world.feed
    for _ in range(before):
        journal.commit("bob")
    world.start()
    seen = Seen(world)
    batches: list[list[Committed]] = []
    for step, number in steps:
        if step == "own":
            batches.append([journal.commit("bob") for _ in range(number)])
        elif step == "other":
            for _ in range(number):
                journal.commit("bob")
        elif step == "hand" and batches:
            feed.committed(batches[number % len(batches)])
        elif step == "notify":
            feed.head_moved(max(len(journal.records) - number, 0))
        elif step == "wait":
            world.clock.advance(number / 1000)
        elif step == "fail":
            journal.failures = number
        elif step == "slow":
            journal.slow = True
        elif step == "release":
            journal.release()
        elif step == "reconnect":
            feed.disconnected()
            feed.connected()
        elif step == "restart":
            done(feed.stop())
            journal.failures = 0
            journal.release()
            world.start()
        assert seen == list(range(before + 1, before + 1 + len(seen)))
    journal.failures = 0
    journal.release()
    feed.connected()
    world.settle(60)
    assert seen == list(range(before + 1, len(journal.records) + 1))
    assert feed._ahead == {}
    done(feed.stop())
    assert world.clock.getDelayedCalls() == []

"""Followers: from any place in the journal, all that follows, once and in order, however slowly it is read."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.domain.errors import Refused
from tests.pubsub.world import ALICE, TOPICS, USERS, Ear, World, account, expected

EVERY = [choice for size in range(1, 4) for choice in itertools.combinations(TOPICS, size)]


def varied(world: World, count: int) -> None:
    """Commit records of all shapes: one account, several, none of the follower's, the same one twice."""
    shapes: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
        (("bob",), ()),
        (("alice1",), ()),
        (("alice2", "bob", "alice1"), ("alice1",)),
        ((), ()),
        ((), ("wallet", "alice2")),
    ]
    for number in range(count):
        names, changes = shapes[number % len(shapes)]
        world.commit(*names, changes=changes)


@pytest.mark.parametrize("ring", [10_000, 7], ids=["ring", "database"])
@pytest.mark.parametrize("topics", EVERY, ids=len)
def test_from_every_place_all_that_follows(topics: tuple[str, ...], ring: int) -> None:
    world = World(ring=ring)
    varied(world, 12)
    world.start()
    varied(world, 15)
    world.settle()
    everything = Ear(world, *topics).follow(0)
    world.settle()
    assert everything.heard == expected(world.journal.records, *topics)
    places = [str(seq) for seq in range(28)] + [f"{seq}:{part}" for seq, part in everything.ids]
    ears = {since: Ear(world, *topics).follow(since) for since in places}
    varied(world, 3)
    world.settle()
    whole = everything.ids
    assert [seq for seq, _ in whole][-1] == 30
    for since, ear in ears.items():
        seq, _, part = since.partition(":")
        place = (int(seq), int(part) if part else 99)
        assert ear.ids == [seen for seen in whole if seen > place], since


def test_numbers_are_the_parts_of_a_single_topic() -> None:
    world = World()
    world.start()
    ear = Ear(world, f"users:{USERS[ALICE]}").follow(0)
    varied(world, 10)
    world.settle()
    assert ear.ids == [(seq, part) for _, seq, part in ear.heard]


def test_without_since_it_begins_now() -> None:
    world = World()
    varied(world, 5)
    world.start()
    ear = Ear(world, "balance_updated").follow()
    assert ear.following is not None
    assert ear.following.seq == 5
    varied(world, 5)
    world.settle()
    assert ear.heard == expected(world.journal.records[5:], "balance_updated")
    assert ear.following.seq == 10


def test_what_is_hidden_keeps_its_numbers() -> None:
    world, topic = World(), f"users:{USERS[ALICE]}"
    world.start()
    live = Ear(world, topic, only=account("alice1")).follow()
    for _ in range(4):
        world.commit("alice2", "alice1", "alice2", "alice1")
    world.settle()
    replayed = Ear(world, topic, only=account("alice1")).follow("2:1")
    world.settle()
    assert live.ids == [(seq, part) for seq in (1, 2, 3, 4) for part in (1, 3)]
    assert replayed.ids == live.ids[3:]


def test_beyond_the_head_is_refused_and_the_database_decides_where_that_is() -> None:
    world = World()
    varied(world, 5)
    world.start()
    for _ in range(2):
        world.journal.commit("bob")  # committed elsewhere, not heard of yet
    ear = Ear(world, "balance_updated").follow(7)
    with pytest.raises(Refused) as refused:
        Ear(world, "balance_updated").follow(8)
    assert refused.value.reason == "invalid_cursor"
    world.commit("bob")
    world.settle()
    assert ear.heard == [("balance_updated", 8, 0)]
    world.journal.failures = 1
    with pytest.raises(Refused) as refused:
        Ear(world, "balance_updated").follow(99)
    assert refused.value.reason == "service_unavailable"


def test_a_replay_waits_for_the_database() -> None:
    world = World(ring=2)
    varied(world, 600)
    world.start()
    world.journal.failures = 5
    ears = [Ear(world, "balance_updated").follow(since) for since in (0, 0, 300, 599)]
    world.settle(0.01)
    assert [bool(ear.heard) for ear in ears] == [False, False, False, True]
    world.settle(60)
    for ear, since in zip(ears, (0, 0, 300, 599), strict=True):
        assert ear.heard == expected(world.journal.records[since:], "balance_updated")
    assert world.journal.reads < 15  # the slices are shared


def test_what_is_in_memory_needs_no_read() -> None:
    world = World()
    varied(world, 100)
    world.start()
    varied(world, 100)
    world.settle()
    reads = world.journal.reads
    for since in range(0, 200, 10):
        ear = Ear(world, "balance_updated").follow(since)
        world.settle()
        assert ear.heard == expected(world.journal.records[since:], "balance_updated")
    assert world.journal.reads == reads


def test_a_cancelled_replay_delivers_nothing_more() -> None:
    world = World()
    varied(world, 100)
    world.start()
    ear = Ear(world, "balance_updated")
    ear.capacity = 10
    ear.follow(0)
    world.settle()
    assert ear.following is not None
    ear.following.cancel()
    ear.outlet.open()
    varied(world, 10)
    world.settle()
    assert len(ear.heard) == 10


def test_a_long_replay_keeps_nothing_in_memory_while_nobody_reads() -> None:
    world = World(ring=10, preload=10)
    for _ in range(5_000):
        world.journal.commit("bob")
    world.start()
    ear = Ear(world, "balance_updated", most_unsent=10)
    ear.capacity = 100
    ear.follow(0)
    for _ in range(200):
        world.commit("bob")  # a follower that has never been live may be behind as far as it likes
        world.settle(0.02)
    assert len(ear.heard) == 100
    assert world.journal.reads <= 2
    while ear.heard[-1][1] < 5_200:
        ear.capacity = 100
        ear.outlet.open()
        world.settle(0.02)
    assert ear.heard == expected(world.journal.records, "balance_updated")
    assert ear.overruns == 0


def test_a_live_follower_that_does_not_keep_up_is_cut_off_once() -> None:
    world = World()
    world.start()
    ear = Ear(world, "balance_updated", most_unsent=50).follow()
    ear.outlet.close()
    for _ in range(50):
        world.commit("bob")
    world.settle()
    assert ear.overruns == 0
    for _ in range(20):
        world.commit("bob")
    world.settle()
    assert ear.overruns == 1
    assert ear.heard == []


def test_one_that_keeps_reading_is_not_cut_off_however_far_behind_it_was() -> None:
    world = World()
    world.start()
    ear = Ear(world, "balance_updated", most_unsent=50).follow()
    ear.outlet.close()
    for _ in range(40):
        world.commit("bob")
    world.settle()
    for _ in range(20):
        ear.capacity = 10
        ear.outlet.open()
        world.settle(0.1)
        for _ in range(10):
            world.commit("bob")
        world.settle(0.1)
    assert ear.overruns == 0
    ear.capacity = -1
    ear.outlet.open()
    world.settle()
    assert ear.heard == expected(world.journal.records, "balance_updated")


def test_many_replays_share_the_reactor() -> None:
    world = World()
    varied(world, 500)
    world.start()
    ears = [Ear(world, TOPICS[1]).follow(0) for _ in range(100)]
    world.settle()
    wanted = expected(world.journal.records, TOPICS[1])
    assert all(ear.heard == wanted for ear in ears)


moves = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(1, 8)),
        st.tuples(st.just("other"), st.integers(1, 8)),
        st.tuples(st.just("limit"), st.integers(1, 5)),  # the outlet closes after so many
        st.tuples(st.just("close"), st.just(0)),
        st.tuples(st.just("open"), st.just(0)),
        st.tuples(st.just("wait"), st.sampled_from([0, 1, 100])),
        st.tuples(st.just("fail"), st.integers(1, 2)),
        st.tuples(st.just("slow"), st.just(0)),
        st.tuples(st.just("release"), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(moves, st.sampled_from(EVERY), st.integers(0, 12), st.sampled_from([3, 1000]), st.booleans())
def test_however_it_is_read_nothing_is_lost_or_repeated(
    steps: list[tuple[str, int]], topics: tuple[str, ...], since: int, ring: int, hidden: bool
) -> None:
    world = World(ring=ring)
    varied(world, 12)
    world.start()
    only = account("alice1") if hidden else None
    ear = Ear(world, *topics, only=only)
    ear.follow(since)
    for step, number in steps:
        if step == "commit":
            varied(world, number)
        elif step == "other":
            for _ in range(number):
                world.journal.commit("alice1", "bob")
            world.feed.head_moved(len(world.journal.records))
        elif step == "limit":
            ear.capacity = number
        elif step == "close":
            ear.outlet.close()
        elif step == "open":
            ear.outlet.open()
        elif step == "wait":
            world.clock.advance(number / 1000)
        elif step == "fail":
            world.journal.failures = number
        elif step == "slow":
            world.journal.slow = True
        elif step == "release":
            world.journal.release()
    ear.capacity = -1
    world.journal.failures = 0
    world.journal.release()
    ear.outlet.open()
    world.settle(60)
    wanted = expected(world.journal.records[since:], *topics)
    if hidden:
        reference = Ear(world, *topics)
        reference.follow(since)
        world.settle(60)
        assert reference.heard == wanted
        assert ear.ids == [seen for seen, whose in zip(reference.ids, reference.accounts, strict=True) if whose == only]
    else:
        assert ear.heard == wanted

"""Replaying one account's messages out of a long journal of others'."""

from __future__ import annotations

import pytest

from tests.pubsub.world import Ear, World, account, expected

TOPIC = f"accounts:{account('alice1')}"


@pytest.mark.parametrize("ring", [10_000, 300, 7], ids=["ring", "wrapped ring", "database"])
def test_others_records_are_passed_over_and_none_of_its_own(ring: int) -> None:
    world = World(ring=ring)
    world.start()
    for number in range(900):
        if number % 290 == 5:
            world.commit("bob", "alice1")
        elif number % 290 == 6:
            world.commit(changes=("alice1",))
        else:
            world.commit("bob", changes=("wallet",))
    world.settle()
    ear = Ear(world, TOPIC).follow(0)
    world.settle()
    assert len(ear.heard) == 8
    assert ear.heard == expected(world.journal.records, TOPIC)


def test_a_long_run_of_its_own_records_and_then_live() -> None:
    world = World()
    world.start()
    for _ in range(300):
        world.commit("alice1")
    world.settle()
    ear = Ear(world, TOPIC).follow(0)
    world.settle()
    world.commit("alice1")
    world.settle()
    assert [seq for _, seq, _ in ear.heard] == list(range(1, 302))


def test_a_closed_outlet_among_others_records() -> None:
    world = World()
    world.start()
    for number in range(600):
        world.commit("alice1" if number % 50 == 0 else "bob")
    world.settle()
    ear = Ear(world, TOPIC)
    ear.capacity = 2
    ear.follow(0)
    world.settle()
    assert len(ear.heard) == 2
    ear.outlet.open()
    world.settle()
    assert ear.heard == expected(world.journal.records, TOPIC)

"""Sharing the reactor, and the latest records in memory."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from ledger.pubsub.ring import Ring
from ledger.pubsub.turns import Turns
from tests.cleanliness import LoggedErrors
from tests.pubsub.world import record


def test_steps_take_turns_in_order_a_few_milliseconds_at_a_time() -> None:
    clock, steps = Clock(), list[tuple[str, float]]()
    turns = Turns(clock)

    def step(name: str, left: int) -> None:
        steps.append((name, clock.seconds()))
        clock.rightNow += 0.0007
        if left:
            turns.add(lambda: step(name, left - 1))

    for name in "abc":
        turns.add(lambda name=name: step(name, 9))  # type: ignore[misc]
    lengths = []
    while clock.getDelayedCalls():
        before = len(steps)
        clock.calls.pop().func()
        lengths.append(len(steps) - before)
    assert [name for name, _ in steps] == list("abc") * 10
    assert set(lengths) == {3}


def test_a_step_that_fails_holds_up_nobody(logged_errors: LoggedErrors) -> None:
    clock, steps = Clock(), list[int]()
    turns = Turns(clock)
    turns.add(lambda: steps.append(1 // 0))
    turns.add(lambda: steps.append(2))
    clock.advance(0)
    assert steps == [2]
    assert len(logged_errors(ZeroDivisionError)) == 1


def test_a_clock_that_stands_still_does_not_make_it_run_for_ever() -> None:
    clock, steps = Clock(), list[int]()
    turns = Turns(clock)
    for number in range(1000):
        turns.add(lambda number=number: steps.append(number))  # type: ignore[misc]
    clock.calls.pop().func()
    assert 0 < len(steps) < 1000
    clock.advance(0)
    assert steps == list(range(1000))


@pytest.mark.parametrize("first", [1, 5])
def test_the_ring_keeps_the_last(first: int) -> None:
    ring = Ring(4)
    assert ring.after(0, 10) is None
    for seq in range(first, first + 10):
        ring.append(record(seq, "bob"))
        kept = range(max(first, seq - 3), seq + 1)
        for after in range(seq + 3):
            found = ring.after(after, 3)
            if after + 1 in kept:
                assert found is not None
                assert [committed.seq for committed in found] == [n for n in kept if n > after][:3]
            else:
                assert found is None


def test_the_ring_keeps_fewer_where_they_are_large() -> None:
    ring = Ring(4, items=4)  # a record of these has two entries
    for seq in range(1, 20):
        ring.append(record(seq, "bob"))
    assert ring.after(16, 10) is None
    found = ring.after(17, 10)
    assert found is not None
    assert [committed.seq for committed in found] == [18, 19]


def test_a_gap_empties_the_ring() -> None:
    ring = Ring(4)
    for seq in (1, 2, 3, 7, 8):
        ring.append(record(seq, "bob"))
    assert ring.after(2, 10) is None
    found = ring.after(6, 10)
    assert found is not None
    assert [committed.seq for committed in found] == [7, 8]

"""Lanes: in order, in turn, within bounds, and gone when empty."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ledger.services.lanes import LaneFull, Lanes
from tests.strategies import examples

keys = st.sampled_from("abcde")


class LanesMachine(RuleBasedStateMachine):
    """Lanes against plain queues."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes: Lanes[int] = Lanes(per_lane=6, in_all=15, visit=2)
        self.model: dict[str, deque[int]] = {key: deque() for key in "abcde"}
        self.next = 0

    @property
    def waiting(self) -> int:
        """How many items wait."""
        return sum(map(len, self.model.values()))

    @rule(key=keys)
    def put(self, key: str) -> None:
        """Put one item."""
        self.next += 1
        if len(self.model[key]) == 6 or self.waiting == 15:
            with pytest.raises(LaneFull):
                self.lanes.put(key, self.next)
        else:
            self.lanes.put(key, self.next)
            self.model[key].append(self.next)

    @rule(limit=st.integers(0, 20))
    def take(self, limit: int) -> None:
        """Take some: as many as there are, each from the front of its lane, and no lane left out."""
        busy = [key for key in self.model if self.model[key]]
        taken = self.lanes.take(limit)
        assert len(taken) == min(limit, self.waiting)
        counts = dict.fromkeys(self.model, 0)
        for item in taken:
            (key,) = (key for key in self.model if self.model[key] and self.model[key][0] == item)
            self.model[key].popleft()
            counts[key] += 1
        if limit >= 2 * len(busy):
            assert all(counts[key] for key in busy)
        for key in busy:
            if self.model[key]:  # has not given all: none has given more than a visit more than it
                assert max(counts.values()) <= counts[key] + 2

    @precondition(lambda self: self.waiting)
    @rule()
    def drain(self) -> None:
        """Take everything."""
        assert sorted(self.lanes.drain()) == sorted(item for lane in self.model.values() for item in lane)
        for lane in self.model.values():
            lane.clear()

    @invariant()
    def counts(self) -> None:
        """Nothing is kept of lanes that hold nothing."""
        assert len(self.lanes) == self.waiting
        assert self.lanes.lanes == sum(bool(lane) for lane in self.model.values())


TestLanes = LanesMachine.TestCase
TestLanes.settings = examples(60)


@given(st.lists(st.tuples(keys, st.integers()), max_size=200), st.integers(1, 30))
@examples(60)
def test_each_lane_is_first_in_first_out(items: list[tuple[str, int]], limit: int) -> None:
    lanes: Lanes[tuple[str, int]] = Lanes()
    for key, item in items:
        lanes.put(key, (key, item))
    out: list[tuple[str, int]] = []
    while taken := lanes.take(limit):
        assert len(taken) <= limit
        out += taken
    for key in "abcde":
        assert [pair for pair in out if pair[0] == key] == [pair for pair in items if pair[0] == key]


def test_one_that_floods_does_not_starve_the_others() -> None:
    lanes: Lanes[str] = Lanes(visit=16)
    for _ in range(1_000):
        lanes.put("flood", "flood")
    for number in range(10):
        lanes.put(str(number), "other")
    assert lanes.take(200).count("other") == 10


def test_one_lane_alone_may_fill_a_batch() -> None:
    lanes: Lanes[int] = Lanes()
    for number in range(1_500):
        lanes.put("hot", number)
    assert lanes.take(1_000) == list(range(1_000))
    assert lanes.take(1_000) == list(range(1_000, 1_500))


def test_what_is_refused_is_not_counted() -> None:
    lanes: Lanes[int] = Lanes(per_lane=1, in_all=2)
    lanes.put("a", 1)
    for _ in range(5):
        with pytest.raises(LaneFull):
            lanes.put("a", 2)
    lanes.put("b", 3)
    with pytest.raises(LaneFull):
        lanes.put("c", 4)
    assert lanes.lanes == 2
    assert sorted(lanes.take(9)) == [1, 3]
    lanes.put("c", 4)
    assert lanes.take(9) == [4]

"""Queues by key: first in, first out within a lane, fair among lanes, bounded in both, and no lane kept idle."""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class LaneFull(Exception):
    """The lane, or all lanes together, hold as much as they may."""


class Lanes(Generic[T]):
    """Items wait in the lane of their key until they are taken; lanes are visited in turn."""

    def __init__(self, per_lane: int = 2_000, in_all: int = 10_000, visit: int = 16) -> None:
        self._per_lane = per_lane
        self._in_all = in_all
        self._visit = visit
        self._lanes: dict[str, deque[T]] = {}
        self._turns: deque[str] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def lanes(self) -> int:
        """How many lanes hold anything."""
        return len(self._lanes)

    @property
    def deepest(self) -> int:
        """How many items the fullest lane holds."""
        return max(map(len, self._lanes.values()), default=0)

    def put(self, key: str, item: T) -> None:
        """Queue an item in its lane, or raise `LaneFull`."""
        lane = self._lanes.get(key)
        if self._count >= self._in_all or (lane is not None and len(lane) >= self._per_lane):
            raise LaneFull(key)
        if lane is None:
            self._lanes[key] = lane = deque()
            self._turns.append(key)
        lane.append(item)
        self._count += 1

    def take(self, limit: int) -> list[T]:
        """Take up to `limit` items, a few from each lane in turn until nothing is left; a lane may give all it has."""
        taken: list[T] = []
        while self._turns and len(taken) < limit:
            key = self._turns.popleft()
            lane = self._lanes[key]
            many = min(self._visit, limit - len(taken), len(lane))
            taken.extend(lane.popleft() for _ in range(many))
            if lane:
                self._turns.append(key)
            else:
                del self._lanes[key]
        self._count -= len(taken)
        return taken

    def drain(self) -> Iterator[T]:
        """Take everything."""
        yield from self.take(self._count)

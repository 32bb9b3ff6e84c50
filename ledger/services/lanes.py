"""Queues by key: first in, first out within a lane, fair among lanes, bounded in both, and no lane kept idle."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class LaneFull(Exception):
    """The lane, or all lanes together, hold as much as they may."""


class Lanes(Generic[T]):
    """Items wait in the lane of their key until they are taken; lanes are visited in turn."""

    def __init__(
        self, per_lane: int = 2_000, in_all: int = 10_000, visit: int = 16, weigh: Callable[[T], int] = lambda _: 1
    ) -> None:
        self._per_lane = per_lane
        self._in_all = in_all
        self._visit = visit
        self._weigh = weigh
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
        """Take items that weigh about `limit`, a few from each lane in turn; a lane may give all it has."""
        taken: list[T] = []
        weight, weigh = 0, self._weigh
        while self._turns and weight < limit:
            key = self._turns.popleft()
            lane = self._lanes[key]
            for _ in range(min(self._visit, len(lane))):
                item = lane.popleft()
                taken.append(item)
                weight += weigh(item)
                if weight >= limit:
                    break
            if lane:
                self._turns.append(key)
            else:
                del self._lanes[key]
        self._count -= len(taken)
        return taken

    def drain(self) -> Iterator[T]:
        """Take everything."""
        while self._count:
            yield from self.take(self._count)

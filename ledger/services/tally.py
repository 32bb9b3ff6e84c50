"""A histogram that costs next to nothing where its values come up: plain numbers, read when somebody asks."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

INFINITY = float("inf")


class Tally:
    """How many values passed which of some bounds, and their sum."""

    __slots__ = ("_bounds", "_buckets", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` ascend, without the infinite one."""
        self._bounds = (*bounds, INFINITY)
        self._buckets = [0] * len(self._bounds)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self._buckets[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._buckets)

    def cumulated(self) -> Iterator[tuple[float, int]]:
        """Return each bound, the infinite one last, and how many values did not pass it."""
        return zip(self._bounds, accumulate(self._buckets), strict=True)

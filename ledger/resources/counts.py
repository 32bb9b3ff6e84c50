"""What is counted of every request, so that nothing needs to be logged of most."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from typing import Final

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, float("inf"))


class Counts:
    """Requests by endpoint and status, and by endpoint how long they took."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], int] = defaultdict(int)
        self.seconds: dict[str, float] = defaultdict(float)
        self.buckets: dict[str, list[int]] = defaultdict(lambda: [0] * len(BUCKETS))  # each request in one bucket

    def count(self, endpoint: str, status: int, seconds: float | None) -> None:
        """Count one answer; one that was not worked for took no time that tells anything."""
        self.requests[endpoint, status] += 1
        if seconds is not None:
            self.seconds[endpoint] += seconds
            self.buckets[endpoint][bisect_left(BUCKETS, seconds)] += 1


class Allowance:
    """At most so many lines a second of a log that overload could flood; tells how many were left out."""

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._second = -1
        self._used = 0

    def take(self, seconds: float) -> int | None:
        """Return how many lines were left out since the last one, or None when this one is to be left out too."""
        second = int(seconds)
        left_out = 0
        if second != self._second:
            left_out = max(0, self._used - self._lines)
            self._second, self._used = second, 0
        self._used += 1
        return left_out if self._used <= self._lines else None

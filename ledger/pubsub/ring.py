"""The latest records, in memory."""

from typing import cast

from ledger.domain.events import Committed


class Ring:
    """Keeps the last `size` records appended to it, fewer where they are large; none between them is missing."""

    def __init__(self, size: int, items: int = 60_000) -> None:
        """`items`: entries and changes of all records that are kept."""
        self._size = size
        self._most = items
        self._items = 0
        self._slots: list[Committed | None] = [None] * size
        self._weights = [0] * size  # the items of each: to look at a record that is about to go is slow, it is cold
        self._first = 1
        self._last = 0

    def append(self, committed: Committed) -> None:
        """Add a record; one that does not follow the last empties the ring first."""
        record, size = committed.record, self._size
        seq = record.seq
        if seq != self._last + 1:
            self._slots, self._weights, self._items = [None] * size, [0] * size, 0
            self._first = seq
        items, place = len(record.entries) + len(record.changes), seq % size
        self._items += items - self._weights[place]
        self._slots[place], self._weights[place], self._last = committed, items, seq
        if seq - self._first == size:
            self._first += 1
        while self._items > self._most and self._first < seq:
            place = self._first % size
            self._items -= self._weights[place]
            self._slots[place], self._weights[place] = None, 0
            self._first += 1

    def after(self, seq: int, limit: int) -> list[Committed] | None:
        """Return up to `limit` records that follow `seq`, or None where the next one is not here."""
        if not self._first <= seq + 1 <= self._last:
            return None
        start, count = (seq + 1) % self._size, min(limit, self._last - seq)
        found = self._slots[start : start + count]
        return cast("list[Committed]", found + self._slots[: count - len(found)])

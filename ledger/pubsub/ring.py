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
        self._first = 1
        self._last = 0

    def append(self, committed: Committed) -> None:
        """Add a record; one that does not follow the last empties the ring first."""
        seq = committed.record.seq
        if seq != self._last + 1:
            self._slots = [None] * self._size
            self._first = seq
            self._items = 0
        self._items += _items_of(committed)
        if seq - self._first >= self._size or self._items > self._most:
            self._drop(seq)
        self._slots[seq % self._size] = committed
        self._last = seq

    def _drop(self, seq: int) -> None:
        """Make room for a record of this number."""
        while self._first < seq and (seq - self._first >= self._size or self._items > self._most):
            gone = self._slots[self._first % self._size]
            self._slots[self._first % self._size] = None
            self._first += 1
            self._items -= 0 if gone is None else _items_of(gone)

    def after(self, seq: int, limit: int) -> list[Committed] | None:
        """Return up to `limit` records that follow `seq`, or None where the next one is not here."""
        if not self._first <= seq + 1 <= self._last:
            return None
        start, count = (seq + 1) % self._size, min(limit, self._last - seq)
        found = self._slots[start : start + count]
        return cast("list[Committed]", found + self._slots[: count - len(found)])


def _items_of(committed: Committed) -> int:
    record = committed.record
    return len(record.entries) + len(record.changes)

"""The latest records, in memory."""

from typing import cast

from ledger.domain.events import Committed


class Ring:
    """Keeps the last `size` of the records appended to it, which follow one another without a gap."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._slots: list[Committed | None] = [None] * size
        self._first = 1
        self._last = 0

    def append(self, committed: Committed) -> None:
        """Add a record; one that does not follow the last empties the ring first."""
        seq = committed.seq
        if seq != self._last + 1:
            self._slots = [None] * self._size
            self._first = seq
        self._slots[seq % self._size] = committed
        self._last = seq
        self._first = max(self._first, seq - self._size + 1)

    def after(self, seq: int, limit: int) -> list[Committed] | None:
        """Return up to `limit` records that follow `seq`, or None where the next one is not here."""
        if not self._first <= seq + 1 <= self._last:
            return None
        start, count = (seq + 1) % self._size, min(limit, self._last - seq)
        found = self._slots[start : start + count]
        return cast("list[Committed]", found + self._slots[: count - len(found)])

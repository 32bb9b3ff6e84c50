"""The latest records, in memory."""

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
        slots, size = self._slots, self._size
        found = (slots[n % size] for n in range(seq + 1, min(seq + limit, self._last) + 1))
        return [committed for committed in found if committed is not None]

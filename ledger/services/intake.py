"""What waits for the writer, and what of it makes the next batch."""

from collections import deque
from collections.abc import Iterator
from operator import attrgetter
from typing import Final

from ledger.services.batch import Batch
from ledger.services.bundles import Bundles
from ledger.services.lanes import Lanes
from ledger.services.replies import Waiting

BATCH: Final = 1_000
_BESIDE: Final = 64  # of bundles, where single commands come as well: what waits beside them shall not wait long
_LATE: Final = 64
_MORE: Final = 256  # that a batch of bundles grows by in one go, while it waits for the one before
_GROWN: Final = 2  # how many times its usual size it may come to
_CALM: Final = 8  # batches in a row without a single command


class Intake:
    """Single commands wait in lanes, bundles beside them; a batch is filled from both, by weight."""

    def __init__(self, lanes: Lanes[Waiting] | None = None, batch: int = BATCH) -> None:
        self.lanes: Lanes[Waiting] = Lanes(weigh=attrgetter("weight")) if lanes is None else lanes
        self.bundles = Bundles()
        self._batch = batch
        self._first: deque[Batch] = deque()  # what is to be decided before anything else
        self._calm = 0

    def take(self) -> Batch:
        """Take what is next, which may be nothing."""
        return self._first.popleft() if self._first else self._taken()

    def take_ahead(self) -> Batch | None:
        """Choose the next batch now, if later it would not be a fuller one; it is what `take` returns next."""
        is_full = len(self.lanes) >= self._batch or self.bundles
        if self._first or not is_full:
            return None
        batch = self._taken()
        self._first.append(batch)
        return batch

    def take_late(self, batch: Batch) -> list[Waiting]:
        """Take single commands that have come since a batch of bundles was taken ahead: few, as it waits for them."""
        if not batch.is_bundled or not len(self.lanes):
            return []
        self._calm = 0
        return self.lanes.take(_LATE)

    def take_more(self, batch: Batch) -> Batch | None:
        """Take more of the bundles for a batch that was taken ahead, unless single commands come as well."""
        limit = min(_GROWN * self._batch - batch.weight, _MORE)
        is_last = len(self._first) == 1 and self._first[0] is batch  # what is put back goes before all that came later
        is_alone = self._is_calm and not len(self.lanes)
        if not (is_last and is_alone and self.bundles and self.bundles.least <= limit):
            return None
        return Batch(self.bundles.take(limit))

    def put_back(self, batch: Batch) -> None:
        """Have a batch taken behind those that were taken ahead of it."""
        self._first.append(batch)

    def put_first(self, *batches: Batch) -> None:
        """Have batches taken before anything else, in their order."""
        self._first.extendleft(reversed(batches))

    def drain(self) -> Iterator[Waiting]:
        """Take everything."""
        first, self._first = self._first, deque()
        for batch in first:
            yield from batch.waiting
        yield from self.lanes.drain()
        yield from self.bundles.drain()

    def _taken(self) -> Batch:
        self._calm = 0 if len(self.lanes) else self._calm + 1
        bundled = self.bundles.take(self._batch if self._is_calm else min(self._batch, _BESIDE))
        many = sum(len(share.commands) for share in bundled)
        return Batch([*self.lanes.take(max(self._batch - many, 1)), *bundled])

    @property
    def _is_calm(self) -> bool:
        return self._calm > _CALM

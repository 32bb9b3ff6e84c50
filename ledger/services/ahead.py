"""Deciding ahead: before the database is asked, if memory holds all that a batch takes."""

from contextlib import suppress
from typing import Any, Final

from twisted.internet.defer import Deferred, ensureDeferred

from ledger.domain.book import Book, decide
from ledger.domain.commands import Sealed
from ledger.services.batch import Batch
from ledger.services.deciding import BatchStore, Decided, decide_batch, decide_on
from ledger.services.intake import Intake

_SMALL: Final = 128  # by weight, of a batch that is decided in one go rather than while the database is at work on it


class Decider:
    """Decides batches: on what is read for them, or ahead.

    The latter saves a way to the database, and lets a batch be decided while the one before it is being kept.
    """

    def __init__(self, store: BatchStore, intake: Intake, reactor: Any) -> None:
        self.guessed = 0  # how many were decided ahead
        self._store = store
        self._intake = intake
        self._reactor = reactor
        self._next: _Ahead | None = None
        self._under_way: Deferred[None] | None = None

    def look_ahead(self, under_way: Deferred[None]) -> None:
        """Decide the next batch, if it can be, while the one before it is on its way; or make ready to read for it."""
        self._under_way = under_way
        batch = self._intake.take_ahead()
        if batch is not None and (book := self._store.look_ahead(batch.commands)) is not None:
            self._next = _Ahead(self._store, self._intake, self._reactor, batch, book)

    def more_has_come(self) -> None:
        """Have the batch that was decided ahead, and waits, take in more; or decide one ahead, now that one can be."""
        if self._next is not None:
            self._next.go_on()
        elif self._under_way is not None and not self._under_way.called:
            self.look_ahead(self._under_way)

    async def decide(self, batch: Batch) -> Decided:
        """Return what came of a batch, for the store to keep."""
        following, self._next = self._next, None
        decided = None
        if following is not None:
            following.stop()
        if following is not None and following.batch is batch:
            decided = await following.decided()
        elif batch.weight <= _SMALL and (book := self._store.look_ahead(batch.commands)) is not None:
            decided = await self._guessed(batch, book)
        if decided is None:
            return await decide_batch(self._store, batch, self._reactor)
        self.guessed += 1
        return self._with_late(batch, decided._replace(is_guess=True))

    async def _guessed(self, batch: Batch, book: Book) -> Decided | None:
        with suppress(Exception):  # it will show again when the batch is decided on what is read
            decided = await decide_on(self._store, batch, book, self._reactor)
            return decided if decided.records else None
        return None

    def _with_late(self, batch: Batch, decided: Decided) -> Decided:
        """Decide as well what came since the batch was taken: what comes alone shall not wait for the one after."""
        late = self._intake.take_late(batch)
        commands = [one.commands[0] for one in late]
        if not late:
            return decided
        if not self._store.join(decided.book, commands):
            self._intake.put_first(Batch(late))
            return decided
        batch.join(late)
        outcomes = decide(decided.book, commands)
        sealed = [outcome for outcome in outcomes if isinstance(outcome, Sealed)]
        return decided._replace(
            outcomes=[*outcomes, *decided.outcomes],
            records=decided.records + [one.record for one in sealed],
            rest=decided.rest + sealed,
        )


class _Ahead:
    """A batch that is decided while the one before it is being kept, and grows until that is done.

    So neither the database nor this process waits for the other, when once the one and once the other is the slower.
    """

    def __init__(self, store: BatchStore, intake: Intake, reactor: Any, batch: Batch, book: Book) -> None:
        self.batch = batch
        self._store = store
        self._intake = intake
        self._reactor = reactor
        self._made = Decided(book, [], [], [])
        self._is_broken = False
        self._is_due = False
        self._work: Deferred[None] = ensureDeferred(self._begin())

    def go_on(self) -> None:
        """Grow, if it has come to rest."""
        if self._work.called and not self._is_due:
            self._work = ensureDeferred(self._grow())

    def stop(self) -> None:
        """Grow no more."""
        self._is_due = True

    async def decided(self) -> Decided | None:
        """Return what came of the batch; None where that is nothing, or something broke."""
        await self._work
        return None if self._is_broken or not self._made.records else self._made

    async def _begin(self) -> None:
        await self._decide(self.batch)
        await self._grow()

    async def _grow(self) -> None:
        while not (self._is_due or self._is_broken) and (more := self._intake.take_more(self.batch)) is not None:
            if not self._store.join(self._made.book, more.commands):
                self._intake.put_back(more)
                break
            self.batch.grow(more)
            await self._decide(more)

    async def _decide(self, batch: Batch) -> None:
        made = self._made
        try:
            one = await decide_on(self._store, batch, made.book, self._reactor, is_ahead=True)
            if one.rest:
                await self._store.append_part(made.book, one.rest)  # so that it can be sent at once
        except Exception:  # it will show again when the batch is decided on what is read
            self._is_broken = True
        else:
            made.outcomes.extend(one.outcomes)
            made.records.extend(one.records)

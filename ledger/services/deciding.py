"""Deciding a batch slice by slice; what is decided is handed to the store on the way."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from twisted.internet.task import deferLater

from ledger.domain.book import Book, decide
from ledger.domain.commands import Command, Outcome, Reply, Sealed, answered
from ledger.domain.holds import overdue
from ledger.domain.journal import Record
from ledger.domain.together import Together
from ledger.services.batch import Batch, Slice
from ledger.services.ids import new_id

_IN_ONE_GO: Final = 128  # by weight, of what belongs together
_PIECE: Final = 512  # entries that are handed to the store at once
_RECORDS_OF_HOLDS: Final = 2  # that are decided in one go


class BatchStore(Protocol):
    """Where batches are kept: PostgreSQL (`store.journal.JournalWriter`) or memory (`store.memory.MemoryJournal`)."""

    async def open(self) -> None: ...
    def look_ahead(self, commands: Sequence[Command]) -> Book | None: ...
    def join(self, book: Book, commands: Sequence[Command]) -> bool: ...
    async def read_facts(self, commands: Sequence[Command]) -> Book: ...
    async def append_part(self, book: Book, batch: Sequence[Sealed]) -> None: ...
    async def append(self, book: Book, batch: Sequence[Sealed], refused: Sequence[Command] = ()) -> None: ...
    async def roll_back(self) -> None: ...
    async def kept(self, ids: Iterable[str]) -> set[str]: ...
    def close(self) -> None: ...


class Decided(NamedTuple):
    """What came of a batch: an outcome for each command, all that is to be kept, and what the store has not got yet."""

    book: Book
    outcomes: list[Reply]
    records: list[Record]
    rest: list[Sealed]
    is_guess: bool = False


async def decide_batch(store: BatchStore, batch: Batch, reactor: Any) -> Decided:
    """Decide a batch in a transaction of the store, which is left open."""
    return await decide_on(store, batch, await store.read_facts(batch.commands), reactor)


async def decide_on(store: BatchStore, batch: Batch, book: Book, reactor: Any, *, is_ahead: bool = False) -> Decided:
    """Decide a batch on what a book says; `is_ahead`: beside other work, which has its turn after every slice."""
    keeping = _Keeping(store, book, is_ahead)
    over = overdue(book, new_id)  # holds whose time is up end before all else
    for start in range(0, len(over), _RECORDS_OF_HOLDS):
        await keeping.keep(decide(book, over[start : start + _RECORDS_OF_HOLDS]))
    outcomes: list[Reply] = []
    for part in batch.slices(small=is_ahead):
        if is_ahead:
            await deferLater(reactor, 0)
        decided = await _together(book, part, reactor) if part.is_whole else decide(book, part.commands)
        await keeping.keep(decided)
        # What is told of records is made while they are at hand: later, to fetch them from memory takes as long again.
        outcomes += map(answered, part.commands, decided) if part.is_answered else decided
    return Decided(book, outcomes, keeping.records, keeping.rest)


class _Keeping:
    """Hands the store what is to be kept, a piece at a time; with the last piece the transaction is committed.

    While the store is at work on what came before, a piece is what one slice brought; ahead of that, as much as it may
    be, and at once.
    """

    def __init__(self, store: BatchStore, book: Book, is_ahead: bool) -> None:
        self.records: list[Record] = []
        self.rest: list[Sealed] = []
        self._weight = 0
        self._store = store
        self._book = book
        self._is_ahead = is_ahead

    async def keep(self, outcomes: Iterable[Outcome]) -> None:
        """Take what came of some commands; what has come before is on its way then."""
        is_due = not self._is_ahead
        for outcome in outcomes:
            if isinstance(outcome, Sealed):
                if is_due or self._weight >= _PIECE:
                    await self._hand_over()
                    is_due = False
                self.records.append(outcome.record)
                self.rest.append(outcome)
                self._weight += len(outcome.record.entries)
        if self._is_ahead and self._weight >= _PIECE:
            await self._hand_over()

    async def _hand_over(self) -> None:
        if self.rest:
            await self._store.append_part(self._book, self.rest)
        self.rest, self._weight = [], 0


async def _together(book: Book, part: Slice, reactor: Any) -> list[Outcome]:
    together = Together(book, part.commands)
    while together.go_on(_IN_ONE_GO):
        await deferLater(reactor, 0)
    return together.outcomes

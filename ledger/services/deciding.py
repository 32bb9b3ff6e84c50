"""Deciding a batch: its facts are read under the lock, and what is decided is handed to the store slice by slice."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from twisted.internet.task import deferLater

from ledger.domain.book import Book, decide
from ledger.domain.commands import Command, Outcome, Sealed
from ledger.domain.holds import overdue
from ledger.domain.together import Together
from ledger.services.batch import Batch, Slice
from ledger.services.ids import new_id

_IN_ONE_GO: Final = 128  # of what belongs together


class BatchStore(Protocol):
    """Where batches are kept: PostgreSQL (`store.journal.JournalWriter`) or memory (`store.memory.MemoryJournal`)."""

    async def open(self) -> None: ...
    def look_ahead(self, commands: Sequence[Command]) -> None: ...
    async def read_facts(self, commands: Sequence[Command]) -> Book: ...
    async def append_part(self, book: Book, batch: Sequence[Sealed]) -> None: ...
    async def append(self, book: Book, batch: Sequence[Sealed]) -> None: ...
    async def roll_back(self) -> None: ...
    async def kept(self, ids: Iterable[str]) -> set[str]: ...
    def close(self) -> None: ...


class Decided(NamedTuple):
    """What came of a batch: an outcome for each command, all that is to be kept, and what the store has not got yet."""

    book: Book
    outcomes: list[Outcome]
    sealed: list[Sealed]
    rest: list[Sealed]


async def decide_batch(store: BatchStore, batch: Batch, reactor: Any) -> Decided:
    """Decide a batch in a transaction of the store, which is left open. Holds whose time is up end before all else."""
    book = await store.read_facts(batch.commands)
    rest = _kept(decide(book, overdue(book, new_id)))
    outcomes: list[Outcome] = []
    sealed = list(rest)
    for part in batch.slices():
        if rest:
            await store.append_part(book, rest)
        decided = await _together(book, part, reactor) if part.is_whole else decide(book, part.commands)
        rest = _kept(decided)
        outcomes += decided
        sealed += rest
    return Decided(book, outcomes, sealed, rest)


async def _together(book: Book, part: Slice, reactor: Any) -> list[Outcome]:
    together = Together(book, part.commands)
    while together.go_on(_IN_ONE_GO):
        await deferLater(reactor, 0)
    return together.outcomes


def _kept(outcomes: Iterable[Outcome]) -> list[Sealed]:
    return [outcome for outcome in outcomes if isinstance(outcome, Sealed)]

"""Deciding a batch: its facts are read under the lock, and what is decided is handed to the store slice by slice."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater

from ledger.domain.book import Book, decide
from ledger.domain.commands import Command, Outcome, Sealed
from ledger.domain.holds import overdue
from ledger.domain.together import Together
from ledger.services.batch import Batch, Slice
from ledger.services.ids import new_id
from ledger.services.intake import Intake

_IN_ONE_GO: Final = 128  # by weight, of what belongs together
_PIECE: Final = 512  # entries that are handed to the store at once
_RECORDS_OF_HOLDS: Final = 2  # that are decided in one go
_SMALL: Final = 128  # by weight, of a batch that is decided in one go rather than while the database is at work on it


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
    outcomes: list[Outcome]
    sealed: list[Sealed]
    rest: list[Sealed]
    is_guess: bool = False


async def decide_batch(store: BatchStore, batch: Batch, reactor: Any) -> Decided:
    """Decide a batch in a transaction of the store, which is left open."""
    return await _decided(store, batch, await store.read_facts(batch.commands), reactor)


class Deciding:
    """Decides batches: on what is read for them, or before the database is asked, if memory holds all that they take.

    The latter saves a way to the database, and lets a batch be decided while the one before it is being kept.
    """

    def __init__(self, store: BatchStore, intake: Intake, reactor: Any) -> None:
        self.guessed = 0  # how many were decided so
        self._store = store
        self._intake = intake
        self._reactor = reactor
        self._next: tuple[Batch, Deferred[Decided | None]] | None = None

    def look_ahead(self) -> None:
        """Decide the next batch, if it can be, while the one before it is on its way; or make ready to read for it."""
        batch = self._intake.take_ahead()
        if batch is not None and (book := self._store.look_ahead(batch.commands)) is not None:
            self._next = batch, ensureDeferred(self._guess(batch, book, is_ahead=True))

    async def decide(self, batch: Batch) -> Decided:
        """Return what came of a batch, for the store to keep."""
        following, self._next = self._next, None
        decided = None
        if following is not None and following[0] is batch:
            decided = await following[1]
        elif batch.weight <= _SMALL and (book := self._store.look_ahead(batch.commands)) is not None:
            decided = await self._guess(batch, book)
        if decided is None:
            return await decide_batch(self._store, batch, self._reactor)
        self.guessed += 1
        return self._with_late(batch, decided)

    def _with_late(self, batch: Batch, decided: Decided) -> Decided:
        """Decide as well what came since the batch was taken: what comes alone shall not wait for the one after."""
        late = self._intake.take_late(batch)
        commands = [one.commands[0] for one in late]
        if not late or not self._store.join(decided.book, commands):
            if late:
                self._intake.put_first(Batch(late))
            return decided
        batch.join(late)
        outcomes = decide(decided.book, commands)
        sealed = [outcome for outcome in outcomes if isinstance(outcome, Sealed)]
        return decided._replace(
            outcomes=outcomes + decided.outcomes, sealed=decided.sealed + sealed, rest=decided.rest + sealed
        )

    async def _guess(self, batch: Batch, book: Book, *, is_ahead: bool = False) -> Decided | None:
        """Decide a batch on a book that is a guess; return None where that comes to nothing."""
        with suppress(Exception):  # it will show again when the batch is decided on what is read
            decided = await _decided(self._store, batch, book, self._reactor, is_ahead=is_ahead)
            if decided.sealed and is_ahead:
                await self._store.append_part(book, decided.rest)  # so that it can be sent at once
                decided = decided._replace(rest=[])
            if decided.sealed:
                return decided._replace(is_guess=True)
        return None


async def _decided(store: BatchStore, batch: Batch, book: Book, reactor: Any, *, is_ahead: bool = False) -> Decided:
    keeping = _Keeping(store, book)
    over = overdue(book, new_id)  # holds whose time is up end before all else
    for start in range(0, len(over), _RECORDS_OF_HOLDS):
        await keeping.keep(decide(book, over[start : start + _RECORDS_OF_HOLDS]))
    outcomes: list[Outcome] = []
    for part in batch.slices(small=is_ahead):
        if is_ahead:
            await deferLater(reactor, 0)
        decided = await _together(book, part, reactor) if part.is_whole else decide(book, part.commands)
        await keeping.keep(decided)
        outcomes += decided
    return Decided(book, outcomes, keeping.sealed, keeping.rest)


class _Keeping:
    """Hands the store what is to be kept: all but the last piece, with which the transaction is committed."""

    def __init__(self, store: BatchStore, book: Book) -> None:
        self.sealed: list[Sealed] = []
        self.rest: list[Sealed] = []
        self._store = store
        self._book = book

    async def keep(self, outcomes: Iterable[Outcome]) -> None:
        """Take what came of some commands; what has come before is on its way then."""
        piece: list[Sealed] = []
        weight = 0
        for outcome in outcomes:
            if isinstance(outcome, Sealed):
                if weight >= _PIECE:
                    await self._next(piece)
                    piece, weight = [], 0
                piece.append(outcome)
                weight += len(outcome.record.entries)
        await self._next(piece)

    async def _next(self, piece: list[Sealed]) -> None:
        if piece and self.rest:
            await self._store.append_part(self._book, self.rest)
        self.sealed += piece
        self.rest = piece or self.rest


async def _together(book: Book, part: Slice, reactor: Any) -> list[Outcome]:
    together = Together(book, part.commands)
    while together.go_on(_IN_ONE_GO):
        await deferLater(reactor, 0)
    return together.outcomes

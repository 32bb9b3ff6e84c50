"""The journal in memory: the same interface as in PostgreSQL, for servers inside a process and for fast tests."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from ledger.domain.accounts import Account, world_id
from ledger.domain.book import Book
from ledger.domain.commands import ACCOUNTS, Command, Sealed
from ledger.domain.events import Committed
from ledger.domain.journal import START, Head, Record
from ledger.store.facts import gather


def instant_text(seconds: float) -> str:
    """Return an instant in the form that records carry."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class MemoryJournal:
    """A journal and its accounts, kept while the process lives."""

    def __init__(self, clock: Any, currency_assets: Iterable[str] = ("USD/2",)) -> None:
        self._clock = clock
        self.accounts: dict[str, Account] = {}
        self.sealed: list[Sealed] = []
        self._parts: list[Sealed] = []
        self._known: dict[tuple[str | None, str | None], Record] = {}
        for asset in currency_assets:
            self.open_account(Account(world_id(asset), None, asset, "WORLD", "ACTIVE", 0, 0, 0, 0))

    def open_account(self, account: Account) -> None:
        """Add an account."""
        self.accounts[account.id] = account

    @property
    def top(self) -> Head:
        """The last record's number and hash."""
        return Head(self.sealed[-1].record.seq, self.sealed[-1].hash) if self.sealed else START

    async def open(self) -> None:
        """Nothing to do."""

    def look_ahead(self, commands: Sequence[Command]) -> Book | None:  # noqa: ARG002
        """Return None: to read takes no time."""
        return None

    def join(self, book: Book, commands: Sequence[Command]) -> bool:  # noqa: ARG002
        """Return False: no book is made ahead."""
        return False

    async def read_facts(self, commands: Sequence[Command]) -> Book:
        """Hand out copies of what the commands are decided on."""
        wanted = gather(commands)
        accounts = {
            key: msgspec.structs.replace(self.accounts[key]) for key in wanted.pop(ACCOUNTS, ()) if key in self.accounts
        }
        known = {(c.scope, c.key): self._known[c.scope, c.key] for c in commands if (c.scope, c.key) in self._known}
        instant = instant_text(self._clock.seconds())
        if self.sealed:
            instant = max(instant, self.sealed[-1].record.posted_at)
        return Book(self.top, instant, accounts, known, self.facts(wanted))

    def facts(self, wanted: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
        """Return the facts beyond accounts; a subclass with more tables says which it has."""
        return {name: {} for name in wanted}

    async def append_part(self, book: Book, batch: Sequence[Sealed]) -> None:  # noqa: ARG002
        """Take the first records of a batch."""
        self._parts.extend(batch)

    async def append(self, book: Book, batch: Sequence[Sealed], refused: Sequence[Command] = ()) -> None:  # noqa: ARG002
        """Keep a batch and the state it led to."""
        batch, self._parts = [*self._parts, *batch], []
        self.sealed.extend(batch)
        self.accounts.update(book.touched)
        self._known.update({(s.record.scope, s.record.key): s.record for s in batch if s.record.key is not None})

    async def roll_back(self) -> None:
        """Forget the copies."""
        self._parts = []

    async def kept(self, ids: Iterable[str]) -> set[str]:
        """Return those of the records that are in the journal."""
        return set(ids) & {sealed.record.id for sealed in self.sealed}

    def close(self) -> None:
        """Nothing to do."""

    async def head(self) -> int:
        """Return the number of the last record."""
        return self.top.seq

    async def after(self, seq: int, limit: int) -> list[Committed]:
        """Return the records that follow `seq`, in order."""
        return [Committed(s.record, self.accounts) for s in self.sealed[seq : seq + limit]]

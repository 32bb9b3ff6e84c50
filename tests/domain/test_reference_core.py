"""Transfers, holds, reversals, accounts and periods against the naive core, request by request, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock

from ledger.domain.account_commands import OPENED_ACCOUNTS
from ledger.domain.accounts import Account
from ledger.domain.book import Book
from ledger.domain.commands import Command, Outcome, Sealed
from ledger.domain.deletion import ACCOUNTS_OF_USERS, DELETED_USERS, USERS, Member
from ledger.domain.held import AccountWithHolds, Due, Hold
from ledger.domain.holds import EXPIRED_HOLDS, HOLDS, OPEN_HOLDS
from ledger.domain.periods import BACKDATED, LATEST, PERIODS, Closed
from ledger.domain.reversals import REVERSED, Reversed
from ledger.services.batch import Batch
from ledger.services.bundles import Bundle
from ledger.services.deciding import decide_batch
from ledger.store.memory import MemoryJournal, instant_text
from tests.core_programs import Cast, Player
from tests.side_by_side import SideBySide
from tests.strategies import examples

START = 1_767_323_045.0


class CoreMemory(MemoryJournal):
    """A journal in memory with all tables of the core."""

    def __init__(self, clock: Clock, cast: Cast) -> None:
        super().__init__(clock, ())
        for account in cast.everyone:
            self.open_account(account)
        self.users = dict.fromkeys(cast.users, "ACTIVE")
        self.holds: dict[str, Hold] = {}
        self.reversed: dict[str, str] = {}
        self.periods: list[str] = []
        self.backdated: list[tuple[Any, ...]] = []

    async def read_facts(self, commands: Sequence[Command]) -> Book:
        """Hand out accounts with their open holds that may be over."""
        book = await super().read_facts(commands)
        book.accounts = {key: self._with_holds(account) for key, account in book.accounts.items()}
        return book

    def _with_holds(self, account: Account) -> Account:
        due = tuple(
            Due(hold.id, hold.amount, hold.expires_at)
            for hold in self.holds.values()
            if hold.account_id == account.id and hold.status == "open" and hold.expires_at is not None
        )
        return AccountWithHolds(**{name: getattr(account, name) for name in Account.__struct_fields__}, due=due)

    def facts(self, wanted: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
        """Read the tables."""
        found: dict[str, dict[str, Any]] = {}
        for name, keys in wanted.items():
            if name == USERS:
                found[name] = {key: Member(key, self.users[key]) for key in keys if key in self.users}
            elif name == ACCOUNTS_OF_USERS:
                theirs = [account for account in self.accounts.values() if account.user_id in keys]
                found[name] = {account.id: self._with_holds(account) for account in theirs}
            elif name == HOLDS:
                found[name] = {key: self.holds[key] for key in keys if key in self.holds}
            elif name == OPEN_HOLDS:
                found[name] = {}
            elif name == REVERSED:
                found[name] = {key: Reversed(key, self.reversed[key]) for key in keys if key in self.reversed}
            else:
                assert name == PERIODS
                found[name] = {LATEST: Closed(LATEST, max(self.periods))} if self.periods else {}
        return found

    async def append(self, book: Book, batch: Sequence[Sealed], refused: Sequence[Command] = ()) -> None:
        """Keep the rows, too."""
        before = len(self.sealed)
        await super().append(book, batch, refused)
        for sealed in self.sealed[before:]:
            for name, row in sealed.writes:
                if name == HOLDS:
                    self.holds[row["id"]] = Hold(**{key: row[key] for key in Hold.__struct_fields__})
                elif name == EXPIRED_HOLDS:
                    self.holds[row["id"]] = msgspec.structs.replace(self.holds[row["id"]], status="expired")
                elif name == REVERSED:
                    self.reversed[row["transfer_id"]] = row["amount"]
                elif name == PERIODS:
                    self.periods.append(row["until"])
                elif name == BACKDATED:
                    names = ("account_id", "effective_at", "version", "amount", "posted_at")
                    self.backdated.append(tuple(row[key] for key in names))
                elif name == DELETED_USERS:
                    self.users[row["id"]] = "DELETED"
                elif name == OPENED_ACCOUNTS:
                    assert row["id"] in self.accounts


def done(work: Any) -> Any:
    """The result of work that waits for nothing."""
    results: list[Any] = []
    ensureDeferred(work).addBoth(results.append)
    (result,) = results
    if not isinstance(result, Exception) and hasattr(result, "raiseException"):
        result.raiseException()
    return result


def decided(journal: CoreMemory, bundles: list[Bundle]) -> tuple[str, list[Outcome]]:
    """Decide a batch as the writer does, keep it, and tell its instant and its outcomes."""
    batch = Batch([bundle.take(bundle.weight) for bundle in bundles])
    made = done(decide_batch(journal, batch, Clock()))
    done(journal.append(made.book, made.rest) if made.records else journal.roll_back())
    return made.book.instant, made.outcomes


def check_tables(journal: CoreMemory, side: SideBySide) -> None:
    """Compare the further tables with what the reference has."""
    reference = side.reference
    for hold_id, expected in reference.holds.items():
        hold = journal.holds[hold_id]
        status = "open" if expected["status"] == "expired" and hold_id not in side.swept else expected["status"]
        found = msgspec.structs.asdict(hold)
        assert found.pop("account_id") == expected["account"]
        assert {"account": expected["account"], **found} == {**expected, "id": hold_id, "status": status}
    assert len(journal.holds) == len(reference.holds)
    assert {key: int(amount) for key, amount in journal.reversed.items()} == reference.reversed
    assert journal.periods == reference.periods
    assert sorted(journal.backdated) == sorted(reference.backdated)


@given(st.integers(0, 2**32), st.integers(1, 25))
@examples(100)
def test_the_core_and_the_reference_agree(seed: int, length: int) -> None:
    chance, cast, clock = Random(seed), Cast.new(), Clock()
    clock.advance(START)
    journal, side = CoreMemory(clock, cast), SideBySide(cast)
    player = Player(chance, cast, side.reference, instant_text(START))
    for _ in range(length):
        parts = player.batch()
        commands, seq = side.commands(parts), len(journal.sealed)
        bundles = [Bundle(some, is_whole) for some, (_, is_whole) in zip(commands, parts, strict=True)]
        now, outcomes = decided(journal, bundles)
        side.compare(parts, [command for some in commands for command in some], outcomes, now)
        side.follow((sealed.record, sealed.hash) for sealed in journal.sealed[seq:])
        side.check(journal.accounts.values())
        check_tables(journal, side)
        clock.advance(chance.choice((0, 0, 1, 1, 2, 5)))

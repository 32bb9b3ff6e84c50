"""The real core beside the naive one: what both say of every request, and what must be true after every batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

from ledger.domain.accounts import Account
from ledger.domain.commands import Command, Replayed, Reply, Sealed
from ledger.domain.errors import Refused
from ledger.domain.journal import Entry, Record, body_of
from tests.core_commands import command_of
from tests.core_programs import Cast, Part
from tests.reference_core import ReferenceCore, Told


def told_of(outcome: Reply) -> Told:
    """Say what became of a command in the reference's words."""
    if isinstance(outcome, Sealed):
        items = [
            (i.account, i.amount, i.balance, i.held, i.available, i.version)
            if isinstance(i, Entry)
            else (i.account, i.status, i.credit_limit, i.balance, i.held, i.available, i.version)
            for i in outcome.record.items
        ]
        return ("posted", outcome.record.id, *items)
    if isinstance(outcome, Replayed):
        return ("replayed", outcome.record.id)
    return ("refused", outcome.reason if isinstance(outcome, Refused) else repr(outcome))


class SideBySide:
    """Follows both, and what the real one has written."""

    def __init__(self, cast: Cast) -> None:
        self.reference = ReferenceCore(cast.for_reference(), cast.users)
        self.records: dict[str, Record] = {}
        self.swept: set[str] = set()  # holds whose end by time has been written
        self._answers: dict[str, bytes] = {}
        self._hash = bytes(32)
        self._sums: dict[str, tuple[int, int]] = {}  # account -> sum of entries, number of entries

    def commands(self, parts: Iterable[Part]) -> list[list[Command]]:
        """The commands that requests mean, part by part."""
        return [[command_of(ask, self.reference, self.records) for ask in asks] for asks, _ in parts]

    def compare(self, parts: list[Part], commands: Sequence[Command], outcomes: Sequence[Reply], now: str) -> None:
        """Have the reference do the same, and compare what both tell."""
        told = self.reference.batch(parts, now)
        asks = [ask for asks, _ in parts for ask in asks]
        for ask, command, outcome, expected in zip(asks, commands, outcomes, told, strict=True):
            assert told_of(outcome) == expected, (ask, outcome)
            if isinstance(outcome, Sealed):
                assert outcome.record.posted_at == now
                self._answers[ask.id] = command.answer(outcome.record)
            elif isinstance(outcome, Replayed):
                assert command.answer(outcome.record) == self._answers[outcome.record.id]

    def follow(self, written: Iterable[tuple[Record, bytes]]) -> None:
        """Take what was written since, records with their hashes, and check what must be true of each."""
        for record, digest in written:
            assert record.seq == len(self.records) + 1
            self._hash = sha256(self._hash + body_of(record)).digest()
            assert digest == self._hash
            if record.id not in self.reference.records:
                self._expired(record)
            self.records[record.id] = record
            sums: dict[str, int] = {}
            for entry in record.entries:
                asset = self.reference.accounts[entry.account]["asset"]
                sums[asset] = sums.get(asset, 0) + entry.amount
                balance, many = self._sums.get(entry.account, (0, 0))
                assert (entry.balance, entry.version) == (balance + entry.amount, many + 1)
                self._sums[entry.account] = (entry.balance, entry.version)
            assert not any(sums.values())

    def _expired(self, record: Record) -> None:
        assert record.kind == "expiry"
        assert not record.entries
        (change,) = record.changes
        for hold_id in (record.metadata or {})["holds"]:
            hold = self.reference.holds[hold_id]
            assert (hold["status"], hold["account"]) == ("expired", change.account)
            assert hold["expires_at"] <= record.posted_at
            assert hold_id not in self.swept
            self.swept.add(hold_id)

    def check(self, accounts: Iterable[Account]) -> None:
        """Compare the accounts, and what must be true of them."""
        left = {account.id: account for account in accounts}
        for account_id, expected in self.reference.accounts.items():
            account = left.pop(account_id)
            holds = {key: hold for key, hold in self.reference.holds.items() if hold["account"] == account_id}
            unswept = sum(h["amount"] for key, h in holds.items() if h["status"] == "expired" and key not in self.swept)
            still = sum(hold["amount"] for hold in holds.values() if hold["status"] == "open")
            assert expected["held"] == still == account.held - unswept
            assert (account.balance, account.version) == self._sums.get(account_id, (0, 0))
            assert account.is_system or account.available >= 0
            assert self._seen(account) == {key: expected[key] for key in self._seen(account)}
        assert not left

    def _seen(self, account: Account) -> dict[str, Any]:
        return {
            "user": account.user_id,
            "asset": account.asset,
            "type": account.type,
            "status": account.status,
            "balance": account.balance,
            "limit": account.credit_limit,
            "version": account.version,
        }

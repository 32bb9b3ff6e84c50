"""A naive ledger that the real one is compared with: dictionaries, one command at a time, nothing clever."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from ledger.domain.accounts import Account, world_id
from ledger.domain.commands import Command, Outcome, Replayed, Sealed
from ledger.domain.errors import Refused

LARGEST = 2**63 - 1
Told = tuple[Any, ...]


class No(Exception):
    """A refusal."""


class Reference:
    """Accounts as dictionaries, the journal as a list of what was asked, keys as a dictionary."""

    def __init__(self, accounts: Iterable[Account], first: int = 1) -> None:
        self.accounts: dict[str, dict[str, Any]] = {
            account.id: {
                "asset": account.asset,
                "world": account.type == "WORLD",
                "status": account.status,
                "balance": account.balance,
                "held": account.held,
                "limit": account.credit_limit,
                "version": account.version,
            }
            for account in accounts
        }
        self.next = first
        self.keys: dict[tuple[str | None, str], tuple[Any, int]] = {}

    def apply(self, command: Command) -> Told:
        """Do a command and tell what became of it."""
        asked = repr((command.kind, command.content(), command.description))
        if command.key is not None and (command.scope, command.key) in self.keys:
            earlier, seq = self.keys[command.scope, command.key]
            return ("replayed", seq) if earlier == asked else ("refused", "duplicate_transaction")
        before = deepcopy(self.accounts)
        try:
            done = self._do(command)
        except No as no:
            self.accounts = before
            return ("refused", str(no))
        seq, self.next = self.next, self.next + 1
        if command.key is not None:
            self.keys[command.scope, command.key] = (asked, seq)
        return ("posted", seq, *done)

    def _do(self, command: Any) -> list[Told]:
        if command.kind == "credit":
            return self._move(world_id(command.asset), command.account_id, command.amount)
        if command.kind == "debit":
            return self._move(command.account_id, world_id(command.asset), command.amount)
        if command.kind == "transfer":
            return [told for leg in command.legs for told in self._move(leg.source, leg.target, leg.amount)]
        account = self._find(command.account_id)
        if command.kind == "status":
            account["status"] = command.status
        elif command.kind == "limit":
            if account["balance"] - account["held"] + command.credit_limit < 0:
                raise No("negative_balance")
            account["limit"] = command.credit_limit
        elif command.kind == "hold":
            self._check_active(account)
            self._check_spendable(account, command.amount)
            account["held"] += command.amount
        return [(command.account_id, 0, *self._state(account))]

    def _move(self, source_id: str, target_id: str, amount: int) -> list[Told]:
        source, target = self._find(source_id), self._find(target_id)
        self._check_active(source)
        self._check_active(target)
        if source["asset"] != target["asset"]:
            raise No("currency_mismatch")
        self._check_spendable(source, amount)
        if not target["world"] and target["balance"] + amount > LARGEST:
            raise No("amount_exceeds_limit")
        told = []
        for account_id, account, signed in ((source_id, source, -amount), (target_id, target, amount)):
            account["balance"] += signed
            account["version"] += 1
            told.append((account_id, signed, *self._state(account)))
        return told

    def _find(self, account_id: str) -> dict[str, Any]:
        if account_id not in self.accounts:
            raise No("account_not_found")
        return self.accounts[account_id]

    def _check_active(self, account: dict[str, Any]) -> None:
        if account["status"] != "ACTIVE":
            raise No({"FROZEN": "account_frozen"}[account["status"]])

    def _check_spendable(self, account: dict[str, Any], amount: int) -> None:
        if not account["world"] and account["balance"] - account["held"] + account["limit"] < amount:
            raise No("insufficient_funds")

    def _state(self, account: dict[str, Any]) -> Told:
        available = account["balance"] - account["held"] + account["limit"]
        return (account["balance"], account["held"], available, account["version"])


def told(outcome: Outcome) -> Told:
    """Say what became of a command in the reference's words."""
    if isinstance(outcome, Sealed):
        record = outcome.record
        entries = [(e.account, e.amount, e.balance, e.held, e.available, e.version) for e in record.entries]
        changes = [(c.account, 0, c.balance, c.held, c.available, c.version) for c in record.changes]
        return ("posted", record.seq, *entries, *changes)
    if isinstance(outcome, Replayed):
        return ("replayed", outcome.record.seq)
    return ("refused", outcome.reason if isinstance(outcome, Refused) else repr(outcome))


def seen(account: Account) -> dict[str, Any]:
    """Return an account as the reference keeps it."""
    return {
        "asset": account.asset,
        "world": account.type == "WORLD",
        "status": account.status,
        "balance": account.balance,
        "held": account.held,
        "limit": account.credit_limit,
        "version": account.version,
    }

"""A naive core that the real one is compared with: dictionaries, one request at a time, by the contract.

It knows nothing of batches but their instant: a hold whose time is up is over for everyone from that instant on.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from tests.core_programs import Ask, Part

LARGEST = 2**63 - 1
NOT_ACTIVE = {"FROZEN": "account_frozen", "SUSPENDED": "account_suspended"}
Told = tuple[Any, ...]


class No(Exception):
    """A refusal."""


class ReferenceCore:
    """Accounts, holds, transfers, keys and periods as dictionaries and lists."""

    def __init__(self, accounts: dict[str, dict[str, Any]], users: list[str]) -> None:
        self.accounts = accounts  # id -> user, asset, type, name, status, balance, held, limit, version
        self.users = dict.fromkeys(users, "ACTIVE")
        self.holds: dict[str, dict[str, Any]] = {}
        self.records: dict[str, dict[str, Any]] = {}  # what was granted: kind, legs
        self.keys: dict[tuple[str, str], tuple[Any, str]] = {}
        self.reversed: dict[str, int] = {}
        self.backdated: list[Told] = []
        self.periods: list[str] = []
        self.now = ""

    def batch(self, parts: list[Part], now: str) -> list[Told]:
        """Do what is asked for at an instant, part by part, and tell what became of each request."""
        self.now = now
        for hold_id, hold in self.holds.items():
            if hold["status"] == "open" and hold["expires_at"] is not None and hold["expires_at"] <= now:
                self._end(hold_id, "expired")
        return [told for asks, is_whole in parts for told in (self.whole(asks) if is_whole else map(self.apply, asks))]

    def whole(self, asks: list[Ask]) -> list[Told]:
        """Do all of it or nothing: all new or all known."""
        before = deepcopy(self.__dict__)
        told: list[Told] = []
        for ask in asks:
            told.append(self.apply(ask))
            if told[-1][0] == "refused":
                refused = told[-1]
            elif told[-1][0] != told[0][0]:
                refused = ("refused", "duplicate_transaction")
            else:
                continue
            self.__dict__.update(before)
            return [refused] * len(asks)
        return told

    def apply(self, ask: Ask) -> Told:
        """Do one thing, or leave everything as it is."""
        if ask.key is not None and (ask.scope, ask.key) in self.keys:
            content, first = self.keys[ask.scope, ask.key]
            return ("replayed", first) if content == ask.content else ("refused", "duplicate_transaction")
        before = deepcopy(self.__dict__)
        try:
            items = getattr(self, f"_{ask.kind}")(ask, **ask.args)
        except No as no:
            self.__dict__.update(before)
            return ("refused", str(no))
        if ask.key is not None:
            self.keys[ask.scope, ask.key] = (ask.content, ask.id)
        return ("posted", ask.id, *items)

    def _credit(self, ask: Ask, account: str, world: str, amount: int) -> list[Told]:
        return self._moved(ask, [(world, account, amount)])

    def _debit(self, ask: Ask, account: str, world: str, amount: int) -> list[Told]:
        return self._moved(ask, [(account, world, amount)])

    def _transfer(
        self, ask: Ask, legs: list[tuple[str, str, int]], expect: dict[str, Any] | None, effective_at: str | None
    ) -> list[Told]:
        if expect is not None:
            account = self._find(expect["account"])
            if expect.get("version", account["version"]) != account["version"]:
                raise No("version_conflict")
            if self._available(account) < expect.get("available_at_least", self._available(account)):
                raise No("insufficient_funds")
        items = self._moved(ask, legs)
        if effective_at is not None and effective_at > self.now:
            raise No("invalid_datetime_format")
        if effective_at is not None and self.periods and effective_at < max(self.periods):
            raise No("period_closed")
        if effective_at is not None and effective_at < self.now:
            self.backdated += [(item[0], effective_at, item[5], item[1], self.now) for item in items]
        return items

    def _reverse(self, ask: Ask, original: str, amount: int | None) -> list[Told]:
        first = self.records[original]
        legs, kind = first["legs"], first["kind"]
        if not legs:
            raise No("transfer_not_found")
        if kind == "reverse":
            raise No("already_processed")
        whole, before = sum(leg[2] for leg in legs), self.reversed.get(original, 0)
        part = whole - before if amount is None else amount
        if part == 0 or before + part > whole:
            raise No("already_processed")
        if len(legs) > 1 and part < whole:
            raise No("invalid_request")
        back = [(target, source, sent) for source, target, sent in reversed(legs)]
        self.reversed[original] = before + part
        return self._moved(ask, back if part == whole else [(back[0][0], back[0][1], part)])

    def _hold(self, ask: Ask, account: str, amount: int, expires_in: int | None) -> list[Told]:
        found = self._find(account)
        self._check_active(found)
        self._check_spendable(found, amount)
        found["held"] += amount
        self.holds[ask.id] = {
            "account": account,
            "amount": amount,
            "captured": 0,
            "status": "open",
            "expires_at": None if expires_in is None else ask.after(self.now, expires_in),
            "created_at": self.now,
            "description": ask.description,
        }
        return self._changed(ask, account)

    def _capture(self, ask: Ask, hold: str, amount: int, target: str) -> list[Told]:
        found = self._open_hold(hold)
        if amount > found["amount"]:
            raise No("amount_exceeds_limit")
        self._end(hold, "captured")
        found["captured"] = amount
        return self._moved(ask, [(found["account"], target, amount)])

    def _void(self, ask: Ask, hold: str) -> list[Told]:
        found = self._open_hold(hold)
        self._end(hold, "voided")
        return self._changed(ask, found["account"])

    def _sweep(self, _: Ask, account: str) -> list[Told]:
        self._find(account)
        raise No("already_processed")  # what was over has ended by now, whoever has written it

    def _open(self, ask: Ask, user: str, asset: str, type: str, name: str | None, limit: int) -> list[Told]:
        if limit and type != "CREDIT":
            raise No("invalid_account_type")
        if self.users.get(user) != "ACTIVE":
            raise No("user_not_found")
        self.accounts[ask.id] = {
            "user": user, "asset": asset, "type": type, "name": name, "status": "ACTIVE",
            "balance": 0, "held": 0, "limit": limit, "version": 0,
        }  # fmt: skip
        return self._changed(ask, ask.id)

    def _amend(self, ask: Ask, account: str, name: str | None, status: str | None, limit: int | None) -> list[Told]:
        found = self._find(account)
        if found["type"] == "WORLD":
            raise No("forbidden")
        if limit and found["type"] != "CREDIT":
            raise No("invalid_account_type")
        if status == "CLOSED" and (found["balance"] or found["held"]):
            raise No("account_not_empty")
        if status not in (None, "CLOSED") and found["status"] == "CLOSED" and self.users[found["user"]] == "DELETED":
            raise No("account_inactive")
        if limit is not None and found["balance"] - found["held"] + limit < 0:
            raise No("negative_balance")
        found["name"] = name or found["name"]
        found["status"] = status or found["status"]
        found["limit"] = found["limit"] if limit is None else limit
        return self._changed(ask, account)

    def _close(self, ask: Ask, until: str) -> list[Told]:
        if until > self.now:
            raise No("invalid_datetime_format")
        if self.periods and until <= max(self.periods):
            raise No("already_processed")
        self.periods.append(until)
        return self._changed(ask)

    def _delete(self, ask: Ask, user: str) -> list[Told]:
        if self.users.get(user) != "ACTIVE":
            raise No("user_not_found")
        self.users[user] = "DELETED"
        shut = []
        for account_id, account in sorted(self.accounts.items()):
            status = "SUSPENDED" if account["balance"] or account["held"] else "CLOSED"
            if account["user"] == user and account["status"] not in ("CLOSED", status):
                account["status"] = status
                shut.append(account_id)
        return self._changed(ask, *shut)

    def _moved(self, ask: Ask, legs: list[tuple[str, str, int]]) -> list[Told]:
        told: list[Told] = []
        for source_id, target_id, amount in legs:
            source, target = self._find(source_id), self._find(target_id)
            self._check_active(source)
            self._check_active(target)
            if source["asset"] != target["asset"]:
                raise No("currency_mismatch")
            self._check_spendable(source, amount)
            if target["type"] != "WORLD" and target["balance"] + amount > LARGEST:
                raise No("amount_exceeds_limit")
            for account_id, account, signed in ((source_id, source, -amount), (target_id, target, amount)):
                account["balance"] += signed
                account["version"] += 1
                told.append((account_id, signed, account["balance"], account["held"], self._available(account),
                             account["version"]))  # fmt: skip
        self.records[ask.id] = {"kind": ask.kind, "legs": legs}
        return told

    def _changed(self, ask: Ask, *account_ids: str) -> list[Told]:
        self.records[ask.id] = {"kind": ask.kind, "legs": []}
        told = []
        for account_id in account_ids:
            account = self.accounts[account_id]
            told.append((account_id, account["status"], account["limit"], account["balance"], account["held"],
                         self._available(account), account["version"]))  # fmt: skip
        return told

    def _end(self, hold_id: str, status: str) -> None:
        hold = self.holds[hold_id]
        hold["status"] = status
        self.accounts[hold["account"]]["held"] -= hold["amount"]

    def _open_hold(self, hold_id: str) -> dict[str, Any]:
        if hold_id not in self.holds:
            raise No("hold_not_found")
        if self.holds[hold_id]["status"] != "open":
            raise No("already_processed")
        return self.holds[hold_id]

    def _find(self, account_id: str) -> dict[str, Any]:
        if account_id not in self.accounts:
            raise No("account_not_found")
        return self.accounts[account_id]

    def _check_active(self, account: dict[str, Any]) -> None:
        if account["status"] != "ACTIVE":
            raise No(NOT_ACTIVE.get(account["status"], "account_inactive"))

    def _check_spendable(self, account: dict[str, Any], amount: int) -> None:
        if account["type"] != "WORLD" and self._available(account) < amount:
            raise No("insufficient_funds")

    def _available(self, account: dict[str, Any]) -> int:
        available: int = account["balance"] - account["held"] + account["limit"]
        return available

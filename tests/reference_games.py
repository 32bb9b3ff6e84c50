"""A naive game wallet that the real one is compared with: dictionaries, one request at a time, nothing clever."""

from __future__ import annotations

import json
import re
from typing import Any

MOST = 10**15
ALWAYS = ["user", "transaction_uuid", "request_uuid"]
NEEDED = {
    "bet": [*ALWAYS, "currency", "amount"],
    "win": [*ALWAYS, "currency", "amount", "reference_transaction_uuid"],
    "rollback": [*ALWAYS, "reference_transaction_uuid"],
    "balance": ["user", "request_uuid"],
}
COUNTS = ["user", "currency", "amount", "round", "game_code", "reference_transaction_uuid"]


class No(Exception):
    """A status that is no success."""


class ReferenceGames:
    """Balances, what each uuid was used for, and what was rolled back."""

    def __init__(self) -> None:
        self.balances: dict[str, int] = {}
        self.disabled: set[str] = set()
        self.used: dict[str, dict[str, Any]] = {}
        self.undone: set[tuple[str, str]] = set()

    def create(self, names: list[Any]) -> None:
        """Make users."""
        for name in names:
            if isinstance(name, str) and name and name not in self.balances:
                self.balances[name] = 100_000

    def ask(self, kind: str, body: Any) -> dict[str, Any]:
        """Do what a body asks for and answer it."""
        own = {}
        if isinstance(body, dict):
            own = {
                name: body[name]
                for name in ("user", "request_uuid")
                if isinstance(body.get(name), str) and (is_uuid(body[name]) if name == "request_uuid" else body[name])
            }
        try:
            self.check(kind, body)
            balance = self.balances[body["user"]] if kind == "balance" else self.book(kind, body)
        except No as no:
            if str(no) == "RS_ERROR_NOT_ENOUGH_MONEY":
                own |= {"currency": "USD", "balance": self.balances[body["user"]]}
            return {"status": str(no), **own}
        return {"status": "RS_OK", "currency": "USD", "balance": balance, **own}

    def check(self, kind: str, body: Any) -> None:
        """Shape, types, user."""
        if not isinstance(body, dict) or any(name not in body for name in NEEDED[kind]):
            raise No("RS_ERROR_WRONG_SYNTAX")
        for name in NEEDED[kind]:
            value = body[name]
            if name == "amount":
                right = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST
            else:
                right = isinstance(value, str) and (not name.endswith("_uuid") or is_uuid(value))
            if not right:
                raise No("RS_ERROR_WRONG_TYPES")
        if body["user"] not in self.balances:
            raise No("RS_ERROR_UNKNOWN")

    def book(self, kind: str, body: dict[str, Any]) -> int:
        """Everything after that; returns the balance to tell."""
        user, uuid, reference = body["user"], body["transaction_uuid"], body.get("reference_transaction_uuid")
        content = json.dumps([kind, *(body.get(name) for name in COUNTS)])
        if uuid in self.used:
            if self.used[uuid]["content"] != content:
                raise No("RS_ERROR_DUPLICATE_TRANSACTION")
            balance: int = self.used[uuid]["balance"]
            return balance
        if kind != "rollback" and body["currency"] != "USD":
            raise No("RS_ERROR_WRONG_CURRENCY")
        if kind == "bet" and user in self.disabled:
            raise No("RS_ERROR_USER_DISABLED")
        if kind != "rollback" and (uuid, user) in self.undone:
            raise No("RS_ERROR_TRANSACTION_DOES_NOT_EXIST")
        first = self.used.get(reference, {}) if isinstance(reference, str) else {}
        mine = first.get("user") == user and (reference, user) not in self.undone
        if kind == "bet":
            moved = -body["amount"]
        elif kind == "win":
            if not mine or first["kind"] != "bet":
                raise No("RS_ERROR_TRANSACTION_DOES_NOT_EXIST")
            moved = body["amount"]
        else:
            moved = -first["moved"] if mine and first["kind"] != "rollback" else 0
        if self.balances[user] + moved < 0:
            raise No("RS_ERROR_NOT_ENOUGH_MONEY")
        self.balances[user] += moved
        if kind == "rollback":
            self.undone.add((str(reference), user))
        balance = self.balances[user]
        self.used[uuid] = {"content": content, "balance": balance, "user": user, "kind": kind, "moved": moved}
        return balance


def is_uuid(text: str) -> bool:
    """Whether this is a UUID as the contract writes them."""
    return re.fullmatch("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", text) is not None

"""The audit of accounts that the journal itself opens and amends: all that a row says of them was told by a record."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from ledger.domain.audit_rows import Problems, Tables, differing
from ledger.domain.journal import Change, Record

# Kinds of records whose changes leave an account's status and limit as they are.
_KEEPING = frozenset(("hold", "void", "expiry", "bet", "win", "rollback", "game_status"))


class State(msgspec.Struct):
    """An account as the journal has brought it so far."""

    balance: int = 0
    credit_limit: int | None = None  # unknown until something tells: accounts may be opened with one
    status: str = "ACTIVE"  # as every account is opened
    version: int = 0
    name: str | UnsetType | None = UNSET  # unknown until a record tells: first accounts are opened with one


def opening_problems(record: Record, states: dict[str, State], tables: Tables) -> Problems:
    """Check the record that opens an account, and bring forward what it tells of its name."""
    name, said = f"journal {record.seq}", _said(record)
    (change,) = record.changes
    account_id = record.id
    first = Change(account_id, "ACTIVE", change.credit_limit, 0, 0, change.credit_limit, 0)
    if record.entries or change != first or account_id in states:
        yield name, f"opens account {account_id} with a past"
    if change.credit_limit and said["type"] != "CREDIT":
        yield name, f"opens account {account_id} of type {said['type']} with a limit"
    states.setdefault(account_id, State()).name = said["name"]
    nature = tables.natures.get(account_id)
    if nature is not None:  # else the item says so
        told = {key: said[key] for key in ("user_id", "asset", "type")} | {"created_at": record.posted_at}
        yield from differing(f"accounts {account_id}", nature, told, record.seq)


def amendment_problems(record: Record, states: dict[str, State], tables: Tables) -> Problems:
    """Check the record that amends an account: it changes what it was asked for and nothing else."""
    name, said = f"journal {record.seq}", _said(record)
    (change,) = record.changes
    state = states.setdefault(change.account, State())
    told = {"status": said.get("status", state.status), "credit_limit": said.get("credit_limit", state.credit_limit)}
    for column, asked in told.items():
        if asked not in (None, getattr(change, column)):
            yield name, f"leaves account {change.account} with {column} {getattr(change, column)}, not {asked}"
    nature = tables.natures.get(change.account)
    if said.get("credit_limit") and nature is not None and nature.type != "CREDIT":
        yield name, f"gives account {change.account} of type {nature.type} a limit"
    if said.get("status") == "CLOSED" and (change.balance or change.held):
        yield name, f"closes account {change.account}, which is not empty"
    if "name" in said:
        state.name = said["name"]


def keeping_problems(record: Record, states: dict[str, State]) -> Problems:
    """Check that a record of a kind that only moves or holds money leaves status and limit as they were."""
    if record.kind not in _KEEPING:
        return
    for change in record.changes:
        state = states.get(change.account) or State()
        if change.status != state.status or state.credit_limit not in (None, change.credit_limit):
            now = f"{change.status}, {change.credit_limit}"
            was = f"{state.status}, {state.credit_limit}"
            yield f"journal {record.seq}", f"leaves account {change.account} {now}, it was {was}"


def _said(record: Record) -> dict[str, Any]:
    return dict(record.metadata or {})

"""The audit of payments: each is ended by one record at most, which tells all that its row says."""

from typing import Any

from ledger.domain.accounts import world_id
from ledger.domain.audit_rows import KeptPayment, Problems, Tables, differing
from ledger.domain.journal import Record
from ledger.domain.payment_commands import STATUS_BY_KIND, key_of

_TOLD = ("user_id", "account_id", "amount", "direction", "payment_type", "inserted_at")


def payment_of(record: Record) -> list[str]:
    """Return the id of the payment that a record ends, if it ends one."""
    return [_said(record)["payment"]] if record.kind in STATUS_BY_KIND else []


def ending_problems(record: Record, tables: Tables) -> Problems:
    """Check a record that ends a payment: that no other does, the row's own `seq` tells."""
    if record.kind not in STATUS_BY_KIND:
        return
    name, said = f"journal {record.seq}", _said(record)
    payment_id, is_completed = said["payment"], record.kind == "payment"
    row, kept = f"payments {payment_id}", tables.payments.get(payment_id)
    if record.key is None and is_completed:
        yield name, "moves money for a payment, and bears no key"
    if record.key == key_of(payment_id) and record.scope != said["user_id"]:
        yield name, f"ends payment {payment_id} in the scope of another than its user"
    if is_completed:
        yield from _movement_problems(record, tables)
    elif record.items:
        yield name, f"ends payment {payment_id} as {STATUS_BY_KIND[record.kind]}, and touches accounts"
    if kept is None:
        yield row, f"is missing: journal {record.seq} ends it"
        return
    told = {column: said[column] for column in _TOLD} | {
        "description": record.description,
        "status": STATUS_BY_KIND[record.kind],
        "posted_at": record.posted_at if is_completed else None,
        "failure_reason": said.get("reason"),
        "transfer_id": record.id if is_completed else None,
        "updated_at": record.posted_at,
        "seq": record.seq,
    }
    yield from differing(row, kept, told, record.seq)


def _movement_problems(record: Record, tables: Tables) -> Problems:
    said = _said(record)
    account_id, amount = said["account_id"], said["amount"]
    nature = tables.natures.get(account_id)
    if nature is None:  # else the item says so
        return
    outside = world_id(nature.asset)
    source, target = (account_id, outside) if said["direction"] == "DEBIT" else (outside, account_id)
    moved = [(entry.account, entry.amount) for entry in record.entries]
    if moved != [(source, -amount), (target, amount)] or record.changes:
        yield f"journal {record.seq}", f"does not move {amount} from {source} to {target}"


def row_problems(kept: KeptPayment, owner_id: str | None, record: Record | None) -> Problems:
    """Check a row by its account's owner and the record that it names; what that record tells was checked before."""
    row = f"payments {kept.id}"
    if owner_id != kept.user_id:
        yield row, f"is of user {kept.user_id}, account {kept.account_id} is of {owner_id}"
    if kept.status == "PENDING":
        if kept.seq is not None:
            yield row, f"is pending, and names journal {kept.seq}"
        return
    try:
        named = [] if record is None else payment_of(record)
    except (LookupError, TypeError, ValueError):
        named = []
    if named != [kept.id]:
        yield row, f"is {kept.status} by no record"
    if kept.status == "COMPLETED" and kept.direction == "DEBIT":
        paid = (kept.paid_before or 0) + kept.amount
        if kept.paid_in_day != paid:
            yield row, f"counts {kept.paid_in_day} as paid in its day, it was {paid}"
    elif kept.paid_in_day is not None:
        yield row, "counts what was paid in a day, and pays nothing"


def _said(record: Record) -> dict[str, Any]:
    return dict(record.metadata or {})

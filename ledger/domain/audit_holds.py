"""The audit of holds: each is opened once and ends at most once, and what is held is the sum of those that are open."""

from heapq import heappop, heappush
from typing import Any, NamedTuple

from ledger.domain.audit_rows import KeptHold, Problems, Tables, differing
from ledger.domain.journal import Record


class _Open(NamedTuple):
    account: str
    amount: int
    expires_at: str | None
    created_at: str
    seq: int


def holds_of(record: Record) -> list[str]:
    """Return the ids of the holds that a record opens or ends."""
    said: Any = record.metadata or {}
    if record.kind == "hold":
        return [record.id]
    if record.kind in ("capture", "void"):
        return [said["hold"]]
    return list(said["holds"]) if record.kind == "expiry" else []


class HoldsAudit:
    """Keeps the holds that are open, and no others."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._many: dict[str, int] = {}
        self._held: dict[str, int] = {}
        self._ends: dict[str, list[tuple[str, str]]] = {}  # heaps of when holds are over; some have ended before that

    def held(self, account_id: str) -> int:
        """Return the sum of an account's open holds."""
        return self._held.get(account_id, 0)

    def record(self, record: Record, tables: Tables) -> Problems:
        """Check what a record opens or ends, and that nothing counts for its accounts that was over by then."""
        if record.kind == "hold":
            yield from self._opened(record, tables)
        elif record.kind in ("capture", "void", "expiry"):
            yield from self._ended(record, tables)
        if self._held and record.kind != "expiry":  # which may tell of so many holds, and the next one of the others
            for item in record.items:
                yield from self._overdue(record, item.account)

    def _opened(self, record: Record, tables: Tables) -> Problems:
        name, said = f"journal {record.seq}", _said(record)
        (change,) = record.changes
        amount, expires_at = said["amount"], said.get("expires_at")
        if record.entries or amount <= 0 or (expires_at is not None and expires_at <= record.posted_at):
            yield name, f"opens a hold of {amount} up to {expires_at}"
        hold = _Open(change.account, amount, expires_at, record.posted_at, record.seq)
        self._open[record.id] = hold
        self._many[hold.account] = self._many.get(hold.account, 0) + 1
        self._held[hold.account] = self.held(hold.account) + amount
        if expires_at is not None:
            heappush(self._ends.setdefault(hold.account, []), (expires_at, record.id))
        row, kept = f"holds {record.id}", tables.holds.get(record.id)
        if kept is None:
            yield row, f"is missing: journal {record.seq} opens it"
            return
        told = {
            "account_id": change.account,
            "amount": amount,
            "expires_at": expires_at,
            "description": record.description,
            "created_at": record.posted_at,
        }
        yield from differing(row, kept, told, record.seq)

    def _ended(self, record: Record, tables: Tables) -> Problems:
        name, said = f"journal {record.seq}", _said(record)
        first = record.items[0]
        for hold_id in holds_of(record):
            hold = self._open.pop(hold_id, None)
            if hold is None:
                yield name, f"ends hold {hold_id}, which is not open"
                continue
            self._forget(hold)
            if first.account != hold.account or len(record.items) != (2 if record.kind == "capture" else 1):
                yield name, f"ends hold {hold_id} of account {hold.account}, and tells of account {first.account}"
            is_over = hold.expires_at is not None and hold.expires_at <= record.posted_at
            if is_over is not (record.kind == "expiry"):
                yield name, f"ends hold {hold_id} by {record.kind}; its time is up at {hold.expires_at}"
            captured = 0
            if record.kind != "expiry":
                own = (said["amount"], said.get("expires_at"), said["created_at"])
                if own != (hold.amount, hold.expires_at, hold.created_at):
                    yield name, f"tells of hold {hold_id} what journal {hold.seq} does not"
            if record.kind == "capture":
                captured = -record.entries[0].amount
                if not 0 < captured <= hold.amount:
                    yield name, f"captures {captured} of hold {hold_id} of {hold.amount}"
            status = {"capture": "captured", "void": "voided"}.get(record.kind, "expired")
            row, kept = f"holds {hold_id}", tables.holds.get(hold_id)
            if kept is None:
                yield row, f"is missing: journal {record.seq} ends it"
                continue
            yield from differing(row, kept, {"status": status, "captured": captured, "seq": record.seq}, record.seq)

    def _forget(self, hold: _Open) -> None:
        self._held[hold.account] -= hold.amount
        self._many[hold.account] -= 1
        if not self._many[hold.account]:
            del self._many[hold.account], self._held[hold.account]
            self._ends.pop(hold.account, None)

    def _overdue(self, record: Record, account_id: str) -> Problems:
        ends = self._ends.get(account_id)
        while ends and ends[0][1] not in self._open:
            heappop(ends)
        if ends and ends[0][0] <= record.posted_at:
            end, hold_id = ends[0]
            yield f"journal {record.seq}", f"counts hold {hold_id} of account {account_id}, which was over at {end}"

    def row(self, kept: KeptHold, is_recorded: bool, walked: int, head: int) -> Problems:
        """Check a row that was read at a head; what came after the walk is not known of it, what ended was checked."""
        row, hold = f"holds {kept.id}", self._open.get(kept.id)
        if not is_recorded:
            yield row, "was opened by no record"
        elif walked < kept.seq <= head:
            return
        elif hold is not None:
            yield from differing(row, kept, {"status": "open", "captured": 0, "seq": hold.seq}, hold.seq)
        elif kept.status == "open":
            yield row, "is open, the journal has ended it"


def _said(record: Record) -> dict[str, Any]:
    return dict(record.metadata or {})

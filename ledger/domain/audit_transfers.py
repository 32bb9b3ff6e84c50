"""The audit of reversals, of entries that count from before they were booked, and of periods that are closed."""

from typing import Any

from ledger.domain.audit_rows import KeptReversed, Problems, Tables, differing
from ledger.domain.commands import Leg
from ledger.domain.journal import Record
from ledger.domain.reversals import REVERSIBLE, legs_back


class ReversalsAudit:
    """Keeps what is reversed in part; nothing is ever reversed beyond the whole."""

    def __init__(self) -> None:
        self._partial: dict[str, tuple[int, int]] = {}  # the id of a transfer -> how much of it, by which record

    def record(self, record: Record, tables: Tables) -> Problems:
        """Check a record that undoes another."""
        transfer_id = record.reverses
        if transfer_id is None:
            if record.kind == "reversal":
                yield f"journal {record.seq}", "names no transfer that it reverses"
            return
        name, original = f"journal {record.seq}", tables.originals.get(transfer_id)
        if original is None or original.seq >= record.seq or original.kind not in REVERSIBLE or not original.entries:
            yield name, f"reverses {transfer_id}, which is no transfer before it that can be reversed"
            return
        whole, part = _moved(original), _moved(record)
        back = legs_back(original)
        done = tuple(
            Leg(given.account, taken.account, taken.amount)
            for given, taken in zip(record.entries[::2], record.entries[1::2], strict=True)
        )
        meant = back if part == whole or len(back) > 1 else (Leg(back[0].source, back[0].target, part),)
        if done != meant:
            yield name, f"is not the opposite of {transfer_id}"
        before, _ = self._partial.pop(transfer_id, (0, 0))
        after = before + part
        if after > whole:
            yield name, f"brings what is given back of {transfer_id} to {after} of {whole}"
        row, kept = f"reversed_transfers {transfer_id}", tables.reversed_transfers.get(transfer_id)
        if kept is None:
            yield row, f"is missing: journal {record.seq} reverses it"
        elif after == whole:  # the last word on this transfer
            yield from differing(row, kept, {"amount": after, "seq": record.seq}, record.seq)
        else:
            self._partial[transfer_id] = (after, record.seq)

    def row(self, kept: KeptReversed, is_recorded: bool, walked: int, head: int) -> Problems:
        """Check a row that was read at a head; what came after the walk is not known of it, wholes were checked."""
        row = f"reversed_transfers {kept.transfer_id}"
        if not is_recorded:
            yield row, "is reversed by no record"
        elif walked < kept.seq <= head:
            return
        elif kept.transfer_id in self._partial:
            amount, seq = self._partial[kept.transfer_id]
            yield from differing(row, kept, {"amount": amount, "seq": seq}, seq)


def _moved(record: Record) -> int:
    return sum(entry.amount for entry in record.entries if entry.amount > 0)


class PeriodsAudit:
    """Keeps up to when all is closed."""

    def __init__(self) -> None:
        self._closed = ""

    def record(self, record: Record, tables: Tables) -> Problems:
        """Check a record that closes a period, and one that counts from before it was booked."""
        if record.kind == "period_close":
            yield from self._close(record, tables)
        if record.effective_at is not None:
            yield from self._backdated(record, record.effective_at, tables)

    def _close(self, record: Record, tables: Tables) -> Problems:
        name, until = f"journal {record.seq}", until_of(record)
        if record.items or until > record.posted_at:
            yield name, f"closes what is before {until}, and more than that is done or to come"
        if until <= self._closed:
            yield name, f"closes what is before {until}, which was closed up to {self._closed} already"
        self._closed = until
        row, kept = f"closed_periods {until}", tables.closed_periods.get(until)
        if kept is None:
            yield row, f"is missing: journal {record.seq} closes it"
        elif kept != record.seq:
            yield row, f"its seq is {kept}, journal {record.seq} closes it"

    def _backdated(self, record: Record, effective_at: str, tables: Tables) -> Problems:
        name = f"journal {record.seq}"
        if effective_at > record.posted_at:
            yield name, f"counts from {effective_at}, which was to come at {record.posted_at}"
        if effective_at < self._closed:
            yield name, f"counts from {effective_at}, and all before {self._closed} was closed"
        if effective_at == record.posted_at:
            return
        for entry in record.entries:
            row = f"backdated_entries {entry.account} {entry.version}"
            kept = tables.backdated.get((entry.account, entry.version))
            if kept is None:
                yield row, f"is missing: journal {record.seq} counts from {effective_at}"
            else:
                yield from differing(row, kept, {"amount": entry.amount, "posted_at": record.posted_at}, record.seq)


def until_of(record: Record) -> str:
    """Return up to when a record closes everything."""
    said: Any = record.metadata or {}
    until = said["until"]
    if not isinstance(until, str):
        raise TypeError(until)
    return until

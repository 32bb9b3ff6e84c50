"""The audit: walks the journal as it is kept and names the first row that breaks what must always be true."""

from collections.abc import Iterator

import msgspec
from msgspec import UNSET

from ledger.domain.audit_accounts import State, amendment_problems, keeping_problems, opening_problems
from ledger.domain.audit_games import GamesAudit
from ledger.domain.audit_holds import HoldsAudit
from ledger.domain.audit_payments import ending_problems
from ledger.domain.audit_rows import (
    Finding,
    KeptAccount,
    KeptEntry,
    KeptGameUser,
    KeptHold,
    KeptRecord,
    KeptReversed,
    Nature,
    Problems,
    Tables,
)
from ledger.domain.audit_transfers import PeriodsAudit, ReversalsAudit
from ledger.domain.journal import FORM, START, Change, Entry, Head, Record, body_of, entry_id, read_body, seal


class Audit:
    """Takes the journal's rows in order; each check yields what it finds wrong, the first being the one to name."""

    def __init__(self) -> None:
        self.head: Head = START
        self._posted_at = ""
        self._states: dict[str, State] = {}
        self._holds = HoldsAudit()
        self._reversals = ReversalsAudit()
        self._periods = PeriodsAudit()
        self._games = GamesAudit()

    def record(self, row: KeptRecord, tables: Tables, uses_of_key: int) -> Finding | None:
        """Check the next row of the journal against its body, what it led to, and all that came before."""
        for problem in self._record_problems(row, uses_of_key):
            return Finding(f"journal {row.seq}", problem, row.seq)
        record = read_body(row.body)
        self.head = Head(row.seq, row.hash)
        self._posted_at = row.posted_at
        for problems in (self._kind_problems, self._items_problems):
            for where, problem in problems(record, tables):
                return Finding(where, problem, row.seq)
        return None

    def _record_problems(self, row: KeptRecord, uses_of_key: int) -> Iterator[str]:
        if row.seq != self.head.seq + 1:
            yield f"follows {self.head.seq}: the journal has a gap"
        if seal(self.head.hash, row.body.encode()) != row.hash:
            yield "its hash is not that of its body and the hash before it"
        try:
            record = read_body(row.body)
        except msgspec.DecodeError as error:
            yield f"its body cannot be read: {error}"
            return
        if record.v != FORM or body_of(record).decode() != row.body:
            yield "its body is not in canonical form"
        said = (
            record.seq,
            record.id,
            record.kind,
            record.scope,
            record.key,
            record.reverses,
            record.posted_at,
            record.effective_at or record.posted_at,
        )
        for column, kept, own in zip(KeptRecord._fields, row, said, strict=False):
            if kept != own:
                yield f"its {column} is {kept!r}, its body says {own!r}"
        if row.posted_at < self._posted_at:
            yield f"was posted at {row.posted_at}, before the record that it follows"
        if uses_of_key > 1:
            yield f"its idempotency key names {uses_of_key} records"

    def _kind_problems(self, record: Record, tables: Tables) -> Problems:
        """Check what only records of this kind say."""
        try:
            if record.kind == "account":
                yield from opening_problems(record, self._states, tables)
            elif record.kind == "account_update":
                yield from amendment_problems(record, self._states, tables)
            else:
                yield from keeping_problems(record, self._states)
            for part in (self._holds, self._reversals, self._periods, self._games):
                yield from part.record(record, tables)
            yield from ending_problems(record, tables)
        except (LookupError, TypeError, ValueError) as error:
            yield f"journal {record.seq}", f"does not say what a record of kind {record.kind} says: {error!r}"

    def _items_problems(self, record: Record, tables: Tables) -> Problems:
        name = f"journal {record.seq}"
        sums: dict[str, int] = {}
        for index, item in enumerate(record.items):
            nature = tables.natures.get(item.account)
            if nature is None:
                yield name, f"names account {item.account}, which does not exist"
                return
            yield from self._item_problems(record, index, item, nature, tables)
            if isinstance(item, Entry):
                sums[nature.asset] = sums.get(nature.asset, 0) + item.amount
        for asset, total in sums.items():
            if total:
                yield name, f"its entries in {asset} sum up to {total}, not 0"

    def _item_problems(
        self, record: Record, index: int, item: Entry | Change, nature: Nature, tables: Tables
    ) -> Problems:
        name = f"journal {record.seq}"
        state = self._states.setdefault(item.account, State())
        limit, held = item.available - item.balance + item.held, self._holds.held(item.account)
        if isinstance(item, Entry):
            state.balance += item.amount
            state.version += 1
            yield from _entry_problems(record, index, item, tables)
            if state.credit_limit not in (None, limit):
                yield name, f"account {item.account} has limit {limit}, it was {state.credit_limit}"
        else:
            state.status = item.status
            if item.credit_limit != limit:
                yield name, f"account {item.account} has limit {item.credit_limit}, its available says {limit}"
        state.credit_limit = limit
        if item.version != state.version:
            yield name, f"account {item.account} is at version {item.version}, its entries count {state.version}"
        if item.balance != state.balance:
            yield name, f"account {item.account} has balance {item.balance}, its entries sum up to {state.balance}"
        if item.held != held:
            yield name, f"account {item.account} has {item.held} held, its open holds sum up to {held}"
        if item.available < 0 and not nature.is_system:
            yield name, f"account {item.account} has passed its limit: available {item.available}"

    def account(self, row: KeptAccount) -> Finding | None:
        """Check an account's row as it was when the journal's head was where the walk is."""
        name, state = f"accounts {row.id}", self._states.get(row.id, State())
        for column, found, own in (
            ("version", row.version, state.version),
            ("balance", row.balance, state.balance),
            ("held", row.held, self._holds.held(row.id)),
            ("credit_limit", row.credit_limit, row.credit_limit if state.credit_limit is None else state.credit_limit),
            ("status", row.status, state.status),
            ("name", row.name, row.name if state.name is UNSET else state.name),
        ):
            if found != own:
                return Finding(name, f"has {column} {found}, the journal says {own}")
        if row.last_entry != state.version:
            problem = f"go on to version {row.last_entry}, the journal's entries end at {state.version}"
            return Finding(f"transactions {row.id}", problem)
        return None

    def hold(self, row: KeptHold, is_recorded: bool, head: int) -> Finding | None:
        """Check a hold's row as it was when the journal went up to a head, unless it was changed after the walk."""
        return _first(self._holds.row(row, is_recorded, self.head.seq, head))

    def reversed_transfer(self, row: KeptReversed, is_recorded: bool, head: int) -> Finding | None:
        """Check what is reversed as it was when the journal went up to a head, unless it was changed after the walk."""
        return _first(self._reversals.row(row, is_recorded, self.head.seq, head))

    def game_user(self, row: KeptGameUser, is_recorded: bool) -> Finding | None:
        """Check a game user's row as it was when the journal's head was where the walk is."""
        return _first(self._games.user_row(row, is_recorded))


def _entry_problems(record: Record, index: int, entry: Entry, tables: Tables) -> Problems:
    name = f"transactions {entry.account} {entry.version}"
    kept = tables.entries.get((entry.account, entry.version))
    if kept is None:
        yield name, f"is missing: entry {index} of journal {record.seq}"
        return
    said = KeptEntry(
        entry_id(record.id, index),
        entry.account,
        record.seq,
        abs(entry.amount),
        entry.type,
        entry.balance,
        entry.held,
        entry.version,
        record.posted_at,
    )
    for column, found, own in zip(KeptEntry._fields, kept, said, strict=True):
        if found != own:
            yield name, f"its {column} is {found!r}, journal {record.seq} says {own!r}"


def _first(problems: Problems) -> Finding | None:
    for where, problem in problems:
        return Finding(where, problem)
    return None

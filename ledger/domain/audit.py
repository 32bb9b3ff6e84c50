"""The audit: walks the journal as it is kept and names the first row that breaks what must always be true."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from ledger.domain.events import Holder
from ledger.domain.journal import FORM, START, Change, Entry, Head, Record, body_of, entry_id, read_body, seal


class KeptRecord(NamedTuple):
    """A row of `journal`."""

    seq: int
    id: str
    kind: str
    scope: str | None
    key: str | None
    reverses: str | None
    posted_at: str
    effective_at: str
    body: str
    hash: bytes


class KeptEntry(NamedTuple):
    """A row of `transactions`."""

    id: str
    account_id: str
    seq: int
    amount: int
    type: str
    balance: int
    held: int
    version: int
    timestamp: str


class KeptAccount(NamedTuple):
    """What a row of `accounts` says of its state, and the version of its last row in `transactions`."""

    id: str
    status: str
    balance: int
    held: int
    credit_limit: int
    version: int
    last_entry: int


class Finding(msgspec.Struct, frozen=True):
    """The first thing found wrong: in which row, and what."""

    row: str
    problem: str
    seq: int | None = None


class _State(msgspec.Struct):
    balance: int = 0
    held: int = 0
    credit_limit: int | None = None  # unknown until something tells: accounts may be opened with one
    status: str = "ACTIVE"  # as every account is opened
    version: int = 0


class Audit:
    """Takes the journal's rows in order; each check yields what it finds wrong, the first being the one to name."""

    def __init__(self) -> None:
        self.head: Head = START
        self._posted_at = ""
        self._states: dict[str, _State] = {}

    def record(
        self,
        row: KeptRecord,
        entries: Mapping[tuple[str, int], KeptEntry],
        owners: Mapping[str, Holder],
        uses_of_key: int,
    ) -> Finding | None:
        """Check the next row of the journal against its body, its entries, and all that came before."""
        name = f"journal {row.seq}"
        for problem in self._record_problems(row, uses_of_key):
            return Finding(name, problem, row.seq)
        record = read_body(row.body)
        self.head = Head(row.seq, row.hash)
        self._posted_at = row.posted_at
        sums: dict[str, int] = {}
        for index, item in enumerate(record.items):
            holder = owners.get(item.account)
            if holder is None:
                return Finding(name, f"names account {item.account}, which does not exist", row.seq)
            for where, problem in self._item_problems(record, index, item, holder, entries):
                return Finding(where, problem, row.seq)
            if isinstance(item, Entry):
                sums[holder.asset] = sums.get(holder.asset, 0) + item.amount
        for asset, total in sums.items():
            if total:
                return Finding(name, f"its entries in {asset} sum up to {total}, not 0", row.seq)
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

    def _item_problems(
        self,
        record: Record,
        index: int,
        item: Entry | Change,
        holder: Holder,
        entries: Mapping[tuple[str, int], KeptEntry],
    ) -> Iterator[tuple[str, str]]:
        name = f"journal {record.seq}"
        state = self._states.setdefault(item.account, _State())
        limit = item.available - item.balance + item.held
        if isinstance(item, Entry):
            state.balance += item.amount
            state.version += 1
            yield from self._entry_problems(record, index, item, entries)
            if state.credit_limit not in (None, limit):
                yield name, f"account {item.account} has limit {limit}, it was {state.credit_limit}"
        else:
            state.status = item.status
            if item.credit_limit != limit:
                yield name, f"account {item.account} has limit {item.credit_limit}, its available says {limit}"
        state.held, state.credit_limit = item.held, limit
        if item.version != state.version:
            yield name, f"account {item.account} is at version {item.version}, its entries count {state.version}"
        if item.balance != state.balance:
            yield name, f"account {item.account} has balance {item.balance}, its entries sum up to {state.balance}"
        if item.available < 0 and not holder.is_system:
            yield name, f"account {item.account} has passed its limit: available {item.available}"

    def _entry_problems(
        self, record: Record, index: int, entry: Entry, entries: Mapping[tuple[str, int], KeptEntry]
    ) -> Iterator[tuple[str, str]]:
        name = f"transactions {entry.account} {entry.version}"
        kept = entries.get((entry.account, entry.version))
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

    def account(self, row: KeptAccount) -> Finding | None:
        """Check an account's row as it was when the journal's head was where the walk is."""
        name, state = f"accounts {row.id}", self._states.get(row.id, _State())
        for column, found, own in (
            ("version", row.version, state.version),
            ("balance", row.balance, state.balance),
            ("held", row.held, state.held),
            ("credit_limit", row.credit_limit, row.credit_limit if state.credit_limit is None else state.credit_limit),
            ("status", row.status, state.status),
        ):
            if found != own:
                return Finding(name, f"has {column} {found}, the journal says {own}")
        if row.last_entry != state.version:
            problem = f"go on to version {row.last_entry}, the journal's entries end at {state.version}"
            return Finding(f"transactions {row.id}", problem)
        return None

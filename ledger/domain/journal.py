"""The journal: records in one order, each sealed to the one before, and the exact bytes each is kept as."""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, Final

import msgspec

FORM: Final = 1
GENESIS: Final = bytes(32)

_encoder = msgspec.json.Encoder(order="deterministic")


def canonical(value: Any) -> bytes:
    """Return the one JSON text of a value: no spaces, fields of structs in their order, keys of objects sorted."""
    return _encoder.encode(value)


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One side of a movement of money (less than zero: a debit), with the state of its account after it."""

    account: str
    amount: int
    balance: int
    held: int
    available: int
    version: int

    @property
    def type(self) -> str:
        """`debit` or `credit`."""
        return "debit" if self.amount < 0 else "credit"


class Change(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An account whose state changed without money moving: its state after that."""

    account: str
    status: str
    credit_limit: int
    balance: int
    held: int
    available: int
    version: int


class Record(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """One committed fact; encoded, it is the body that is kept, hashed and verified (docs/journal-format.md).

    It holds all that the answer to its command says, so that a replay is answered from it, byte for byte.
    """

    v: int
    seq: int
    id: str
    kind: str
    posted_at: str
    effective_at: str | None = None
    scope: str | None = None
    key: str | None = None
    fingerprint: str | None = None
    reverses: str | None = None
    description: str | None = None
    metadata: Mapping[str, Any] | None = None
    entries: tuple[Entry, ...] = ()
    changes: tuple[Change, ...] = ()

    @property
    def items(self) -> tuple[Entry | Change, ...]:
        """All that the record did to accounts, in order."""
        return (*self.entries, *self.changes)


class Head(msgspec.Struct, frozen=True, gc=False):
    """The last record of the journal: its number and its hash."""

    seq: int
    hash: bytes


START: Final = Head(0, GENESIS)

_FOLLOWING: Final = {f"{n:02x}": (f"{n + 1:02x}", f"{n + 2:02x}") for n in range(254)}  # without a carry

_decoder = msgspec.json.Decoder(Record)


def body_of(record: Record) -> bytes:
    """Return the canonical body of a record."""
    return _encoder.encode(record)


def read_body(body: str | bytes) -> Record:
    """Return the record that a kept body says; raises `msgspec.DecodeError` where it is not one."""
    return _decoder.decode(body)


def seal(previous: bytes, body: bytes) -> bytes:
    """Return the hash of a record: SHA-256 over the hash before it and its body."""
    return sha256(previous + body).digest()


def entry_ids(records: Iterable[Record]) -> list[str]:
    """Return the ids of the entries of some records."""
    names: list[str] = []
    for record in records:
        record_id, many = record.id, len(record.entries)
        if many == 2 and (last := _FOLLOWING.get(record_id[34:])) is not None:  # as of most records
            stem = record_id[:34]
            names += (stem + last[0], stem + last[1])
        else:
            names += [entry_id(record_id, index) for index in range(many)]
    return names


def entry_id(record_id: str, index: int) -> str:
    """Return the id of a record's entry, derived from the record's, so that deciding needs no randomness."""
    return f"{record_id[:24]}{(int(record_id[24:], 16) + index + 1) & 0xFFFFFFFFFFFF:012x}"

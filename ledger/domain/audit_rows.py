"""The rows that the audit compares with the journal, as they are kept, and what it says of the first that is wrong."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from ledger.domain.accounts import WORLD_TYPE
from ledger.domain.journal import Record

Problems = Iterator[tuple[str, str]]  # the row, and what is wrong with it


class Finding(msgspec.Struct, frozen=True):
    """The first thing found wrong: in which row, and what."""

    row: str
    problem: str
    seq: int | None = None


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
    name: str | None
    status: str
    balance: int
    held: int
    credit_limit: int
    version: int
    last_entry: int


class Nature(NamedTuple):
    """What never changes of a row of `accounts`."""

    id: str
    user_id: str | None
    asset: str
    type: str
    created_at: str

    @property
    def is_system(self) -> bool:
        """Whether this is the outside world of its asset."""
        return self.type == WORLD_TYPE


class KeptHold(NamedTuple):
    """A row of `holds`."""

    id: str
    account_id: str
    amount: int
    captured: int
    status: str
    expires_at: str | None
    description: str | None
    created_at: str
    seq: int


class KeptReversed(NamedTuple):
    """A row of `reversed_transfers`."""

    transfer_id: str
    amount: int
    seq: int


class KeptBackdated(NamedTuple):
    """A row of `backdated_entries`."""

    account_id: str
    effective_at: str
    version: int
    amount: int
    posted_at: str


class KeptGameUser(NamedTuple):
    """A row of `game_users`, and the name that the row of its account bears."""

    account_id: str
    name: str
    status: str
    account_name: str | None


class KeptPayment(NamedTuple):
    """A row of `payments`."""

    id: str
    user_id: str
    account_id: str
    amount: int
    direction: str
    payment_type: str
    description: str
    status: str
    posted_at: str | None
    failure_reason: str | None
    transfer_id: str | None
    inserted_at: str
    updated_at: str
    seq: int | None
    paid_in_day: int | None
    paid_before: int | None  # in that day, as the account's payment before this one says


class Tables(msgspec.Struct, frozen=True):
    """The rows that some records should have led to, and earlier records that they refer to."""

    natures: Mapping[str, Nature] = {}
    entries: Mapping[tuple[str, int], KeptEntry] = {}  # by account and version
    holds: Mapping[str, KeptHold] = {}
    originals: Mapping[str, Record] = {}  # what is reversed
    reversed_transfers: Mapping[str, KeptReversed] = {}
    backdated: Mapping[tuple[str, int], KeptBackdated] = {}  # by account and version
    closed_periods: Mapping[str, int] = {}  # until -> seq
    game_users: Mapping[str, KeptGameUser] = {}
    game_transactions: Mapping[str, Record] = {}  # what rollbacks undo, by transaction uuid
    game_undone: Mapping[tuple[str, str], int] = {}  # transaction uuid, account -> seq
    payments: Mapping[str, KeptPayment] = {}


def differing(row: str, found: NamedTuple, told: Mapping[str, Any], by: int) -> Problems:
    """Compare columns of a row with what a record tells of them."""
    for column, own in told.items():
        kept = getattr(found, column)
        if kept != own:
            yield row, f"its {column} is {kept!r}, journal {by} says {own!r}"

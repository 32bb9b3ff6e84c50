"""What is published of a record: one update for each account that it touched, in the record's order."""

from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from ledger.domain.journal import Change, Entry, Record, entry_id
from ledger.domain.money import asset_named, format_amount

ALL_TOPIC: Final = "balance_updated"


class Holder(Protocol):
    """What never changes of an account that a record names."""

    @property
    def user_id(self) -> str | None: ...
    @property
    def asset(self) -> str: ...
    @property
    def is_system(self) -> bool: ...


class Committed(msgspec.Struct, frozen=True, gc=False):
    """A record that is in the journal for good, with the owners of the accounts that it names."""

    record: Record
    owners: Mapping[str, Holder]

    @property
    def seq(self) -> int:
        """The record's place in the journal."""
        return self.record.seq


class TransactionSeen(msgspec.Struct, frozen=True):
    """The movement of money behind an update."""

    id: str
    type: str
    amount: str
    kind: str


class Update(msgspec.Struct, frozen=True):
    """The state of one account after a record, as subscribers see it."""

    user_id: str | None
    account_id: str
    currency: str
    balance: str
    available: str
    version: int
    transfer_id: str
    transaction: TransactionSeen | None
    timestamp: str

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that this update belongs to."""
        own = (ALL_TOPIC, f"accounts:{self.account_id}")
        return own if self.user_id is None else (*own, f"users:{self.user_id}")


def updates_of(committed: Committed) -> tuple[Update, ...]:
    """Return a record's updates in order; system accounts are not published."""
    record, owners = committed.record, committed.owners
    updates = []
    for index, item in enumerate(record.items):
        owner = owners[item.account]
        if not owner.is_system:
            updates.append(_update(record, index, item, owner))
    return tuple(updates)


def _update(record: Record, index: int, item: Entry | Change, owner: Holder) -> Update:
    asset = asset_named(owner.asset)
    transaction = None
    if isinstance(item, Entry):
        transaction = TransactionSeen(
            entry_id(record.id, index), item.type, format_amount(abs(item.amount), asset.scale), record.kind
        )
    return Update(
        user_id=owner.user_id,
        account_id=item.account,
        currency=asset.code,
        balance=format_amount(item.balance, asset.scale),
        available=format_amount(item.available, asset.scale),
        version=item.version,
        transfer_id=record.id,
        transaction=transaction,
        timestamp=record.posted_at,
    )

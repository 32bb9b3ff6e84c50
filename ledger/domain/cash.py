"""Credit and debit, topup and charge: money that comes in from outside, or goes out to it."""

from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec

from ledger.domain.accounts import world_id
from ledger.domain.book import Book
from ledger.domain.commands import ACCOUNTS, Command, Draft, Leg
from ledger.domain.errors import Refused
from ledger.domain.journal import Entry, Record, canonical, entry_id
from ledger.domain.money import MAX_AMOUNT, asset_named, format_amount
from ledger.domain.transactions import Transaction


class CashAnswer(msgspec.Struct, frozen=True):
    """What the client of a credit or debit is told."""

    id: str
    account_id: str
    user_id: str | None
    amount: str
    type: str
    timestamp: str
    balance: str
    version: int
    transfer_id: str


class Cash(Command, frozen=True, kw_only=True, gc=False):
    """A transfer between an account and the world."""

    account_id: str
    user_id: str | None
    asset: str
    amount: int
    most: int = MAX_AMOUNT  # the limit of the day: no part of the content, and a replay is not held to it

    @property
    def lane(self) -> str:
        """The account itself: the world is in every line and queues in none."""
        return self.account_id

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """The account and its world."""
        return ((ACCOUNTS, (self.account_id, world_id(self.asset))),)

    def content(self) -> Any:
        """The account, the asset and the amount."""
        return (self.account_id, self.asset, self.amount)

    def require_within_limit(self) -> None:
        """Refuse an amount above the configured limit."""
        if self.amount > self.most:
            limit = format_amount(self.most, asset_named(self.asset).scale)
            raise Refused("amount_exceeds_limit", field="amount", limit=limit)

    def own_entry(self, record: Record) -> tuple[str, Entry]:
        """Return what the record did to the account, with its id."""
        index, entry = next((i, e) for i, e in enumerate(record.entries) if e.account == self.account_id)
        return entry_id(record.id, index), entry

    def answer(self, record: Record) -> bytes:
        """The account's own transaction and the balance after it."""
        transaction_id, entry = self.own_entry(record)
        scale = asset_named(self.asset).scale
        return canonical(
            CashAnswer(
                id=transaction_id,
                account_id=self.account_id,
                user_id=self.user_id,
                amount=format_amount(self.amount, scale),
                type=entry.type,
                timestamp=record.posted_at,
                balance=format_amount(entry.balance, scale),
                version=entry.version,
                transfer_id=record.id,
            )
        )


class Credit(Cash, frozen=True, kw_only=True, gc=False):
    """Money comes in."""

    kind: ClassVar[str] = "credit"

    def decide(self, book: Book) -> Draft:
        """Move the amount from the world to the account."""
        self.require_within_limit()
        return Draft(book.post((Leg(world_id(self.asset), self.account_id, self.amount),)))


class Debit(Cash, frozen=True, kw_only=True, gc=False):
    """Money goes out."""

    kind: ClassVar[str] = "debit"

    def decide(self, book: Book) -> Draft:
        """Move the amount from the account to the world, if the account can spend it."""
        self.require_within_limit()
        return Draft(book.post((Leg(self.account_id, world_id(self.asset), self.amount),)))


class _OfWallet(Cash, frozen=True, kw_only=True, gc=False):
    """What is told as it stands in the list of the account's transactions."""

    def answer(self, record: Record) -> bytes:
        """The account's own transaction."""
        transaction_id, entry = self.own_entry(record)
        scale = asset_named(self.asset).scale
        return canonical(
            Transaction(
                id=transaction_id,
                type=entry.type,
                kind=record.kind,
                amount=format_amount(self.amount, scale),
                balance=format_amount(entry.balance, scale),
                description=record.description,
                timestamp=record.posted_at,
                transfer_id=record.id,
            )
        )


class Topup(_OfWallet, Credit, frozen=True, kw_only=True, gc=False):
    """A wallet is filled."""

    kind: ClassVar[str] = "topup"


class Charge(_OfWallet, Debit, frozen=True, kw_only=True, gc=False):
    """A wallet pays."""

    kind: ClassVar[str] = "charge"

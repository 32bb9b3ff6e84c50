"""Transfers: money that goes from account to account, along one leg or many, all or nothing."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final

import msgspec
from msgspec import Meta

from ledger.domain.accounts import world_id
from ledger.domain.book import Book
from ledger.domain.commands import ACCOUNTS, Command, Draft, Leg
from ledger.domain.errors import Refused
from ledger.domain.journal import Entry, Record, canonical
from ledger.domain.money import MAX_AMOUNT, asset_named, format_amount
from ledger.domain.periods import LATEST, PERIODS, backdate

MOST_LEGS: Final = 100

_AN_ID: Final = Meta(extra_json_schema={"format": "uuid"})


class LegTold(msgspec.Struct, frozen=True, gc=False):
    """An amount that went from one account to another."""

    source: Annotated[str, _AN_ID] = msgspec.field(name="from")
    target: Annotated[str, _AN_ID] = msgspec.field(name="to")
    amount: str


class BalanceTold(msgspec.Struct, frozen=True, gc=False):
    """What a transfer left an account with."""

    account_id: str
    balance: str
    available: str
    version: int


class TransferTold(msgspec.Struct, frozen=True, gc=False):
    """A transfer, as far as whoever asks may see it: legs and balances of accounts that they may read."""

    id: str
    seq: int
    kind: str
    legs: list[LegTold]
    posted_at: str
    effective_at: str
    reverses: Annotated[str, _AN_ID] | None
    description: str | None
    metadata: Mapping[str, Any] | None
    balances: list[BalanceTold]


def told(record: Record, scale_of: Callable[[str], int], may_read: Callable[[str], bool]) -> TransferTold:
    """Return what is told of a record: `scale_of` is asked only for accounts that may be read."""
    entries = record.entries
    legs: list[LegTold] = []
    last: dict[str, Entry] = {}
    for index in range(0, len(entries), 2):
        given, taken = entries[index], entries[index + 1]
        source, target = given.account, taken.account
        reads_source, reads_target = may_read(source), may_read(target)
        if reads_source:
            last[source] = given
        elif not reads_target:
            continue
        if reads_target:
            last[target] = taken
        scale = scale_of(source if reads_source else target)
        legs.append(LegTold(source, target, format_amount(taken.amount, scale)))
    return _told(record, legs, [_balance(entry, scale_of(account_id)) for account_id, entry in last.items()])


def _balance(entry: Entry, scale: int) -> BalanceTold:
    balance = format_amount(entry.balance, scale)
    available = balance if entry.available == entry.balance else format_amount(entry.available, scale)
    return BalanceTold(entry.account, balance, available, entry.version)


def _told(record: Record, legs: list[LegTold], balances: list[BalanceTold]) -> TransferTold:
    return TransferTold(
        record.id,
        record.seq,
        record.kind,
        legs,
        record.posted_at,
        record.effective_at or record.posted_at,
        record.reverses,
        record.description,
        record.metadata,
        balances,
    )


class Expectation(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What must be true of an account when its turn comes."""

    account_id: str
    version: int | None = None
    available_at_least: int | None = None

    def require(self, book: Book) -> None:
        """Refuse where it is not."""
        account = book.account(self.account_id)
        if self.version is not None and account.version != self.version:
            raise Refused("version_conflict", account_id=account.id, expected=self.version, version=account.version)
        if self.available_at_least is not None and account.available < self.available_at_least:
            scale = asset_named(account.asset).scale
            raise Refused(
                "insufficient_funds",
                account_id=account.id,
                available=format_amount(account.available, scale),
                requested=format_amount(self.available_at_least, scale),
            )


class PostedAlongLegs(Command, frozen=True, kw_only=True, gc=False):
    """What moves money along legs, each of one asset, and is told to whoever may read some of their accounts."""

    legs: tuple[Leg, ...]
    assets: tuple[str, ...]  # of the legs
    shown: Collection[str] | None = None  # the accounts that the caller may read; None: all

    @property
    def lane(self) -> str:
        """The first account that gives, other than a world, else the first that is given to."""
        for leg, asset in zip(self.legs, self.assets, strict=True):
            if leg.source != world_id(asset):
                return leg.source
        return self.legs[0].target

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """All accounts of the legs."""
        if len(self.legs) == 1:  # said for the sake of most, here as below
            return ((ACCOUNTS, (self.legs[0].source, self.legs[0].target)),)
        return ((ACCOUNTS, [account_id for leg in self.legs for account_id in (leg.source, leg.target)]),)

    @property
    def weight(self) -> int:
        """As many as there are legs."""
        return len(self.legs)

    def answer(self, record: Record) -> bytes:
        """What is told of the transfer."""
        return canonical(self.told(record))

    def told(self, record: Record) -> TransferTold:
        """Return what the caller may see of this command's record."""
        entries = record.entries
        if self.shown is None and len(entries) == 2:
            (given, taken), scale = entries, asset_named(self.assets[0]).scale
            legs = [LegTold(given.account, taken.account, format_amount(taken.amount, scale))]
            return _told(record, legs, [_balance(given, scale), _balance(taken, scale)])
        scales: dict[str, int] = {}
        for leg, asset in zip(self.legs, self.assets, strict=True):
            scales[leg.source] = scales[leg.target] = asset_named(asset).scale
        shown = scales if self.shown is None else self.shown
        return told(record, scales.__getitem__, shown.__contains__)


class Transfer(PostedAlongLegs, frozen=True, kw_only=True, gc=False):
    """Money goes along the legs in their order, each covered at its place, if what is expected is so."""

    kind: ClassVar[str] = "transfer"

    expect: Expectation | None = None
    effective_at: str | None = None  # in the form that records carry
    most: int = MAX_AMOUNT  # of one leg, the limit of the day: no part of the content, and a replay is not held to it

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """The accounts, and what is closed where it counts from an earlier instant."""
        needs = super().needs()
        if self.expect is not None:
            needs = (*needs, (ACCOUNTS, (self.expect.account_id,)))
        if self.effective_at is not None:
            needs = (*needs, (PERIODS, (LATEST,)))
        return needs

    def content(self) -> Any:
        """The legs with their assets, what is expected, and from when it counts."""
        if len(self.legs) == 1:
            leg = self.legs[0]
            return (((leg.source, leg.target, self.assets[0], leg.amount),), self.expect, self.effective_at)
        legs = [(leg.source, leg.target, asset, leg.amount) for leg, asset in zip(self.legs, self.assets, strict=True)]
        return (legs, self.expect, self.effective_at)

    def decide(self, book: Book) -> Draft:
        """Move all amounts, or none."""
        self._require_within_limit()
        if self.expect is not None:
            self.expect.require(book)
        entries = book.post(self.legs)
        if self.effective_at is None:
            return Draft(entries)
        return Draft(entries, writes=backdate(book, self.effective_at, entries), effective_at=self.effective_at)

    def _require_within_limit(self) -> None:
        most = self.most
        for leg in self.legs:
            if leg.amount > most:
                index = self.legs.index(leg)
                limit = format_amount(most, asset_named(self.assets[index]).scale)
                raise Refused("amount_exceeds_limit", field=field_of(self.legs, index, "amount"), limit=limit)


def field_of(legs: Sequence[object], index: int, name: str) -> str:
    """Return how requests name a part of one of their legs: where there is only one, it is not numbered."""
    return name if len(legs) == 1 else f"legs.{index}.{name}"

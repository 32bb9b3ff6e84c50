"""Reversals: the opposite of a transfer, in part or whole, and never more than the whole."""

from collections.abc import Iterable
from typing import Any, ClassVar, Final

import msgspec

from ledger.domain.book import Book
from ledger.domain.commands import Draft, Leg
from ledger.domain.errors import Refused
from ledger.domain.journal import Record
from ledger.domain.money import asset_named, format_amount
from ledger.domain.transfers import PostedAlongLegs

REVERSED: Final = "reversed_transfers"  # a fact, by the ids of what is reversed, and the write that brings it forward

REVERSIBLE: Final = frozenset(("credit", "debit", "topup", "charge", "transfer", "capture"))
_REVERSAL: Final = "reversal"


class Reversed(msgspec.Struct, array_like=True, frozen=True):
    """How much of a transfer has been given back, in minor units, as a batch sees it."""

    id: str
    amount: str  # a text: of many legs it may be more than 64 bits hold


def require_reversible(record: Record) -> None:
    """Refuse what is no transfer, is one of games or payments, or is a reversal itself."""
    if not record.entries:
        raise Refused("transfer_not_found")
    if record.kind == _REVERSAL:
        raise Refused("already_processed", "A reversal stays; make the transfer again", transfer_id=record.id)
    if record.kind not in REVERSIBLE:
        raise Refused("forbidden", f"A {record.kind} cannot be reversed")


def legs_back(record: Record) -> tuple[Leg, ...]:
    """Return the opposite of a record's legs, the last one first."""
    entries = record.entries
    there = zip(entries[::2], entries[1::2], strict=True)
    return tuple(Leg(taken.account, given.account, taken.amount) for given, taken in there)[::-1]


class Reverse(PostedAlongLegs, frozen=True, kw_only=True, gc=False):
    """A transfer is undone: `legs` are all of it backwards, `amount` is the part that is meant; None: all that is left.

    What is undone is in the journal already and never changes, so the command brings it along.
    """

    kind: ClassVar[str] = _REVERSAL

    original: Record
    amount: int | None = None

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """The accounts, and how much is reversed already."""
        return (*super().needs(), (REVERSED, (self.original.id,)))

    def content(self) -> Any:
        """The transfer, and the amount as it was asked for."""
        return (self.original.id, self.amount)

    def decide(self, book: Book) -> Draft:
        """Move back what is asked for, unless that is more than is left."""
        original = self.original
        require_reversible(original)
        row: Reversed | None = book.facts[REVERSED].get(original.id)
        before = 0 if row is None else int(row.amount)
        whole = sum(leg.amount for leg in self.legs)
        amount = whole - before if self.amount is None else self.amount
        if amount <= 0 or before + amount > whole:
            raise self._too_much(before)
        if amount == whole:
            legs = self.legs
        elif len(self.legs) > 1:
            raise Refused("invalid_request", "Only the whole of several legs can be reversed", field="amount")
        else:
            legs = (Leg(self.legs[0].source, self.legs[0].target, amount),)
        entries = book.post(legs)
        after = str(before + amount)
        book.note(REVERSED, original.id, Reversed(original.id, after))
        fresh = {"transfer_id": original.id, "amount": after, "seq": book.head.seq + 1}
        return Draft(entries, writes=((REVERSED, fresh),), reverses=original.id)

    def _too_much(self, before: int) -> Refused:
        details: dict[str, Any] = {"transfer_id": self.original.id}
        if len(self.legs) == 1:
            scale = asset_named(self.assets[0]).scale
            details["amount"] = format_amount(self.legs[0].amount, scale)
            details["reversed"] = format_amount(before, scale)
        return Refused("already_processed", **details)

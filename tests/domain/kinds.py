"""Kinds of command that only tests know: whatever they need, they bring; nothing of the ledger names them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec

from ledger.domain import held
from ledger.domain.book import Book
from ledger.domain.commands import ACCOUNTS, Command, Draft, Leg
from ledger.domain.errors import Refused
from ledger.domain.holds import HOLDS
from ledger.domain.journal import Record, canonical

TICKETS = "tickets"


class _Kind(Command, frozen=True, kw_only=True):
    def answer(self, record: Record) -> bytes:
        """The record's number and id."""
        return canonical({"seq": record.seq, "id": record.id})


class Transfer(_Kind, frozen=True, kw_only=True):
    """Money along several legs, all or nothing."""

    kind: ClassVar[str] = "transfer"

    legs: tuple[Leg, ...]

    @property
    def lane(self) -> str:
        """The first account that it debits."""
        return self.legs[0].source

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """Every account on the way."""
        return ((ACCOUNTS, [account for leg in self.legs for account in (leg.source, leg.target)]),)

    def content(self) -> Any:
        """The legs."""
        return self.legs

    def decide(self, book: Book) -> Draft:
        """Post the legs."""
        return Draft(book.post(self.legs))


class _Of(_Kind, frozen=True, kw_only=True):
    account_id: str

    @property
    def lane(self) -> str:
        """The account."""
        return self.account_id

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """The account."""
        return ((ACCOUNTS, (self.account_id,)),)

    def content(self) -> Any:
        """All fields of its own."""
        own = set(self.__struct_fields__) - set(Command.__struct_fields__)
        return {name: getattr(self, name) for name in own}


class SetStatus(_Of, frozen=True, kw_only=True):
    """Freezes an account, or frees it again."""

    kind: ClassVar[str] = "status"

    status: str

    def decide(self, book: Book) -> Draft:
        """Set the status."""
        return Draft(changes=(book.change(book.account(self.account_id), status=self.status),))


class SetLimit(_Of, frozen=True, kw_only=True):
    """Sets how far below zero an account may go."""

    kind: ClassVar[str] = "limit"

    credit_limit: int

    def decide(self, book: Book) -> Draft:
        """Set the limit, unless more than that is used."""
        return Draft(changes=(book.change(book.account(self.account_id), credit_limit=self.credit_limit),))


class Hold(_Of, frozen=True, kw_only=True):
    """Sets money aside."""

    kind: ClassVar[str] = "hold"

    amount: int

    def decide(self, book: Book) -> Draft:
        """Hold the amount, if the account is active and can spend it."""
        account = book.account(self.account_id)
        account.require_active()
        change = book.change(account, held=account.held + self.amount)
        hold = held.Hold(self.id, account.id, self.amount, 0, "open", None, book.instant, self.description)
        row = {**msgspec.structs.asdict(hold), "seq": book.head.seq + 1}
        return Draft(changes=(change,), writes=((HOLDS, row),), metadata={"amount": self.amount})


class Capture(_Of, frozen=True, kw_only=True):
    """Pays what is held to another account."""

    kind: ClassVar[str] = "capture"

    target: str

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """Both accounts."""
        return ((ACCOUNTS, (self.account_id, self.target)),)

    def decide(self, book: Book) -> Draft:
        """Release what is held and post it; the entries tell both."""
        account = book.account(self.account_id)
        amount = account.held
        book.change(account, held=0)
        return Draft(book.post((Leg(self.account_id, self.target, amount),)))


class Broken(_Of, frozen=True, kw_only=True):
    """Posts something, then breaks."""

    kind: ClassVar[str] = "broken"

    target: str
    error: ClassVar[type[Exception]] = ZeroDivisionError

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """Both accounts."""
        return ((ACCOUNTS, (self.account_id, self.target)),)

    def decide(self, book: Book) -> Draft:
        """Divide by zero when it is too late."""
        book.post((Leg(self.account_id, self.target, 1),))
        book.change(book.account(self.target), status="CLOSED", held=1, credit_limit=2)
        raise self.error


class Ticket(msgspec.Struct, array_like=True):
    """A row of a table that the ledger does not know."""

    id: str
    account_id: str
    price: int


class BuyTicket(_Of, frozen=True, kw_only=True):
    """Sells a ticket once: it brings a fact of its own and a row of its own."""

    kind: ClassVar[str] = "ticket"

    ticket: str
    seller: str
    price: int

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """Both accounts and the ticket."""
        return ((ACCOUNTS, (self.account_id, self.seller)), (TICKETS, (self.ticket,)))

    def decide(self, book: Book) -> Draft:
        """Refuse a ticket that is sold, also earlier in this batch."""
        sold = book.facts[TICKETS]
        if self.ticket in sold:
            raise Refused("already_processed", ticket=self.ticket, owner=sold[self.ticket].account_id)
        entries = book.post((Leg(self.account_id, self.seller, self.price),))
        sold[self.ticket] = Ticket(self.ticket, self.account_id, self.price)
        return Draft(entries, writes=((TICKETS, {"id": self.ticket, "account_id": self.account_id}),))


class Scribble(_Of, frozen=True, kw_only=True):
    """Brings whatever rows it is told to."""

    kind: ClassVar[str] = "scribble"

    writes: tuple[tuple[str, Any], ...]

    def content(self) -> Any:
        """Nothing that could be encoded."""
        return self.account_id

    def decide(self, book: Book) -> Draft:
        """Touch nothing."""
        book.account(self.account_id)
        return Draft(writes=self.writes)

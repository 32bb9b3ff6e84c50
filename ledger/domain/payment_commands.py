"""What ends a payment, once: it is processed, cancelled, or given up."""

from collections.abc import Iterable
from typing import Any, ClassVar, Final

import msgspec

from ledger.domain.accounts import world_id
from ledger.domain.book import Book
from ledger.domain.commands import ACCOUNTS, Command, Draft, Leg
from ledger.domain.errors import Refused
from ledger.domain.journal import Record, canonical
from ledger.domain.payments import (
    Payment,
    PaymentRules,
    Standing,
    Status,
    Twin,
    day_of,
    payment_told,
    require_processable,
)

PAYMENTS: Final = "payments"  # a fact, by the ids of payments, and the write that brings it forward
SPENT: Final = "payments_of_day"  # a fact, by the ids of accounts
ALIKE: Final = "payments_alike"  # a fact, by the ids of payments: the last completed one that is the same

# The kinds of records that end a payment, and the status that each leaves it in.
STATUS_BY_KIND: Final[dict[str, Status]] = {
    "payment": "COMPLETED",
    "payment_cancel": "CANCELLED",
    "payment_failure": "FAILED",
}


class Kept(msgspec.Struct, array_like=True, frozen=True):
    """What a batch is to know of a payment."""

    id: str
    status: Status
    transfer_id: str | None


class Spent(msgspec.Struct, array_like=True, frozen=True):
    """What an account has paid, day by day in UTC, as far as it matters now."""

    id: str
    days: dict[str, int]


def key_of(payment_id: str) -> str:
    """Return the idempotency key that a payment is processed under, and the unique key of its jobs."""
    return f"payment:{payment_id}"


def ended_already(payment_id: str, status: str, transfer_id: str | None) -> Refused:
    """Return the refusal of what only a pending payment allows."""
    more = {} if transfer_id is None else {"transfer_id": transfer_id}
    return Refused("already_processed", f"The payment is {status}", payment_id=payment_id, status=status, **more)


class _End(Command, frozen=True, kw_only=True, gc=False):
    """What a pending payment is ended by; the record's metadata tells all of the payment."""

    payment: Payment

    @property
    def lane(self) -> str:
        """The account's own."""
        return self.payment.account_id

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """The payment."""
        return ((PAYMENTS, (self.payment.id,)),)

    def content(self) -> Any:
        """The payment, of which all else never changes."""
        return (self.payment.id,)

    def require_pending(self, book: Book) -> None:
        """Refuse where it has ended, also earlier in this batch."""
        kept: Kept | None = book.facts[PAYMENTS].get(self.payment.id)
        if kept is None:
            raise Refused("payment_not_found")
        if kept.status != "PENDING":
            raise ended_already(kept.id, kept.status, kept.transfer_id)

    def saying(self, **more: Any) -> dict[str, Any]:
        """Return the metadata: the answer is made of it."""
        payment = self.payment
        return {
            "payment": payment.id,
            "user_id": payment.user_id,
            "account_id": payment.account_id,
            "amount": payment.amount,
            "direction": payment.direction,
            "payment_type": payment.payment_type,
            "inserted_at": payment.inserted_at,
            **more,
        }

    def end(
        self, book: Book, failure_reason: str | None = None, paid_in_day: int | None = None
    ) -> tuple[tuple[str, Any], ...]:
        """Bring the payment forward to its end, and return the row that keeps that."""
        status = STATUS_BY_KIND[self.kind]
        is_completed = status == "COMPLETED"
        transfer_id = self.id if is_completed else None
        book.note(PAYMENTS, self.payment.id, Kept(self.payment.id, status, transfer_id))
        row = {
            "id": self.payment.id,
            "status": status,
            "posted_at": book.instant if is_completed else None,
            "failure_reason": failure_reason,
            "transfer_id": transfer_id,
            "updated_at": book.instant,
            "seq": book.head.seq + 1,
            "paid_in_day": paid_in_day,
        }
        return ((PAYMENTS, row),)

    def answer(self, record: Record) -> bytes:
        """The payment as the record has left it."""
        return canonical(payment_told(ended(record, self.payment.asset)))


class ProcessPayment(_End, frozen=True, kw_only=True, gc=False):
    """Moves the money between the account and the world, and completes the payment."""

    kind: ClassVar[str] = "payment"

    rules: PaymentRules  # those of the day: no part of the content, and a replay is not held to them

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """The payment, its account and the world, what was paid in the day, and the last payment alike."""
        payment = self.payment
        return (
            (ACCOUNTS, (payment.account_id, world_id(payment.asset))),
            (PAYMENTS, (payment.id,)),
            (SPENT, (payment.account_id,)),
            (ALIKE, (payment.id,)),
        )

    def decide(self, book: Book) -> Draft:
        """Post it, if it is pending and breaks no rule."""
        self.require_pending(book)
        payment, day = self.payment, day_of(book.instant)
        alike = canonical((payment.user_id, payment.amount, payment.direction, payment.description)).decode()
        spent: Spent = book.facts[SPENT].get(payment.account_id, Spent(payment.account_id, {}))
        # What this batch has completed is younger than what was read.
        twin: Twin | None = book.facts[ALIKE].get(alike) or book.facts[ALIKE].get(payment.id)
        today = spent.days.get(day, 0)
        standing = Standing(book.account(payment.account_id), today, twin, book.instant)
        require_processable(self.rules, payment, standing)
        here, outside = payment.account_id, world_id(payment.asset)
        is_debit = payment.direction == "DEBIT"
        source, target = (here, outside) if is_debit else (outside, here)
        entries = book.post((Leg(source, target, payment.amount),))
        book.note(ALIKE, alike, Twin(alike, payment.id, book.instant))
        paid_in_day = today + payment.amount if is_debit else None
        if paid_in_day is not None:
            book.note(SPENT, spent.id, Spent(spent.id, {day: paid_in_day}))
        return Draft(entries, writes=self.end(book, paid_in_day=paid_in_day), metadata=self.saying())


class CancelPayment(_End, frozen=True, kw_only=True, gc=False):
    """Ends a payment that is not wanted any more."""

    kind: ClassVar[str] = "payment_cancel"

    def decide(self, book: Book) -> Draft:
        """End it, if it is pending."""
        self.require_pending(book)
        return Draft(writes=self.end(book), metadata=self.saying())


class FailPayment(_End, frozen=True, kw_only=True, gc=False):
    """Ends a payment whose job was refused for good."""

    kind: ClassVar[str] = "payment_failure"

    reason: str  # of the catalogue

    def content(self) -> Any:
        """The payment and the reason."""
        return (self.payment.id, self.reason)

    def decide(self, book: Book) -> Draft:
        """End it, if it is pending."""
        self.require_pending(book)
        return Draft(writes=self.end(book, self.reason), metadata=self.saying(reason=self.reason))


def ended(record: Record, asset: str) -> Payment:
    """Return the payment that a record has ended, as it has left it."""
    said: Any = record.metadata or {}
    is_completed = record.kind == ProcessPayment.kind
    return Payment(
        id=said["payment"],
        user_id=said["user_id"],
        account_id=said["account_id"],
        asset=asset,
        amount=said["amount"],
        direction=said["direction"],
        payment_type=said["payment_type"],
        description=record.description or "",
        inserted_at=said["inserted_at"],
        status=STATUS_BY_KIND[record.kind],
        posted_at=record.posted_at if is_completed else None,
        failure_reason=said.get("reason"),
        transfer_id=record.id if is_completed else None,
        updated_at=record.posted_at,
    )

"""Holds: money that is set aside in an account, until it is captured, let go, or its time is up."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final

import msgspec

from ledger.domain.accounts import Account
from ledger.domain.book import Book
from ledger.domain.commands import ACCOUNTS, Command, Draft, Leg
from ledger.domain.deletion import ACCOUNTS_OF_USERS
from ledger.domain.errors import Refused
from ledger.domain.held import AccountWithHolds, Counted, Due, Hold, HoldStatus, told
from ledger.domain.journal import Record, canonical
from ledger.domain.money import MAX_AMOUNT, asset_named, format_amount
from ledger.domain.periods import instant_of

HOLDS: Final = "holds"  # a fact, by the ids of holds, and the write that brings it forward
EXPIRED_HOLDS: Final = "expired_holds"  # a write
LONGEST: Final = 10 * 365 * 86_400  # seconds
IN_ONE_RECORD: Final = 500  # holds that one record tells the end of
MOST_OPEN: Final = 10_000  # of one account: the end of all of them may come with one batch
OPEN_HOLDS: Final = "open_holds"  # a fact, by the ids of accounts: how many there are


class _OfAccount(Command, frozen=True, kw_only=True, gc=False):
    account_id: str
    asset: str

    @property
    def lane(self) -> str:
        """The account's own."""
        return self.account_id

    def keep(self, book: Book, hold: Hold) -> tuple[tuple[str, Any], ...]:
        """Bring a hold forward, and return the row that keeps that."""
        book.note(HOLDS, hold.id, hold)
        return ((HOLDS, {**msgspec.structs.asdict(hold), "seq": book.head.seq + 1}),)


class OpenHold(_OfAccount, frozen=True, kw_only=True, gc=False):
    """Takes an amount out of what is available, but not out of the balance; the record's id is the hold's."""

    kind: ClassVar[str] = "hold"

    amount: int
    expires_in: int | None = None  # seconds, from when it is booked
    most: int = MAX_AMOUNT  # the limit of the day: no part of the content, and a replay is not held to it

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """The account, how many holds it has, and a place for this one."""
        return ((ACCOUNTS, (self.account_id,)), (OPEN_HOLDS, (self.account_id,)), (HOLDS, ()))

    def content(self) -> Any:
        """The account, the asset, the amount and the time."""
        return (self.account_id, self.asset, self.amount, self.expires_in)

    def decide(self, book: Book) -> Draft:
        """Set the amount aside, if the account is active and can spend it."""
        if self.amount > self.most:
            limit = format_amount(self.most, asset_named(self.asset).scale)
            raise Refused("amount_exceeds_limit", field="amount", limit=limit)
        account = book.account(self.account_id)
        account.require_active()
        change = book.change(account, held=account.held + self.amount)
        counted: Counted | None = book.facts[OPEN_HOLDS].get(self.account_id)
        many = 0 if counted is None else counted.many
        if many >= MOST_OPEN:
            message = f"An account has {MOST_OPEN:,} open holds at most"
            raise Refused("amount_exceeds_limit", message, account_id=account.id, limit=MOST_OPEN)
        book.note(OPEN_HOLDS, self.account_id, Counted(self.account_id, many + 1))
        expires_at, metadata = None, {"amount": self.amount}
        if self.expires_in is not None:
            expires_at = instant_of(datetime.fromisoformat(book.instant) + timedelta(seconds=self.expires_in))
        hold = Hold(self.id, self.account_id, self.amount, 0, "open", expires_at, book.instant, self.description)
        return Draft(changes=(change,), writes=self.keep(book, hold), metadata=_with_expiry(metadata, expires_at))

    def answer(self, record: Record) -> bytes:
        """The hold, open."""
        said = record.metadata or {}
        expires_at = said.get("expires_at")
        hold = Hold(
            record.id, self.account_id, said["amount"], 0, "open", expires_at, record.posted_at, record.description
        )
        return canonical(told(hold, self.asset))


class _End(_OfAccount, frozen=True, kw_only=True, gc=False):
    """What ends a hold before its time; `description` is the hold's, and metadata tells the rest of it."""

    hold_id: str

    def open_hold(self, book: Book) -> Hold:
        """Return the hold, or refuse one that is not open any more."""
        hold: Hold | None = book.facts[HOLDS].get(self.hold_id)
        if hold is None:
            raise Refused("hold_not_found", hold_id=self.hold_id)
        status = hold.status_at(book.instant)
        if status != "open":
            raise Refused("already_processed", f"The hold is {status}", hold_id=hold.id, status=status)
        return hold

    def saying(self, hold: Hold) -> Mapping[str, Any]:
        """Return the metadata: all that the answer says of the hold and the record does not say elsewhere."""
        metadata = {"hold": hold.id, "amount": hold.amount, "created_at": hold.created_at}
        return _with_expiry(metadata, hold.expires_at)

    def ended(self, record: Record, status: HoldStatus, captured: int) -> Hold:
        """Return the hold as a record has left it."""
        said = record.metadata or {}
        expires_at, created_at = said.get("expires_at"), said["created_at"]
        return Hold(
            said["hold"], self.account_id, said["amount"], captured, status, expires_at, created_at, record.description
        )


class CaptureHold(_End, frozen=True, kw_only=True, gc=False):
    """Pays what was set aside, in part or whole, and lets the rest go."""

    kind: ClassVar[str] = "capture"

    amount: int
    target: str

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """The hold, its account, and the account that is paid."""
        return ((ACCOUNTS, (self.account_id, self.target)), (HOLDS, (self.hold_id,)))

    def content(self) -> Any:
        """The hold, the amount and the account that is paid."""
        return (self.hold_id, self.amount, self.target)

    def decide(self, book: Book) -> Draft:
        """Release the hold and move the amount; the entries tell both."""
        hold = self.open_hold(book)
        if self.amount > hold.amount:
            limit = format_amount(hold.amount, asset_named(self.asset).scale)
            raise Refused("amount_exceeds_limit", field="amount", limit=limit)
        account = book.account(self.account_id)
        book.change(account, held=account.held - hold.amount)
        entries = book.post((Leg(self.account_id, self.target, self.amount),))
        captured = msgspec.structs.replace(hold, status="captured", captured=self.amount)
        return Draft(entries, writes=self.keep(book, captured), metadata=self.saying(hold))

    def answer(self, record: Record) -> bytes:
        """The hold, captured."""
        hold = self.ended(record, "captured", -record.entries[0].amount)
        return canonical(told(hold, self.asset, record.id))


class VoidHold(_End, frozen=True, kw_only=True, gc=False):
    """Lets a hold go, whatever the status of its account."""

    kind: ClassVar[str] = "void"

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """The hold and its account."""
        return ((ACCOUNTS, (self.account_id,)), (HOLDS, (self.hold_id,)))

    def content(self) -> Any:
        """The hold."""
        return (self.hold_id,)

    def decide(self, book: Book) -> Draft:
        """Release the hold."""
        hold = self.open_hold(book)
        account = book.account(self.account_id)
        change = book.change(account, held=account.held - hold.amount)
        voided = msgspec.structs.replace(hold, status="voided")
        return Draft(changes=(change,), writes=self.keep(book, voided), metadata=self.saying(hold))

    def answer(self, record: Record) -> bytes:
        """The hold, voided."""
        return canonical(told(self.ended(record, "voided", 0), self.asset))


class ExpireHolds(Command, frozen=True, kw_only=True, gc=False):
    """Lets go those holds of an account whose time is up, whatever its status; a record tells so many of them."""

    kind: ClassVar[str] = "expiry"

    account_id: str
    over: tuple[Due, ...] = ()  # chosen when the batch begins; whoever asks for it later comes too late

    @property
    def lane(self) -> str:
        """The account's own."""
        return self.account_id

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """The account, with which its holds come."""
        return ((ACCOUNTS, (self.account_id,)),)

    def content(self) -> Any:
        """The account."""
        return (self.account_id,)

    def decide(self, book: Book) -> Draft:
        """Release them, or refuse where there is none."""
        account = book.account(self.account_id)
        over = self.over
        if not over:
            raise Refused("already_processed", "No hold of this account is due", account_id=account.id)
        change = book.change(account, held=account.held - sum(due.amount for due in over))
        seq = book.head.seq + 1
        writes = tuple((EXPIRED_HOLDS, {"id": due.id, "seq": seq}) for due in over)
        return Draft(changes=(change,), writes=writes, metadata={"holds": [due.id for due in over]})

    def answer(self, record: Record) -> bytes:
        """The account and the holds that have ended."""
        return canonical({"account_id": self.account_id, "holds": (record.metadata or {})["holds"]})


def overdue(book: Book, new_id: Callable[[], str]) -> list[ExpireHolds]:
    """Return the commands that end what is over by the batch's instant, to be decided before everything else of it."""
    for account in book.facts.get(ACCOUNTS_OF_USERS, {}).values():
        if account.held:
            book.accounts.setdefault(account.id, account)
    commands: list[ExpireHolds] = []
    for account in book.accounts.values():
        if account.held:
            over = _over(account, book.instant)
            for start in range(0, len(over), IN_ONE_RECORD):
                some = tuple(over[start : start + IN_ONE_RECORD])
                commands.append(ExpireHolds(id=new_id(), account_id=account.id, over=some))
    return commands


def _over(account: Account, instant: str) -> Sequence[Due]:
    """Return the holds of an account that do not count any more, in the order in which they ended."""
    if not isinstance(account, AccountWithHolds) or not account.due:
        return ()
    return sorted((due for due in account.due if due.expires_at <= instant), key=lambda due: (due.expires_at, due.id))


def _with_expiry(metadata: dict[str, Any], expires_at: str | None) -> Mapping[str, Any]:
    return metadata if expires_at is None else {**metadata, "expires_at": expires_at}

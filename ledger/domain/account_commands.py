"""Accounts as the journal decides on them: opened for a user, then named, frozen, closed and limited, in one order."""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Final

import msgspec
from msgspec import Meta

from ledger.domain.accounts import Account, world_id
from ledger.domain.book import Book
from ledger.domain.commands import ACCOUNTS, Command, Draft
from ledger.domain.deletion import ACCOUNTS_OF_USERS, USERS, Member
from ledger.domain.errors import Refused
from ledger.domain.game_users import ASSET as GAMES_ASSET
from ledger.domain.journal import Change, Record, canonical
from ledger.domain.money import MAX_AMOUNT, asset_named, format_amount, parse_amount
from ledger.domain.users import ACTIVE, DELETED

# Writes.
OPENED_ACCOUNTS: Final = "opened_accounts"
ACCOUNT_NAMES: Final = "account_names"

_Text = Annotated[str, Meta(pattern=r"^-?[0-9]+(\.[0-9]+)?$", examples=["0.00"])]


class AccountView(msgspec.Struct, frozen=True):
    """An account as whoever may read it is told."""

    id: str
    user_id: str | None
    name: str | None
    account_type: str
    currency: str
    scale: int
    status: str
    balance: str
    available: str
    held: _Text
    version: int
    credit_limit: _Text
    created_at: str


def account_view(account: Account, name: str | None, created_at: str) -> AccountView:
    """Return what is told of an account."""
    asset = asset_named(account.asset)
    return AccountView(
        id=account.id,
        user_id=account.user_id,
        name=name,
        account_type=account.type,
        currency=asset.code,
        scale=asset.scale,
        status=account.status,
        balance=format_amount(account.balance, asset.scale),
        available=format_amount(account.available, asset.scale),
        held=format_amount(account.held, asset.scale),
        version=account.version,
        credit_limit=format_amount(account.credit_limit, asset.scale),
        created_at=created_at,
    )


def parse_limit(text: str, scale: int) -> int:
    """Return the minor units of a limit, which is an amount or zero, or refuse it as amounts are refused."""
    try:
        return parse_amount(text, scale, MAX_AMOUNT, "credit_limit")
    except Refused as refused:
        if refused.reason == "negative_amount" and not text.startswith("-"):
            return 0
        raise


def require_limitable(account_type: str, credit_limit: int) -> None:
    """Refuse a limit where the type of the account knows none."""
    if credit_limit and account_type != "CREDIT":
        raise Refused("invalid_account_type", "Only CREDIT accounts have a credit limit", field="credit_limit")


class _Limited(Command, frozen=True, kw_only=True, gc=False):
    """What may set a limit."""

    most: int = MAX_AMOUNT  # the configured limit of amounts: no part of the content, and a replay is not held to it

    def require_limit(self, account_type: str, asset: str, credit_limit: int) -> None:
        """Refuse a limit that the account cannot have, or that is above all amounts."""
        require_limitable(account_type, credit_limit)
        if credit_limit > self.most:
            limit = format_amount(self.most, asset_named(asset).scale)
            raise Refused("amount_exceeds_limit", field="credit_limit", limit=limit)


class OpenAccount(_Limited, frozen=True, kw_only=True, gc=False):
    """A further account; its id is that of the record."""

    kind: ClassVar[str] = "account"

    user_id: str | None
    asset: str
    type: str
    name: str | None = None
    credit_limit: int = 0

    @property
    def lane(self) -> str:
        """The user's own."""
        return self.user_id or self.id

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """The user."""
        return () if self.user_id is None else ((USERS, (self.user_id,)),)

    def content(self) -> Any:
        """Whose, in which asset, of which type, called what, and how far below zero it may go."""
        return (self.user_id, self.asset, self.type, self.name, self.credit_limit)

    def decide(self, book: Book) -> Draft:
        """Open the account, if its user is active."""
        self.require_limit(self.type, self.asset, self.credit_limit)
        if self.user_id is not None:
            _require_active(book, self.user_id)
        account = Account(self.id, self.user_id, self.asset, self.type, "ACTIVE", 0, 0, 0, 0)
        book.open(account)
        if ACCOUNTS_OF_USERS in book.facts:  # read before this one was: a deletion later in the batch must find it
            book.note(ACCOUNTS_OF_USERS, account.id, account)
        change = book.change(account, credit_limit=self.credit_limit)
        said = {"user_id": self.user_id, "asset": self.asset, "type": self.type, "name": self.name}
        row = {**said, "id": self.id, "world": world_id(self.asset), "at": book.instant}
        return Draft(changes=(change,), writes=((OPENED_ACCOUNTS, row),), metadata=said)

    def answer(self, record: Record) -> bytes:
        """The account as it was opened."""
        change = record.changes[0]
        opened = Account(change.account, self.user_id, self.asset, self.type, change.status, 0, 0, 0, change.version)
        return canonical(_after(account_view(opened, self.name, record.posted_at), change))


class AmendAccount(_Limited, frozen=True, kw_only=True, gc=False):
    """An account gets a name, a status or a limit, or all of them at once; None leaves what is."""

    kind: ClassVar[str] = "account_update"

    account: AccountView  # as it was read before: what no record of this kind tells is answered from here
    name: str | None = None
    status: str | None = None
    credit_limit: int | None = None

    @property
    def lane(self) -> str:
        """The account's own: what was asked for before a freeze stands before it."""
        return self.account.id

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """The account, and its user."""
        user_id = self.account.user_id
        accounts = (ACCOUNTS, (self.account.id,))
        return (accounts,) if user_id is None else (accounts, (USERS, (user_id,)))

    @property
    def asked(self) -> dict[str, Any]:
        """What is asked for, by its name."""
        asked = {"name": self.name, "status": self.status, "credit_limit": self.credit_limit}
        return {name: value for name, value in asked.items() if value is not None}

    def content(self) -> Any:
        """The account and what is asked for."""
        return (self.account.id, self.asked)

    def decide(self, book: Book) -> Draft:
        """Amend the account, or refuse what its state does not allow."""
        account = book.account(self.account.id)
        if account.is_system:
            raise Refused("forbidden", "This is a system account")
        if account.asset == GAMES_ASSET:
            raise Refused("forbidden", "This is the account of a game user")
        if self.credit_limit is not None:
            self.require_limit(account.type, account.asset, self.credit_limit)
        if self.status is not None:
            _require_changeable(book, account, self.status)
        change = book.change(account, status=self.status, credit_limit=self.credit_limit)
        row = {"id": account.id, "name": self.name, "seq": book.head.seq + 1}
        writes = () if self.name is None else ((ACCOUNT_NAMES, row),)
        return Draft(changes=(change,), writes=writes, metadata=self.asked)

    def answer(self, record: Record) -> bytes:
        """The account as the record left it."""
        name = self.account.name if self.name is None else self.name
        return canonical(_after(msgspec.structs.replace(self.account, name=name), record.changes[0]))


def _after(view: AccountView, change: Change) -> AccountView:
    """Return what is told of an account once its state has changed."""
    return msgspec.structs.replace(
        view,
        status=change.status,
        balance=format_amount(change.balance, view.scale),
        available=format_amount(change.available, view.scale),
        held=format_amount(change.held, view.scale),
        version=change.version,
        credit_limit=format_amount(change.credit_limit, view.scale),
    )


def _require_active(book: Book, user_id: str) -> None:
    user: Member | None = book.facts[USERS].get(user_id)
    if user is None or user.status == DELETED:
        raise Refused("user_not_found")
    if user.status != ACTIVE:
        raise Refused("account_inactive", "The user is not active", user_id=user_id)


def _require_changeable(book: Book, account: Account, status: str) -> None:
    """Refuse to close what is not empty, and to open again what was closed with its user."""
    if status == "CLOSED":
        if account.balance or account.held:
            scale = asset_named(account.asset).scale
            raise Refused(
                "account_not_empty",
                account_id=account.id,
                balance=format_amount(account.balance, scale),
                held=format_amount(account.held, scale),
            )
    elif account.status == "CLOSED" and account.user_id is not None:
        user: Member | None = book.facts[USERS].get(account.user_id)
        if user is None or user.status == DELETED:
            raise Refused("account_inactive", "The account's user is deleted", account_id=account.id)

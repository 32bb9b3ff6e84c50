"""The deletion of a user: accounts are shut, and in the same transaction all that lets the user in ends."""

from collections.abc import Iterable
from typing import Any, ClassVar, Final

import msgspec

from ledger.domain.accounts import Account
from ledger.domain.book import Book
from ledger.domain.commands import Command, Draft
from ledger.domain.errors import Refused
from ledger.domain.journal import Change, Record, canonical
from ledger.domain.users import DELETED

# Facts, each keyed by users' ids.
USERS: Final = "users"
ACCOUNTS_OF_USERS: Final = "accounts_of_users"

# Writes, in this order; a row is the user's id and the instant.
DELETED_USERS: Final = "deleted_users"
ENDED_SESSIONS: Final = "ended_sessions"
ENDED_TOKENS: Final = "ended_tokens"


class Member(msgspec.Struct, array_like=True):
    """A user as a batch sees it."""

    id: str
    status: str


class DeleteUser(Command, frozen=True, kw_only=True, gc=False):
    """A user ceases to be one; the journal keeps what the accounts did."""

    kind: ClassVar[str] = "user_deletion"

    user_id: str

    @property
    def lane(self) -> str:
        """The user's own: which accounts there are is known only under the lock."""
        return self.user_id

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """The user, and whatever accounts the user has by then."""
        return ((USERS, (self.user_id,)), (ACCOUNTS_OF_USERS, (self.user_id,)))

    def content(self) -> Any:
        """The user."""
        return (self.user_id,)

    def decide(self, book: Book) -> Draft:
        """Close accounts that are empty and suspend the others, or refuse where the user is deleted already."""
        user: Member | None = book.facts[USERS].get(self.user_id)
        if user is None or user.status == DELETED:
            raise Refused("user_not_found")
        read: Iterable[Account] = book.facts[ACCOUNTS_OF_USERS].values()
        mine = sorted((account for account in read if account.user_id == self.user_id), key=lambda a: a.id)
        # Where another command of the batch has the account too, its state is the one that counts.
        accounts = [book.accounts.setdefault(account.id, account) for account in mine]
        changes = tuple(change for account in accounts if (change := _shut(book, account)) is not None)
        user.status = DELETED
        row = {"id": self.user_id, "at": book.instant}
        return Draft(
            changes=changes, writes=tuple((name, row) for name in (DELETED_USERS, ENDED_SESSIONS, ENDED_TOKENS))
        )

    def answer(self, record: Record) -> bytes:
        """The user, and what became of the accounts."""
        accounts = [{"id": change.account, "status": change.status} for change in record.changes]
        return canonical({"user_id": self.user_id, "accounts": accounts})


def _shut(book: Book, account: Account) -> Change | None:
    status = "SUSPENDED" if account.balance or account.held else "CLOSED"
    return None if account.status in (status, "CLOSED") else book.change(account, status=status)

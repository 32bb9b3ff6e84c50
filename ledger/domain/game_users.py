"""Game users: made with what they begin with, and allowed to bet or not, by commands to the writer like any other."""

from collections.abc import Iterable
from typing import Any, ClassVar, Final
from uuid import NAMESPACE_OID, UUID, uuid5

import msgspec

from ledger.domain.accounts import Account, world_id
from ledger.domain.book import Book
from ledger.domain.commands import ACCOUNTS, Command, Draft, Leg
from ledger.domain.errors import Refused
from ledger.domain.game_dialect import CURRENCY
from ledger.domain.journal import Record, canonical

GAMES: Final = str(uuid5(NAMESPACE_OID, "ledger/games"))  # the scope of all transaction uuids
ASSET: Final = f"{CURRENCY}/5"
WORLD: Final = world_id(ASSET)
FIRST_BALANCE: Final = 100_000
ACTIVE: Final = "ACTIVE"
DISABLED: Final = "DISABLED"

GAME_USERS: Final = "game_users"  # a fact, by the ids of the users' accounts, and the write that brings it forward

_NAMESPACE: Final = UUID(GAMES)


class GameUser(msgspec.Struct, array_like=True, frozen=True):
    """A game user as a batch sees it, by the id of the account."""

    id: str
    status: str


def game_account_id(name: str) -> str:
    """Return the id of a game user's account: of one name there is one, whoever opens it."""
    return str(uuid5(_NAMESPACE, name))


def balance_in(record: Record, account_id: str) -> int:
    """Return the balance that a record left an account with."""
    return next(item.balance for item in record.items if item.account == account_id)


class _OfUser(Command, frozen=True, kw_only=True, gc=False):
    """What becomes of a game user."""

    name: str
    account_id: str

    @property
    def lane(self) -> str:
        """The user's own."""
        return self.account_id

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """The account with its world, and the user."""
        return ((ACCOUNTS, (self.account_id, WORLD)), (GAME_USERS, (self.account_id,)))

    def content(self) -> Any:
        """The name."""
        return (self.name,)

    def write(self, book: Book, status: str) -> tuple[tuple[str, Any], ...]:
        """Bring the user forward, and return the row that keeps that."""
        book.note(GAME_USERS, self.account_id, GameUser(self.account_id, status))
        row = {"account_id": self.account_id, "name": self.name, "status": status, "seq": book.head.seq + 1}
        return ((GAME_USERS, row),)


class CreateGameUser(_OfUser, frozen=True, kw_only=True, gc=False):
    """A name becomes a game user, with an account that holds the first balance; metadata tells the name."""

    kind: ClassVar[str] = "game_deposit"

    def decide(self, book: Book) -> Draft:
        """Open the account and fill it, or refuse a name that is taken."""
        account_id = self.account_id
        if account_id in book.facts[GAME_USERS]:
            raise Refused("already_processed", "The game user exists already")
        book.open(Account(account_id, None, ASSET, "CHECKING", "ACTIVE", 0, 0, 0, 0))
        entries = book.post((Leg(WORLD, account_id, FIRST_BALANCE),))
        return Draft(entries, writes=self.write(book, ACTIVE))

    def answer(self, record: Record) -> bytes:
        """The user's name and balance."""
        return canonical({"user": self.name, "balance": balance_in(record, self.account_id)})


class SetGameUserStatus(_OfUser, frozen=True, kw_only=True, gc=False):
    """Lets a game user bet or not, from this record on; metadata tells the name and the status."""

    kind: ClassVar[str] = "game_status"

    status: str

    def decide(self, book: Book) -> Draft:
        """Set the status of a user that exists."""
        if self.status not in (ACTIVE, DISABLED):
            raise Refused("invalid_status", field="status")
        if self.account_id not in book.facts[GAME_USERS]:
            raise Refused("user_not_found")
        change = book.change(book.account(self.account_id))
        return Draft(changes=(change,), writes=self.write(book, self.status))

    def answer(self, record: Record) -> bytes:  # noqa: ARG002
        """The user's name and status."""
        return canonical({"user": self.name, "status": self.status})


def create_user(name: str, record_id: str) -> CreateGameUser:
    """Return the command that makes a game user of a name."""
    return CreateGameUser(id=record_id, metadata={"name": name}, name=name, account_id=game_account_id(name))


def set_user_status(name: str, status: str, record_id: str) -> SetGameUserStatus:
    """Return the command that lets a game user bet, or not."""
    metadata = {"name": name, "status": status}
    account_id = game_account_id(name)
    return SetGameUserStatus(id=record_id, metadata=metadata, name=name, account_id=account_id, status=status)

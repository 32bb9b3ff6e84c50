"""What is booked for game users: bets, wins and rollbacks, each once, under the uuid that its sender gave."""

from collections.abc import Iterable
from typing import Any, ClassVar, Final

import msgspec

from ledger.domain import game_dialect as dialect
from ledger.domain.book import Book
from ledger.domain.commands import ACCOUNTS, Command, Draft, Leg, Outcome
from ledger.domain.errors import Refused
from ledger.domain.game_dialect import Transaction
from ledger.domain.game_users import ACTIVE, GAME_USERS, GAMES, WORLD, GameUser, balance_in
from ledger.domain.journal import Record, canonical

# Facts: transactions by uuid, and what is undone by `undone_id`; the latter is a write, too.
GAME_TRANSACTIONS: Final = "game_transactions"
GAME_UNDONE: Final = "game_undone"

_STATUS_BY_REASON: Final = {
    "duplicate_transaction": dialect.DUPLICATE_TRANSACTION,
    "currency_mismatch": dialect.WRONG_CURRENCY,
    "account_inactive": dialect.USER_DISABLED,
    "account_frozen": dialect.USER_DISABLED,
    "account_suspended": dialect.USER_DISABLED,
    "insufficient_funds": dialect.NOT_ENOUGH_MONEY,
    "resource_not_found": dialect.TRANSACTION_DOES_NOT_EXIST,
}


class Undone(msgspec.Struct, array_like=True, frozen=True):
    """A transaction that its own user has rolled back, or will never be able to make."""

    id: str


class Booked(msgspec.Struct, array_like=True, frozen=True):
    """What stands in the journal under a transaction uuid."""

    id: str
    record: Record


def undone_id(uuid: str, account_id: str) -> str:
    """Return what tells that a user has rolled a uuid back: that of another user means nothing."""
    return f"{uuid}:{account_id}"


class GameCommand(Command, frozen=True, kw_only=True, gc=False):
    """A transaction of a game user; its uuid is the key, so what has been seen before is known for ever."""

    account_id: str
    asked: Transaction

    @property
    def lane(self) -> str:
        """The user's own."""
        return self.account_id

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """The account with its world, the user, and whether this very uuid has been rolled back."""
        account_id = self.account_id
        return (
            (ACCOUNTS, (account_id, WORLD)),
            (GAME_USERS, (account_id,)),
            (GAME_UNDONE, (undone_id(self.asked.transaction_uuid, account_id),)),
        )

    def content(self) -> Any:
        """User, currency, amount, round, game and reference."""
        return (self.account_id, *self.asked.content)

    def request(self) -> Any:
        """The kind and the content: all else that rides along does not count."""
        return (self.kind, self.content())

    def answer(self, record: Record) -> bytes:
        """What the record left the user with."""
        return canonical(self.told(record))

    def told(self, outcome: Outcome | Record) -> dict[str, Any]:
        """Return what an outcome, or the record of it, is in the dialect of games."""
        if isinstance(outcome, Refused):
            status = _STATUS_BY_REASON.get(outcome.reason, dialect.UNKNOWN)
            if status == dialect.NOT_ENOUGH_MONEY:
                return {**dialect.accepted(self.asked, outcome.details["balance"]), "status": status}
        elif isinstance(outcome, Exception):
            status = dialect.UNKNOWN
        else:
            record = outcome if isinstance(outcome, Record) else outcome.record
            return dialect.accepted(self.asked, balance_in(record, self.account_id))
        return {"user": self.asked.user, "status": status, "request_uuid": self.asked.request_uuid}

    def user_in(self, book: Book) -> GameUser:
        """Return the user, or refuse one that is not known."""
        user: GameUser | None = book.facts[GAME_USERS].get(self.account_id)
        if user is None:
            raise Refused("user_not_found")
        return user

    def require_currency(self) -> None:
        """Refuse any other currency."""
        if self.asked.currency != dialect.CURRENCY:
            raise Refused("currency_mismatch")

    def require_not_undone(self, book: Book) -> None:
        """Refuse what its own rollback came before."""
        if undone_id(self.asked.transaction_uuid, self.account_id) in book.facts[GAME_UNDONE]:
            raise _no_transaction(self.asked.transaction_uuid)

    def take(self, book: Book, amount: int) -> Draft:
        """Move an amount, which may be zero, out of the account."""
        account = book.account(self.account_id)
        if amount > account.available:
            raise Refused("insufficient_funds", account_id=account.id, balance=account.balance)
        return self._move(book, self.account_id, WORLD, amount)

    def give(self, book: Book, amount: int) -> Draft:
        """Move an amount, which may be zero, into the account."""
        return self._move(book, WORLD, self.account_id, amount)

    def _move(self, book: Book, source: str, target: str, amount: int) -> Draft:
        if amount:
            return Draft(book.post((Leg(source, target, amount),)))
        # Nothing moves, but the record tells the balance that the answer is made of.
        return Draft(changes=(book.change(book.account(self.account_id)),))

    def referenced(self, book: Book) -> Record | None:
        """Return what stands under the reference, whoever's it is."""
        earlier = book.known.get((GAMES, self.asked.reference))
        if earlier is None:
            booked: Booked | None = book.facts[GAME_TRANSACTIONS].get(self.asked.reference)
            earlier = None if booked is None else booked.record
        return earlier

    def is_mine(self, record: Record) -> bool:
        """Whether a record is of this user."""
        return any(item.account == self.account_id for item in record.items)


class Bet(GameCommand, frozen=True, kw_only=True, gc=False):
    """A user stakes an amount."""

    kind: ClassVar[str] = "bet"

    def decide(self, book: Book) -> Draft:
        """Take the stake, if the user may bet and has it."""
        user = self.user_in(book)
        self.require_currency()
        if user.status != ACTIVE:
            raise Refused("account_inactive")
        self.require_not_undone(book)
        return self.take(book, self.asked.amount)


class Win(GameCommand, frozen=True, kw_only=True, gc=False):
    """A bet has an outcome, which may be that nothing is won."""

    kind: ClassVar[str] = "win"

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """And the bet, and whether it is rolled back."""
        return _needs_reference(self)

    def decide(self, book: Book) -> Draft:
        """Give what is won, if the reference is a bet of this user that stands."""
        self.user_in(book)
        self.require_currency()
        self.require_not_undone(book)
        reference = self.asked.reference
        bet = self.referenced(book)
        if (
            bet is None
            or bet.kind != Bet.kind
            or undone_id(reference, self.account_id) in book.facts[GAME_UNDONE]
            or not self.is_mine(bet)
        ):
            raise _no_transaction(reference)
        return self.give(book, self.asked.amount)


class Rollback(GameCommand, frozen=True, kw_only=True, gc=False):
    """A bet or a win of a user is undone, once; what is not there yet will never be."""

    kind: ClassVar[str] = "rollback"

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """And what it undoes, and whether that is undone already."""
        return _needs_reference(self)

    def decide(self, book: Book) -> Draft:
        """Move back what the reference moved, or nothing where there is nothing to undo."""
        self.user_in(book)
        reference, account_id = self.asked.reference, self.account_id
        earlier = self.referenced(book)
        mark = undone_id(reference, account_id)
        if mark in book.facts[GAME_UNDONE]:
            return self.give(book, 0)
        if earlier is None:
            draft = self.give(book, 0)
        elif earlier.kind not in (Bet.kind, Win.kind) or not self.is_mine(earlier):
            return self.give(book, 0)
        else:
            moved = sum(entry.amount for entry in earlier.entries if entry.account == account_id)
            draft = self.give(book, -moved) if moved < 0 else self.take(book, moved)
        book.note(GAME_UNDONE, mark, Undone(mark))
        row = {"transaction_uuid": reference, "account_id": account_id, "seq": book.head.seq + 1}
        return Draft(draft.entries, draft.changes, ((GAME_UNDONE, row),))


def _needs_reference(command: GameCommand) -> Iterable[tuple[str, Iterable[str]]]:
    account_id, asked = command.account_id, command.asked
    return (
        (ACCOUNTS, (account_id, WORLD)),
        (GAME_USERS, (account_id,)),
        (GAME_UNDONE, (undone_id(asked.transaction_uuid, account_id), undone_id(asked.reference, account_id))),
        (GAME_TRANSACTIONS, (asked.reference,)),
    )


def _no_transaction(uuid: str) -> Refused:
    return Refused("resource_not_found", "The transaction does not exist", transaction_uuid=uuid)


_KINDS: Final[dict[str, type[GameCommand]]] = {kind.kind: kind for kind in (Bet, Win, Rollback)}


def command_of(asked: Transaction, account_id: str, record_id: str) -> GameCommand:
    """Return the command that a transaction of a known user is."""
    return _KINDS[asked.kind](
        id=record_id,
        scope=GAMES,
        key=asked.transaction_uuid,
        metadata=asked.metadata,
        account_id=account_id,
        asked=asked,
    )

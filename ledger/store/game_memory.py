"""Game users and their journal in memory: of a transaction there stays its record's body, found by its uuid."""

from collections.abc import Callable, Iterator
from typing import Any

from ledger.domain.accounts import Account
from ledger.domain.book import Book
from ledger.domain.commands import Command, Outcome, Sealed
from ledger.domain.game_users import ASSET, GAME_USERS, WORLD
from ledger.domain.games import GAME_TRANSACTIONS, GAME_UNDONE, Booked
from ledger.domain.journal import START, Record, read_body
from ledger.store.memory import instant_text


class GameMemory:
    """A journal kept in one book that lives as long as it does: nothing is copied to decide, and little to keep."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._second, self._second_text = -1, ""
        self._bodies: list[bytes] = []
        self._by_uuid: dict[int, bytes] = {}  # a uuid as the number that it is: half as large as its text
        self._referenced: dict[str, Booked] = {}
        world = Account(WORLD, None, ASSET, "WORLD", "ACTIVE", 0, 0, 0, 0)
        facts: dict[str, dict[str, Any]] = {GAME_USERS: {}, GAME_UNDONE: {}, GAME_TRANSACTIONS: self._referenced}
        self._book = Book(START, "", {WORLD: world}, facts=facts)

    def __len__(self) -> int:
        return len(self._bodies)

    def decide(self, command: Command) -> Outcome:
        """Decide a command, and keep what it came to."""
        book, key = self._book, command.key
        book.instant = max(book.instant, self._instant())
        number = None if key is None else _number(key)
        if number is not None and (body := self._by_uuid.get(number)) is not None:
            book.known[command.scope, key] = read_body(body)
        for name, uuids in command.needs():
            if name == GAME_TRANSACTIONS:
                for uuid in uuids:
                    if (body := self._by_uuid.get(_number(uuid))) is not None:
                        self._referenced[uuid] = Booked(uuid, read_body(body))
        outcome = book.decide(command)
        if isinstance(outcome, Sealed):
            self._bodies.append(outcome.body)
            if number is not None:
                self._by_uuid[number] = outcome.body
        # All that would be kept twice.
        book.known.clear()
        book.touched.clear()
        self._referenced.clear()
        return outcome

    def _instant(self) -> str:
        """Return this instant in the form that records carry; its second is written out once."""
        now = self._seconds()
        second = int(now)
        if second != self._second:
            self._second, self._second_text = second, instant_text(second)[:-7]
        return f"{self._second_text}{int((now - second) * 1e6):06d}Z"

    def balance(self, account_id: str) -> int:
        """Return what an account holds."""
        return self._book.accounts[account_id].balance

    def records(self) -> Iterator[Record]:
        """Return the journal in order."""
        return map(read_body, self._bodies)


def _number(uuid: str) -> int:
    return int(uuid.replace("-", ""), 16)

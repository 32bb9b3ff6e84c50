"""The game wallet in process: isolated servers in memory, on the same rules as the one over HTTP (docs/games.md).

Every function returns at once and may be called from any thread; no reactor needs to run.
"""

import time
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any

import uuid_utils
from twisted.logger import Logger
from twisted.python.failure import Failure

from ledger.domain.errors import Refused
from ledger.domain.game_dialect import UNKNOWN, Misread, accepted, declined, is_name, read_question, read_transaction
from ledger.domain.game_users import create_user, set_user_status
from ledger.domain.games import command_of
from ledger.store.game_memory import GameMemory

log = Logger()


def new_id() -> str:
    """Return a new id, a UUID of version 7."""
    return str(uuid_utils.uuid7())


class Server:
    """A running server: users, transaction uuids and journal are its own."""

    def __init__(self, seconds: Callable[[], float], new_id: Callable[[], str]) -> None:
        self._seconds = seconds
        self._new_id = new_id
        self._lock = Lock()
        self._memory = GameMemory(seconds)
        self._accounts: dict[str, str] = {}
        self._running = True

    @property
    def memory(self) -> GameMemory:
        """What the server keeps."""
        return self._memory

    def create_users(self, names: Iterable[object]) -> None:
        """Make users of the names that are new; what cannot be a name is passed over."""
        with self._lock:
            if not self._running:
                raise RuntimeError("the server of games is stopped")
            for name in names:
                if not is_name(name) or name in self._accounts:
                    continue
                command = create_user(name, self._new_id())
                outcome = self._memory.decide(command)
                if isinstance(outcome, Exception):
                    raise outcome
                self._accounts[name] = command.account_id

    def set_status(self, name: str, status: str) -> None:
        """Let a user bet, or not; refused with `user_not_found` or `invalid_status`."""
        with self._lock:
            if name not in self._accounts:
                raise Refused("user_not_found")
            outcome = self._memory.decide(set_user_status(name, status, self._new_id()))
        if isinstance(outcome, Exception):
            raise outcome

    def transact(self, kind: str, body: object) -> dict[str, Any]:
        """Answer a bet, a win or a rollback."""
        try:
            asked = read_transaction(kind, body)
        except Misread as misread:
            return misread.answer
        with self._lock:
            account_id = self._accounts.get(asked.user)
            if account_id is None:
                return declined(UNKNOWN, body)
            command = command_of(asked, account_id, self._new_id())
            outcome = self._memory.decide(command)
        if isinstance(outcome, Exception) and not isinstance(outcome, Refused):
            log.failure("A {kind} broke", Failure(outcome), kind=kind)  # type: ignore[no-untyped-call]
        return command.told(outcome)

    def balance(self, body: object) -> dict[str, Any]:
        """Answer a question for a balance."""
        try:
            asked = read_question(body)
        except Misread as misread:
            return misread.answer
        with self._lock:
            account_id = self._accounts.get(asked.user)
            if account_id is None:
                return declined(UNKNOWN, body)
            return accepted(asked, self._memory.balance(account_id))

    def stop(self) -> None:
        """Forget everything: from now on nobody is known."""
        with self._lock:
            self._running = False
            self._accounts = {}
            self._memory = GameMemory(self._seconds)


def start(seconds: Callable[[], float] = time.time, new_id: Callable[[], str] = new_id) -> Server:
    """Start a server without users."""
    return Server(seconds, new_id)


def create_users(server: Server, names: Iterable[object]) -> None:
    """Make users with 100_000 USD/5 each; `""`, what is no text, and users that exist are passed over."""
    server.create_users(names)


def bet(server: Server, body: object) -> dict[str, Any]:
    """Book a stake, once for its `transaction_uuid`."""
    return server.transact("bet", body)


def win(server: Server, body: object) -> dict[str, Any]:
    """Book what a bet has won, once for its `transaction_uuid`."""
    return server.transact("win", body)


def rollback(server: Server, body: object) -> dict[str, Any]:
    """Undo a bet or a win, once."""
    return server.transact("rollback", body)


def balance(server: Server, body: object) -> dict[str, Any]:
    """Tell a user's balance."""
    return server.balance(body)


def stop(server: Server) -> None:
    """Stop a server: whatever it is asked from now on is answered as for a user that nobody knows."""
    server.stop()

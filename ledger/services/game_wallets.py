"""The game wallet over the journal: users by their names, and what is booked for them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, gatherResults

from ledger.domain.commands import Command, Replayed, Sealed
from ledger.domain.errors import Refused
from ledger.domain.game_dialect import UNKNOWN, Misread, accepted, declined, is_name, read_question, read_transaction
from ledger.domain.game_users import create_user, set_user_status
from ledger.domain.games import command_of
from ledger.services.remembered import Remembered
from ledger.store.accounts import read_state
from ledger.store.games import find_game_account, known_names
from ledger.store.pool import Pool

_REMEMBERED: Final = 100_000
_SLICE: Final = 200  # users made at once: what is queued stands in the way of payments


class GameWallets:
    """Answers in the dialect of games; only an outage is refused in the ledger's own words."""

    def __init__(
        self,
        pool: Pool,
        submit: Callable[[Command], Deferred[Sealed | Replayed]],
        new_id: Callable[[], str],
        most: int,
    ) -> None:
        """`most` is the largest amount of one transaction."""
        self._pool = pool
        self._submit = submit
        self._new_id = new_id
        self._most = most
        self._accounts: Remembered[str, str] = Remembered(_REMEMBERED)  # users stay for ever

    async def create(self, names: Iterable[object]) -> list[str]:
        """Make users of the names that are new, and return these; what cannot be a name is passed over."""
        wanted = list(dict.fromkeys(name for name in names if is_name(name)))
        made: list[str] = []
        for start in range(0, len(wanted), _SLICE):
            some = wanted[start : start + _SLICE]
            known = await known_names(self._pool, some)
            new = [name for name in some if name not in known]
            outcomes = await self._each(create_user(name, self._new_id()) for name in new)
            for name, outcome in zip(new, outcomes, strict=True):
                if outcome is None:
                    made.append(name)
                elif outcome.reason != "already_processed":  # made by somebody else meanwhile
                    raise outcome
        return made

    async def set_status(self, name: str, status: str) -> None:
        """Let a user bet, or not, or refuse with `user_not_found` or `invalid_status`."""
        await self._submit(set_user_status(name, status, self._new_id()))

    async def transact(self, kind: str, body: object) -> dict[str, Any]:
        """Answer a bet, a win or a rollback."""
        try:
            asked = read_transaction(kind, body, self._most)
        except Misread as misread:
            return misread.answer
        account_id = self._accounts.get(asked.user) or await self._find(asked.user)
        if account_id is None:
            return declined(UNKNOWN, body)
        command = command_of(asked, account_id, self._new_id())
        try:
            return command.told((await self._submit(command)).record)
        except Refused as refused:
            if refused.category.status >= 500:
                raise
            return command.told(refused)

    async def balance(self, body: object) -> dict[str, Any]:
        """Answer a question for a balance."""
        try:
            asked = read_question(body)
        except Misread as misread:
            return misread.answer
        account_id = self._accounts.get(asked.user) or await self._find(asked.user)
        state = None if account_id is None else await read_state(self._pool, account_id)
        return declined(UNKNOWN, body) if state is None else accepted(asked, state[0].balance)

    async def _find(self, name: str) -> str | None:
        account_id = await find_game_account(self._pool, name) if is_name(name) else None
        if account_id is not None:
            self._accounts.keep(name, account_id)
        return account_id

    async def _each(self, commands: Iterable[Command]) -> Sequence[Refused | None]:
        def refusal(failure: Any) -> Refused:
            failure.trap(Refused)
            refused: Refused = failure.value
            return refused

        deferreds = [self._submit(command).addCallbacks(lambda _: None, refusal) for command in commands]
        outcomes: list[Refused | None] = await gatherResults(deferreds, consumeErrors=True)
        return outcomes

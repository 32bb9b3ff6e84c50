"""The sweeper: has it written that the time of holds is up, so that whoever watches their accounts hears of it.

What may be spent does not depend on it: a hold that is over counts nowhere, swept or not.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList

from ledger.domain.commands import Command, Replayed, Sealed
from ledger.domain.errors import Refused
from ledger.domain.holds import ExpireHolds
from ledger.store.holds import accounts_with_due_holds
from ledger.store.pool import Pool

AT_ONCE: Final = 500  # holds that one run is after: what is queued stands in the way of payments


class HoldSweeper:
    """Ends the holds that have been over for longest; any number of them may be at it on one database."""

    def __init__(
        self,
        pool: Pool,
        submit: Callable[[Command], Deferred[Sealed | Replayed]],
        new_id: Callable[[], str],
        at_once: int = AT_ONCE,
    ) -> None:
        self._pool = pool
        self._submit = submit
        self._new_id = new_id
        self._at_once = at_once

    async def sweep(self) -> None:
        """End what is over; what is refused meanwhile, or left, is there for the next run."""
        try:
            accounts = await accounts_with_due_holds(self._pool, self._at_once)
        except Refused:  # the database is away, and others say so
            return
        answers = [self._submit(ExpireHolds(id=self._new_id(), account_id=account)) for account in accounts]
        outcomes: Sequence[tuple[bool, Any]] = await DeferredList(answers, consumeErrors=True)
        for succeeded, failure in outcomes:
            # The batch itself has ended them by the time that the command is decided, or a debit has just before.
            if not succeeded and not failure.check(Refused):
                failure.raiseException()

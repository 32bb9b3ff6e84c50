"""What can be read of the past: balances at an instant, statements, the journal, and whether all of it holds."""

from datetime import datetime
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.failure import Failure

from ledger.domain.accounts import Owner
from ledger.store.balances import BalanceAt, read_balance_at
from ledger.store.journal_pages import JournalPage, read_journal
from ledger.store.pool import Pool
from ledger.store.statements import Statement, begin_statement
from ledger.store.verify import Verdict, resting, verify


class Histories:
    """Reads the past; the journal is verified once at a time, for all who ask meanwhile."""

    def __init__(self, pool: Pool, clock: Any) -> None:
        self._pool = pool
        self._clock = clock
        self._waiting: list[Deferred[Verdict]] = []

    async def balance_at(self, owner: Owner, at: datetime | None, known_at: datetime | None) -> BalanceAt:
        """Return the balance at an instant as it was known at another, or refuse instants that are to come."""
        return await read_balance_at(self._pool, owner.account_id, at, known_at)

    async def statement(self, owner: Owner, since: datetime | None, before: datetime | None) -> Statement:
        """Begin a statement."""
        return await begin_statement(self._pool, owner, since, before)

    async def journal(self, since: int, limit: int) -> JournalPage:
        """Return records that follow a number."""
        return await read_journal(self._pool, since, limit)

    async def verdict(self) -> Verdict:
        """Verify the whole journal, or wait for the verdict that somebody else waits for already."""
        mine: Deferred[Verdict] = Deferred()
        self._waiting.append(mine)
        if len(self._waiting) == 1:
            ensureDeferred(verify(self._pool, resting(self._clock))).addBoth(self._tell)
        return await mine

    def _tell(self, verdict: Verdict | Failure) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(verdict)

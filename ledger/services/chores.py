"""The server's own periodic jobs: holds that are over are ended, and what is no longer of use is removed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from twisted.logger import Logger

from ledger.services.cron import HOUR, Recurring
from ledger.services.workers import Chore, Workers
from ledger.store import job_desk
from ledger.store.holds import accounts_with_due_holds
from ledger.store.pool import Pool

Work = Callable[[], Awaitable[object]]

KEPT: Final = {("completed", "cancelled"): 7.0, ("dead",): 30.0}  # days that jobs are kept after their end
PATIENCE: Final = 1.0  # days that a job waits for a server that knows its worker
_SLICE: Final = 1_000
_LONG: Final = 600.0
_SHORT: Final = 30.0

_SWEPT_EVERY: Final = 1.0  # second: whoever watches an account hears soon that a hold is over
_SWEEPS_KEPT: Final = 120.0


def own_table(pool: Pool) -> tuple[Recurring, ...]:
    """Return what is done when. Holds are swept where there are any that are over, and else nothing is written."""

    async def is_any_hold_over() -> bool:
        return bool(await accounts_with_due_holds(pool, 1))

    return (
        Recurring("job pruning", HOUR, "prune_jobs"),
        Recurring("session pruning", HOUR, "prune_sessions"),
        Recurring("hold sweeping", _SWEPT_EVERY, "sweep_holds", wanted=is_any_hold_over, kept=_SWEEPS_KEPT),
    )


class JobPruning:
    """Removes old jobs, and ends those that no server knows how to do."""

    _log = Logger()

    def __init__(self, pool: Pool, workers: Workers) -> None:
        self._pool = pool
        self._workers = workers

    async def prune(self) -> None:
        """Do it, a little at a time."""
        for states, days in KEPT.items():
            while await job_desk.forget(self._pool, states, days, _SLICE) == _SLICE:
                pass
        buried = gone = await job_desk.bury_unknown(self._pool, list(self._workers), PATIENCE, _SLICE)
        while gone == _SLICE:
            gone = await job_desk.bury_unknown(self._pool, list(self._workers), PATIENCE, _SLICE)
            buried += gone
        if buried:
            self._log.warn("{buried} jobs are dead, whose workers no server knows", buried=buried)


def own_workers(pool: Pool, prune_sessions: Work, sweep_holds: Work) -> Workers:
    """Return the workers of the table's jobs; others may be added."""
    workers = Workers()
    workers.add(Chore("prune_jobs", JobPruning(pool, workers).prune, timeout=_LONG))
    workers.add(Chore("prune_sessions", prune_sessions, timeout=_LONG))
    workers.add(Chore("sweep_holds", sweep_holds, queue="holds", timeout=_SHORT))
    return workers

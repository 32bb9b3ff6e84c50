"""The server's own periodic jobs: what is no longer of use is removed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from twisted.logger import Logger

from ledger.services.cron import HOUR, Recurring
from ledger.services.workers import Chore, Workers
from ledger.store import job_desk
from ledger.store.pool import Pool

KEPT: Final = {("completed", "cancelled"): 7.0, ("dead",): 30.0}  # days that jobs are kept after their end
PATIENCE: Final = 1.0  # days that a job waits for a server that knows its worker
_SLICE: Final = 1_000
_LONG: Final = 600.0

TABLE: Final = (
    Recurring("job pruning", HOUR, "prune_jobs"),
    Recurring("session pruning", HOUR, "prune_sessions"),
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


def own_workers(pool: Pool, prune_sessions: Callable[[], Awaitable[object]]) -> Workers:
    """Return the workers of the table's jobs; others may be added."""
    workers = Workers()
    workers.add(Chore("prune_jobs", JobPruning(pool, workers).prune, timeout=_LONG))
    workers.add(Chore("prune_sessions", prune_sessions, timeout=_LONG))
    return workers

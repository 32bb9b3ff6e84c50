"""Periodic jobs: a table of what is to be done when, each time once, however many processes there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ledger.domain.errors import Refused
from ledger.domain.jobs import NewJob
from ledger.services.child import Child, Clock
from ledger.services.deadline import Overrun, within
from ledger.store.job_desk import queue_for_slot
from ledger.store.pool import Pool

HOUR: Final = 3600.0
DAY: Final = 86_400.0

_AGAIN: Final = 5.0  # seconds after a trial that failed
_LONGEST: Final = 60.0  # clocks are set, and machines sleep
_AFTER: Final = 0.01
_LAST: Final = 1.0


@dataclass(frozen=True)
class Recurring:
    """A job that is queued at the beginning of every slot: every so many seconds, from `at` (UTC) of any day on."""

    name: str
    every: float
    worker: str
    args: Mapping[str, Any] = field(default_factory=dict)
    at: float = 0.0  # seconds after midnight


class Cron(Child):
    """Queues each job of its table once a slot; a slot that nobody was there for is made up for by one job."""

    name = "cron"
    leans_on = ("database",)

    _log = Logger()

    def __init__(
        self,
        pool: Pool,
        table: Sequence[Recurring],
        new_job: Callable[[str, Mapping[str, Any]], NewJob],
        clock: Clock,
    ) -> None:
        """`new_job` makes a job for a worker."""
        self._pool = pool
        self._table = list(table)
        self._new_job = new_job
        self._clock = clock
        self._on = False
        self._call: Any = None
        self._busy: Deferred[None] | None = None
        if len({entry.name for entry in self._table}) < len(self._table):
            raise ValueError("two periodic jobs have one name")

    async def start(self) -> None:
        """Look at the table at once, and whenever a slot begins."""
        self._on = True
        if self._busy is None:
            self._call = self._clock.callLater(0, self._tick)

    async def stop(self) -> None:
        """Queue nothing more; a database that is silent is not waited for."""
        self._on = False
        if self._call is not None and self._call.active():
            self._call.cancel()
        if self._busy is not None:
            ended: Deferred[None] = Deferred()
            self._busy.chainDeferred(ended)
            with suppress(Overrun):
                await within(self._clock, _LAST, ended, "")

    def _tick(self) -> None:
        self._busy = Deferred()
        Deferred.fromCoroutine(self._look())

    async def _look(self) -> None:
        wait = _LONGEST
        for entry in self._table:
            if not self._on:
                break
            wait = min(wait, await self._queue(entry))
        busy, self._busy = self._busy, None
        if busy is not None:
            busy.callback(None)
        if self._on:
            self._call = self._clock.callLater(wait, self._tick)

    async def _queue(self, entry: Recurring) -> float:
        """Queue a job unless that was done for this slot; return in how many seconds to look again."""
        try:
            job = self._new_job(entry.worker, entry.args)
            won, left = await queue_for_slot(self._pool, entry.name, entry.every, entry.at, job)
        except Refused:  # the database is away
            return _AGAIN
        except Exception:
            self._log.failure("The periodic job {name} could not be queued", name=entry.name)
            return _LONGEST
        if won:
            self._log.debug("The periodic job {name} is queued", name=entry.name)
        return left + _AFTER

"""Periodic jobs: a table of what is to be done when, each time once, however many processes there are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ledger.domain.errors import Refused
from ledger.domain.jobs import NewJob
from ledger.services.child import Child, Clock
from ledger.services.deadline import Overrun, within
from ledger.store.job_slots import slot_now, take
from ledger.store.pool import Pool

HOUR: Final = 3600.0
DAY: Final = 86_400.0

_AGAIN: Final = 5.0  # seconds after a trial that failed
_LONGEST: Final = 60.0  # clocks are set, and machines sleep
_AFTER: Final = 0.01
_LAST: Final = 1.0
_JUST_NOW: Final = 0.001  # the slots see to it that there is one of each


@dataclass(frozen=True)
class Recurring:
    """A job that is queued at the beginning of every slot: every so many seconds, from `at` (UTC) of any day on."""

    name: str
    every: float
    worker: str
    args: Mapping[str, Any] = field(default_factory=dict)
    at: float = 0.0  # seconds after midnight
    wanted: Callable[[], Awaitable[bool]] | None = None  # whether there is anything to do; if not, no job is queued
    kept: float | None = None  # seconds that the job is kept for; None: as long as any


class Cron(Child):
    """Queues each job of its table once a slot; a slot that nobody was there for is made up for by one job.

    One that still waits when the next slot begins stands for that as well: they do not pile up where nobody runs them.
    """

    name = "cron"
    leans_on = ("database",)

    _log = Logger()

    def __init__(self, pool: Pool, table: Sequence[Recurring], new_job: Callable[..., NewJob], clock: Clock) -> None:
        """`new_job` makes a job for a worker, as a desk does."""
        self._pool = pool
        self._table = list(table)
        self._new_job = new_job
        self._clock = clock
        self._on = False
        self._call: Any = None
        self._busy: Deferred[None] | None = None
        self._due: dict[str, float] = {}
        if len({entry.name for entry in self._table}) < len(self._table):
            raise ValueError("two periodic jobs have one name")

    async def start(self) -> None:
        """Look at the table at once, and at each job whenever a slot of its begins."""
        self._on = True
        self._due = dict.fromkeys((entry.name for entry in self._table), self._clock.seconds())
        if self._busy is None and self._table:
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
        now = self._clock.seconds
        for entry in self._table:
            if not self._on:
                break
            if self._due[entry.name] <= now():
                self._due[entry.name] = min(await self._queue(entry), now() + _LONGEST)
        busy, self._busy = self._busy, None
        if busy is not None:
            busy.callback(None)
        if self._on:
            self._call = self._clock.callLater(max(0.0, min(self._due.values()) - now()), self._tick)

    async def _queue(self, entry: Recurring) -> float:
        """Queue a job unless that was done for this slot; return when to look again."""
        now = self._clock.seconds
        try:
            slot = await slot_now(self._pool, entry.name, entry.every, entry.at)
            again = now() + slot.left + _AFTER
            if not slot.is_taken and (entry.wanted is None or await entry.wanted()):
                job = self._new_job(entry.worker, entry.args, unique_key=f"periodic:{entry.name}", unique_for=_JUST_NOW)
                if await take(self._pool, entry.name, slot, job, entry.kept):
                    self._log.debug("The periodic job {name} is queued", name=entry.name)
        except Refused:  # the database is away
            return now() + min(_AGAIN, entry.every)
        except Exception:
            self._log.failure("The periodic job {name} could not be queued", name=entry.name)
            return now() + _LONGEST
        return again

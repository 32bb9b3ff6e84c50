"""Where jobs are queued, and admins see to them; it works whether or not this process runs any."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from twisted.logger import Logger

from ledger.domain.errors import Refused
from ledger.domain.jobs import HIGHEST, LONGEST_DELAY, LOWEST, ORDINARY, STATES, Job, NewJob
from ledger.services.outbound import Breakers, BreakerStatus
from ledger.services.settling import is_in_doubt, settled
from ledger.services.workers import Workers
from ledger.store import job_desk as store
from ledger.store.job_desk import JobFilter, Queued
from ledger.store.pool import Pool

log = Logger()

_SLICE: Final = 1_000


class JobStats(msgspec.Struct, frozen=True):
    """How many jobs there are by queue and state, and how the breakers of external services stand."""

    queues: dict[str, dict[str, int]]
    breakers: list[BreakerStatus]


class JobDesk:
    """Queues jobs, and shows, retries and cancels them."""

    def __init__(
        self,
        pool: Pool,
        workers: Workers,
        queues: Sequence[str],
        breakers: Breakers,
        new_id: Callable[[], str],
        reactor: Any,
    ) -> None:
        """`queues` are those that are told of even where they are empty."""
        self._pool = pool
        self._workers = workers
        self._queues = queues
        self._breakers = breakers
        self._new_id = new_id
        self._reactor = reactor

    def new(
        self,
        worker: str,
        args: Mapping[str, Any],
        *,
        priority: int = ORDINARY,
        delay: float = 0.0,
        unique_key: str | None = None,
        unique_for: float | None = None,
    ) -> NewJob:
        """Make a job for a worker, to be queued; a worker that is not known raises `KeyError`.

        Unless `unique_key` is None, no other job with that key that was queued in the last `unique_for` seconds, and
        is neither cancelled nor dead, stands beside it. Nobody minds if `args` are read: they hold no secrets.
        """
        known = self._workers[worker]
        if not HIGHEST <= priority <= LOWEST or not 0 <= delay <= LONGEST_DELAY:
            raise Refused("invalid_request", "The priority or the delay is out of range")
        if (unique_key is None) != (unique_for is None):
            raise ValueError("a unique key and its window come together")
        return NewJob(
            id=self._new_id(),
            queue=known.queue,
            worker=worker,
            args=args,
            max_attempts=known.max_attempts,
            timeout=known.timeout,
            priority=priority,
            delay=delay,
            unique_key=unique_key,
            unique_for=unique_for,
        )

    async def enqueue(self, worker: str, args: Mapping[str, Any], **how: Any) -> Queued:
        """Queue a job; where one with its key stands in its way, return that one."""
        (queued,) = await self.enqueue_all([self.new(worker, args, **how)])
        return queued

    async def enqueue_all(self, jobs: Sequence[NewJob]) -> list[Queued]:
        """Queue jobs, in transactions of at most 1,000."""
        told: list[Queued] = []
        for start in range(0, len(jobs), _SLICE):
            told += await self._enqueue(jobs[start : start + _SLICE])
        return told

    async def find(self, job_id: str) -> Job:
        """Return a job, or refuse with `job_not_found`."""
        job = await store.find(self._pool, job_id)
        if job is None:
            raise Refused("job_not_found")
        return job

    async def newest_of(self, unique_key: str) -> Job | None:
        """Return the job that was queued last with a key, whatever has become of it."""
        return await store.newest_of_key(self._pool, unique_key)

    async def read(self, wanted: JobFilter, after: str | None, limit: int) -> list[Job]:
        """Return at most so many jobs, newest first, those after the job with this id."""
        return await store.read(self._pool, wanted, after, limit)

    async def retry(self, job_id: str) -> Job:
        """Make a job due now, one that has ended unfinished anew; a running or completed one is `already_processed`."""
        return await self._changed(job_id, await store.retry(self._pool, job_id))

    async def cancel(self, job_id: str) -> Job:
        """End a job: what runs at the moment goes on, but is not tried again; one that has ended is refused."""
        return await self._changed(job_id, await store.cancel(self._pool, job_id))

    async def stats(self) -> JobStats:
        """Count the jobs."""
        counted = await store.counts(self._pool)
        names = [*self._queues, *(name for name in sorted(counted) if name not in self._queues)]
        told: dict[str, dict[str, int]] = {}
        for name in names:
            told[name] = {state: counted.get(name, {}).get(state, 0) for state in STATES}
        return JobStats(told, self.breakers())

    def breakers(self) -> list[BreakerStatus]:
        """Tell how the breakers of external services stand."""
        return self._breakers.statuses()

    async def _changed(self, job_id: str, job: Job | None) -> Job:
        if job is None:
            now = await self.find(job_id)
            raise Refused("already_processed", state=now.state)
        return job

    async def _enqueue(self, jobs: Sequence[NewJob]) -> list[Queued]:
        try:
            return await store.queue(self._pool, jobs)
        except Refused as refused:
            if not is_in_doubt(refused):
                raise
            log.warn("The connection died in the commit of {many} jobs", many=len(jobs))
            return await settled(partial(self._was_queued, jobs), partial(self._reread, jobs), self._reactor)

    async def _was_queued(self, jobs: Sequence[NewJob]) -> bool | None:
        if not await store.has_ended(self._pool, jobs[0].id):
            return None
        return await self._reread(jobs) is not None

    async def _reread(self, jobs: Sequence[NewJob]) -> list[Queued] | None:
        """Return the jobs as they stand after a commit that was not answered, or None if it was not made."""
        told: list[Queued] = []
        for job in jobs:
            mine = await store.find(self._pool, job.id)
            other = None
            if mine is None and job.unique_key is not None:
                other = await store.newest_of_key(self._pool, job.unique_key)
            if mine is None and other is None:
                return None
            told.append(Queued(mine or other, mine is not None))  # type: ignore[arg-type]
        return told

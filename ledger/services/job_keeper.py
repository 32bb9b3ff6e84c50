"""The jobs that this process holds: their leases are renewed, and what becomes of them is written in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from ledger.domain.errors import Refused
from ledger.domain.jobs import Claimed, Step
from ledger.services.child import Clock
from ledger.services.periodic import Periodic
from ledger.store.postgres import StatementFailed

_BATCH: Final = 500
_FIRST_RETRY, _LAST_RETRY = 0.1, 3.0

Told = Callable[[bool], None]


class Store(Protocol):
    """What is kept of jobs, as whoever holds them needs it."""

    lease: float

    async def renew(self, jobs: Sequence[Claimed]) -> set[str]: ...
    async def settle(self, steps: Sequence[tuple[Claimed, Step]]) -> set[str]: ...


class Keeper:
    """Knows which jobs are ours, by their fences; a job that was lost is written nothing of."""

    _log = Logger()

    def __init__(self, store: Store, clock: Clock) -> None:
        self.lost = 0  # jobs whose lease ran out under their workers
        self._store = store
        self._clock = clock
        self._held: dict[str, Claimed] = {}
        self._settled: list[tuple[Claimed, Step, Told | None]] = []
        self._writing: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []
        self._on = False
        self._renewing = Periodic("lease renewal", store.lease / 3, self._renew, clock)

    @property
    def held(self) -> int:
        """How many jobs are ours."""
        return len(self._held)

    async def start(self) -> None:
        """Begin to renew leases."""
        self._on = True
        await self._renewing.start()

    async def stop(self) -> None:
        """Write what is left to be written, and forget all else: its leases run out."""
        try:
            await self._renewing.stop()
            await self.written()
        finally:
            self._on = False
            self._held.clear()

    def abandon(self) -> None:
        """Write nothing more, and wait for nothing."""
        self._on = False
        self._held.clear()
        Deferred.fromCoroutine(self._renewing.stop())

    def take(self, jobs: Iterable[Claimed]) -> None:
        """Hold jobs that were claimed."""
        self._held.update((job.id, job) for job in jobs)

    def settle(self, job: Claimed, step: Step, told: Told | None = None) -> None:
        """Have written what becomes of a job; `told` hears whether it was still ours."""
        if self._held.get(job.id) is not job:
            if told is not None:
                told(False)
            return
        if step.state != "executing":
            del self._held[job.id]
        self._settled.append((job, step, told))
        if self._writing is None:
            self._writing = Deferred()
            self._clock.callLater(0, self._write)

    def decide(self, job: Claimed, step: Step) -> Deferred[bool]:
        """Have a step written, and learn whether the job was still ours."""
        answer: Deferred[bool] = Deferred()
        self.settle(job, step, answer.callback)
        return answer

    def let_go(self, step: Step) -> int:
        """Give up every job that is held, so that others may take it; returns how many there were."""
        held = list(self._held.values())
        for job in held:
            self.settle(job, step)
        return len(held)

    async def written(self) -> None:
        """Return when all that was settled by now is written."""
        if self._writing is not None:
            ended: Deferred[None] = Deferred()
            self._waiting.append(ended)
            await ended

    def _write(self) -> None:
        Deferred.fromCoroutine(self._write_all())

    async def _write_all(self) -> None:
        delay, again = _FIRST_RETRY, False
        while self._settled:
            batch = self._next_batch()
            try:
                ours = await self._settle([(job, step) for job, step, _ in batch])
            except Refused:  # the database is away
                if self._on:
                    self._settled = batch + self._settled
                    await deferLater(self._clock, delay)  # type: ignore[arg-type]
                    delay, again = min(delay * 2, _LAST_RETRY), True
                    continue
                ours = set()
            except Exception:
                self._log.failure("What became of {many} jobs could not be written", many=len(batch))
                ours = set()
            for job, _, told in batch:
                is_ours = job.id in ours
                if not is_ours and not again:  # it may have been written the first time
                    self._lose(job)
                if told is not None:
                    told(is_ours)
            delay, again = _FIRST_RETRY, False
        self._writing = None
        waiting, self._waiting = self._waiting, []
        for ended in waiting:
            ended.callback(None)

    def _next_batch(self) -> list[tuple[Claimed, Step, Told | None]]:
        """Take steps that can be written at once: of one job only the first."""
        seen: set[str] = set()
        for job, _, _ in self._settled[:_BATCH]:
            if job.id in seen:
                break
            seen.add(job.id)
        batch, self._settled = self._settled[: len(seen)], self._settled[len(seen) :]
        return batch

    async def _settle(self, steps: Sequence[tuple[Claimed, Step]]) -> set[str]:
        """Write steps; where the database takes some for none, only these are left out."""
        try:
            return await self._store.settle(steps)
        except StatementFailed:
            if len(steps) == 1:
                self._log.failure("What became of job {job} was refused", job=steps[0][0].id)
                return set()
            half = len(steps) // 2
            return await self._settle(steps[:half]) | await self._settle(steps[half:])

    async def _renew(self) -> None:
        held = list(self._held.values())
        if not held:
            return
        try:
            ours = await self._store.renew(held)
        except Refused as refused:
            self._log.info("Leases of {many} jobs wait: {reason}", many=len(held), reason=refused.reason)
            return
        for job in held:
            if job.id not in ours and self._held.get(job.id) is job:
                del self._held[job.id]
                self._lose(job)

    def _lose(self, job: Claimed) -> None:
        self.lost += 1
        if self._held.get(job.id) is job:
            del self._held[job.id]
        self._log.warn("Job {job} of {worker} is not ours any more", job=job.id, worker=job.worker)

"""One attempt at a job: run by its worker within its time, or given up for good."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ledger.domain.errors import Refused
from ledger.domain.jobs import Cancel, Claimed, Snooze, Step, after, beyond_hope, trouble_of
from ledger.domain.retry import backoff
from ledger.services.child import Clock
from ledger.services.deadline import Overrun, within
from ledger.services.workers import LastWords, Worker, Workers

_FIRST_DELAY, _LONGEST_DELAY = 1.0, 300.0  # of giving up once more

Decide = Callable[[Claimed, Step], Awaitable[bool]]


class Runner:
    """Runs claimed jobs one by one; never raises."""

    _log = Logger()

    def __init__(self, workers: Workers, clock: Clock, random: Callable[[], float], decide: Decide) -> None:
        """`decide` writes that a job is final, and tells whether it was still ours."""
        self._workers = workers
        self._clock = clock
        self._random = random
        self._decide = decide
        self.overrun = 0  # attempts that were left behind when their time was up

    async def run(self, job: Claimed) -> Step | None:
        """Return what is to become of the job, or None where it has turned out not to be ours any more."""
        worker = self._workers[job.worker]
        hopeless = beyond_hope(job)
        if hopeless is not None:
            return await self._give_up(worker, job, Step("dead", trouble=hopeless))
        outcome: BaseException | None = None
        try:
            await self._bounded(job, worker.run(job.args))
        except Exception as error:
            outcome = error
            if not isinstance(error, (Refused, Cancel, Snooze)):
                self._log.failure("Job {job} of {worker} failed", job=job.id, worker=job.worker)
        step = after(outcome, job, self._random())
        return await self._give_up(worker, job, step) if step.state == "dead" else step

    async def _give_up(self, worker: Worker, job: Claimed, dead: Step) -> Step | None:
        """Make sure that the job is never run again, tell its worker, and only then let it be dead."""
        if not isinstance(worker, LastWords):
            return dead
        assert dead.trouble is not None
        if job.final is None and not await self._decide(job, Step("executing", final=dead.trouble)):
            return None
        try:
            await self._bounded(job, worker.gave_up(job.args, dead.trouble.refusal()))
        except Exception as error:
            if not isinstance(error, Refused):
                self._log.failure("Job {job} of {worker} could not be given up", job=job.id, worker=job.worker)
            delay = backoff(_FIRST_DELAY, _LONGEST_DELAY, job.attempt, self._random())
            return Step("retryable", delay, trouble_of(error))
        return dead

    async def _bounded(self, job: Claimed, work: Coroutine[Deferred[Any], Any, None]) -> None:
        """Wait for work no longer than the job may take.

        What takes longer is left behind: to cancel it could break what it waits in, such as a commit.
        """
        running = Deferred.fromCoroutine(work)
        if running.called:
            await running
            return
        try:
            await within(self._clock, job.timeout, running, "")
        except Overrun:
            self.overrun += 1
            self._log.warn(
                "Job {job} of {worker} took over {timeout} s", job=job.id, worker=job.worker, timeout=job.timeout
            )
            raise Refused("timeout", f"It took longer than {job.timeout:g} s") from None

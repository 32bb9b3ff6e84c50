"""One queue in one process: claims what is due, runs so many jobs at once, and knows when the next one is due."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import count
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ledger.domain.errors import Refused
from ledger.domain.jobs import GIVEN_BACK, LET_GO, Claimed
from ledger.services.child import Clock
from ledger.services.job_keeper import Keeper
from ledger.services.job_run import Runner

_TURN: Final = 0.003  # seconds of beginning jobs before others have their turn
_AHEAD: Final = 400  # jobs at most that are claimed before there is room for them,
_AHEAD_WITHIN: Final = 0.05  # and no more than are expected to be done in so many seconds
_PATIENCE: Final = 0.25  # they are given back where none has been begun for so long
_WEIGHT: Final = 0.1  # of the last job in the mean


class Store(Protocol):
    """What is kept of jobs, as a queue needs it."""

    async def claim(self, queue: str, most: int) -> list[Claimed]: ...
    async def due(self, queues: Sequence[str]) -> dict[str, float]: ...


class Queue:
    """Runs at most `slots` jobs at once, the most urgent first; where jobs are quick, some are claimed ahead."""

    _log = Logger()

    def __init__(self, name: str, slots: int, store: Store, keeper: Keeper, runner: Runner, clock: Clock) -> None:
        self.name = name
        self.slots = slots
        self.running = 0
        self.done = 0
        self._store = store
        self._keeper = keeper
        self._runner = runner
        self._clock = clock
        self._ready: list[tuple[int, int, Claimed]] = []
        self._order = count()
        self._on = False
        self._claiming = False
        self._more = False  # whether there may be jobs that are due
        self._seconds: float | None = None  # that a job takes, in the mean
        self._begun_at = 0.0
        self._pumping = False
        self._calls: dict[str, Any] = {}
        self._ended: list[Deferred[None]] = []

    def start(self) -> None:
        """Begin to claim."""
        self._on = True
        self.wake()

    def wake(self) -> None:
        """Look for jobs that are due, now or as soon as there is room."""
        self._more = True
        self._refill()

    def wake_in(self, seconds: float) -> None:
        """Look for jobs that are due in so many seconds, unless one is known to be due earlier."""
        alarm = self._calls.get("alarm")
        if self._on and (alarm is None or alarm.getTime() > self._clock.seconds() + seconds):
            self._later("alarm", seconds, self.wake)

    async def stop(self) -> None:
        """Claim nothing more, give back what has not been begun, and return when all else has ended."""
        self._on = False
        for name in list(self._calls):
            self._calls.pop(name).cancel()
        self._give_back()
        if self.running or self._claiming:
            ended: Deferred[None] = Deferred()
            self._ended.append(ended)
            await ended

    def _later(self, name: str, seconds: float, what: Any) -> None:
        def now() -> None:
            del self._calls[name]
            what()

        if name in self._calls:
            self._calls.pop(name).cancel()
        self._calls[name] = self._clock.callLater(seconds, now)

    @property
    def _ahead(self) -> int:
        if self._seconds is None:
            return 0
        return int(min(_AHEAD, self.slots * _AHEAD_WITHIN / max(self._seconds, 1e-6)))

    def _refill(self) -> None:
        if not (self._on and self._more) or self._claiming:
            return
        most = self.slots + self._ahead
        room = most - self.running - len(self._ready)
        if room < max(1, most // 2 if self._ready else 1):
            return
        self._more = False
        self._claiming = True
        Deferred.fromCoroutine(self._claim(room))

    async def _claim(self, room: int) -> None:
        try:
            jobs = await self._store.claim(self.name, room)
            self._keeper.take(jobs)
            for job in jobs:
                heappush(self._ready, (job.priority, next(self._order), job))
            self._more = self._more or len(jobs) == room
            if not self._more and self._on:
                seconds = (await self._store.due([self.name])).get(self.name, 0.0)
                if seconds > 0:  # what is due by now, others are about to take
                    self.wake_in(seconds)
        except Refused as refused:
            self._log.debug("Queue {queue} waits: {reason}", queue=self.name, reason=refused.reason)
        except Exception:
            self._log.failure("Queue {queue} could not claim", queue=self.name)
        self._claiming = False
        if not self._on:
            self._give_back()
            self._tell_ended()
        self._pump()

    def _pump(self) -> None:
        """Begin jobs while there is room, a few milliseconds at a time."""
        if self._pumping or not self._on:
            return
        self._pumping = True
        until = self._clock.seconds() + _TURN
        while self._ready and self.running < self.slots and self._on:
            if self._clock.seconds() >= until:
                self._pump_soon()
                break
            self._begin(heappop(self._ready)[2])
        self._pumping = False
        if self._ready and "patience" not in self._calls:
            self._later("patience", _PATIENCE, self._look_after_ready)
        self._refill()

    def _pump_soon(self) -> None:
        if self._on and "pump" not in self._calls:
            self._later("pump", 0, self._pump)

    def _begin(self, job: Claimed) -> None:
        self.running += 1
        self._begun_at = self._clock.seconds()
        Deferred.fromCoroutine(self._run(job, self._begun_at))

    async def _run(self, job: Claimed, begun_at: float) -> None:
        try:
            step = await self._runner.run(job)
            if step is not None:
                delay = step.delay
                told = None if delay is None else lambda _: self.wake_in(delay)
                self._keeper.settle(job, step, told)
        except Exception:
            self._log.failure("Job {job} of {worker} came to no end", job=job.id, worker=job.worker)
            self._keeper.settle(job, LET_GO)
        took = self._clock.seconds() - begun_at
        self._seconds = took if self._seconds is None else self._seconds + _WEIGHT * (took - self._seconds)
        self.running -= 1
        self.done += 1
        self._tell_ended()
        if not self._pumping:
            self._pump_soon()

    def _look_after_ready(self) -> None:
        """Give back what others could begin earlier, and claim less ahead from now on."""
        waited = self._clock.seconds() - self._begun_at
        if not self._ready or self._pumping:
            return
        if waited < _PATIENCE:
            self._later("patience", _PATIENCE - waited, self._look_after_ready)
            return
        self._seconds = max(self._seconds or 0.0, waited)
        self._more = True
        self._give_back()

    def _give_back(self) -> None:
        ready, self._ready = self._ready, []
        for _, _, job in ready:
            self._keeper.settle(job, GIVEN_BACK)

    def _tell_ended(self) -> None:
        if not self.running and not self._claiming:
            ended, self._ended = self._ended, []
            for waiter in ended:
                waiter.callback(None)

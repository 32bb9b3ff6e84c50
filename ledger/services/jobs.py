"""The jobs as a child of the tree: all queues of this process, woken by the database, by the clock, and by looking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from ledger.domain.errors import Refused
from ledger.domain.jobs import LET_GO
from ledger.services.child import Child, Clock
from ledger.services.deadline import Overrun, within
from ledger.services.job_keeper import Keeper
from ledger.services.job_queue import Queue
from ledger.services.job_run import Runner
from ledger.services.periodic import Periodic
from ledger.services.workers import Workers
from ledger.store.jobs import LEASE, JobStore
from ledger.store.pool import Pool

PATIENCE: Final = 8.0  # seconds that running jobs get at a stop
_LAST: Final = 3.0  # and what is left to be written
_LOOK: Final = 1.0
_RESCUED: Final = 1_000
_SILENCE: Final = 0.5  # of the database, in which there is nothing to wait for
_PULSE: Final = 0.25


class Jobs(Child):
    """Claims and runs the jobs whose workers this version knows; at a stop those that take too long are let go."""

    name = "jobs"
    leans_on = ("database",)
    stop_deadline = PATIENCE + _LAST + 2.0

    _log = Logger()

    def __init__(
        self,
        pool: Pool,
        workers: Workers,
        queues: Mapping[str, int],
        clock: Clock,
        random: Callable[[], float],
        *,
        answers: Callable[[], bool] = lambda: True,
        lease: float = LEASE,
        patience: float = PATIENCE,
    ) -> None:
        """`queues` tells how many jobs of each queue this process runs at once; 0: none.

        `answers` tells whether the database answered lately.
        """
        self._pool = pool
        self._workers = workers
        self._sizes = {name: slots for name, slots in queues.items() if slots}
        self._clock = clock
        self._random = random
        self._answers = answers
        self._lease = lease
        self._patience = patience
        self._queues: dict[str, Queue] = {}
        self._keeper: Keeper | None = None
        self._looking: Periodic | None = None

    @property
    def queues(self) -> Mapping[str, Queue]:
        """The queues that are served at the moment."""
        return self._queues

    async def start(self) -> None:
        """Begin to claim."""
        store = JobStore(self._pool, self._workers, self._lease)
        self._keeper = keeper = Keeper(store, self._clock)
        runner = Runner(self._workers, self._clock, self._random, keeper.decide)
        self._queues = {
            name: Queue(name, slots, store, keeper, runner, self._clock) for name, slots in self._sizes.items()
        }

        async def look() -> None:
            with suppress(Refused):  # the database is away
                await self._look(store)

        self._looking = Periodic("looking for jobs", _LOOK, look, self._clock)
        await keeper.start()
        await self._looking.start()
        for queue in self._queues.values():
            queue.start()

    async def stop(self) -> None:
        """Claim nothing more, wait for what runs, give back the rest."""
        keeper, looking = self._keeper, self._looking
        if keeper is None or looking is None:
            return
        self._keeper = self._looking = None
        Deferred.fromCoroutine(looking.stop())  # what it does at the moment need not be waited for
        ending = gatherResults([Deferred.fromCoroutine(queue.stop()) for queue in self._queues.values()])
        ended: Deferred[Any] = ending
        if not await self._ended(ended):
            keeper.abandon()
            self._log.warn("The database is silent: the leases of jobs will run out")
            return
        if many := keeper.let_go(LET_GO):
            self._log.warn("{many} jobs were still running, and are left to other processes", many=many)
        try:
            await within(self._clock, _LAST, Deferred.fromCoroutine(keeper.stop()), "")
        except Overrun:
            keeper.abandon()
            self._log.warn("What became of the last jobs could not be written: their leases will run out")

    async def _ended(self, ending: Deferred[Any]) -> bool:
        """Wait until all has ended, or time is up; False if that makes no sense, for the database is silent."""
        now = self._clock.seconds
        until = now() + self._patience
        heard_at = now()
        while not ending.called and now() < until:
            if self._answers():
                heard_at = now()
            elif now() - heard_at >= _SILENCE:
                return False
            with suppress(Overrun):
                await within(self._clock, _PULSE, _mirror(ending), "")
        return True

    def heard(self, queue: str) -> None:
        """Learn that a job was queued, or is available again."""
        if queue in self._queues and self._keeper is not None:
            self._queues[queue].wake()

    def connected(self) -> None:
        """Learn that notifications arrive from now on: those before may have been missed."""
        if self._keeper is not None:
            for queue in self._queues.values():
                queue.wake()

    def disconnected(self) -> None:
        """Learn that notifications do not arrive: jobs are looked for anyway."""

    async def _look(self, store: JobStore) -> None:
        """Do what nobody may have told of: free what dead processes held, and see what is due."""
        rescued = await store.rescue(_RESCUED)
        if rescued:
            self._log.warn("{rescued} jobs were freed, whose workers were lost", rescued=rescued)
        if not self._queues:
            return
        for name, seconds in (await store.due(list(self._queues))).items():
            if seconds > 0:
                self._queues[name].wake_in(seconds)
            else:
                self._queues[name].wake()


def _mirror(work: Deferred[Any]) -> Deferred[None]:
    """Return a Deferred that fires when `work` does, and leaves it as it is."""
    mirror: Deferred[None] = Deferred()

    def ended(result: Any) -> Any:
        mirror.callback(None)
        return result

    work.addBoth(ended)
    return mirror

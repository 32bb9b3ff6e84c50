"""Jobs over a real database: workers that note what they do, and processes' worth of them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from twisted.internet.defer import Deferred

from ledger.domain.errors import Refused
from ledger.services.ids import new_id
from ledger.services.job_desk import JobDesk
from ledger.services.jobs import Jobs
from ledger.services.listener import Listener
from ledger.services.outbound import Breakers
from ledger.services.workers import Workers
from ledger.store.job_desk import add
from ledger.store.jobs import CHANNEL
from ledger.store.pool import Pool
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import reactor

QUEUES = {"banking": 3, "payments": 2, "notifications": 3, "default": 1}


class Hand:
    """A worker that notes every run, and does in it what it is told."""

    def __init__(
        self, name: str = "work", queue: str = "default", timeout: float = 30.0, max_attempts: int = 4
    ) -> None:
        self.name = name
        self.queue = queue
        self.timeout = timeout
        self.max_attempts = max_attempts
        self.runs: list[Any] = []
        self.began: list[float] = []
        self.act: Callable[[Any], Deferred[None] | None] = lambda _: None

    async def run(self, args: Mapping[str, Any]) -> None:
        """Note the number of the job."""
        self.runs.append(args.get("n"))
        self.began.append(reactor.seconds())
        pending = self.act(args.get("n"))
        if pending is not None:
            await pending


class Mourner(Hand):
    """One that wants to know what was given up."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.mourned: list[tuple[Any, str]] = []
        self.mourn: Callable[[Any], Deferred[None] | None] = lambda _: None

    async def gave_up(self, args: Mapping[str, Any], refused: Refused) -> None:
        """Note it."""
        self.mourned.append((args.get("n"), refused.reason))
        pending = self.mourn(args.get("n"))
        if pending is not None:
            await pending


def failing(error: Exception) -> Callable[[Any], None]:
    """What a worker does that always fails."""

    def act(_: Any) -> None:
        raise error

    return act


class Site:
    """A database with jobs, and as many processes as are asked for, each with a pool and ears of its own."""

    def __init__(self, url: str, server: DatabaseServer, *workers: Any) -> None:
        self.url = url
        self.server = server
        self.name = url.split("@/")[1].split("?")[0]
        self.workers = Workers(*workers)
        self.pool = Pool(reactor, url, 3)
        self.breakers = Breakers(reactor, random.random)
        self.desk = JobDesk(self.pool, self.workers, list(QUEUES), self.breakers, new_id, reactor)

    def sql(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser."""
        return self.server.execute(statement, *arguments, database=self.name)

    async def put(self, many: int, worker: str = "work", **how: Any) -> list[str]:
        """Queue numbered jobs; returns their ids."""
        queued = await self.desk.enqueue_all([self.desk.new(worker, {"n": n}, **how) for n in range(many)])
        return [one.job.id for one in queued]

    async def put_at_once(self, *jobs: Any) -> None:
        """Queue jobs in one transaction."""
        await self.pool.transact(lambda session: add(session, jobs))

    def states(self) -> dict[str, int]:
        """How many jobs there are in each state."""
        return dict(self.sql("SELECT state, count(*) FROM jobs GROUP BY state"))

    @asynccontextmanager
    async def process(
        self,
        *workers: Any,
        queues: Mapping[str, int] = QUEUES,
        hears: bool = True,
        answers: Callable[[], bool] = lambda: True,
        lease: float = 30.0,
        patience: float = 5.0,
        pool_size: int = 3,
    ) -> AsyncIterator[Jobs]:
        """One process that runs jobs, with the site's workers or others, for the length of the block."""
        pool = Pool(reactor, self.url, pool_size)
        known = Workers(*workers) if workers else self.workers
        jobs = Jobs(pool, known, queues, reactor, random.random, answers=answers, lease=lease, patience=patience)
        listener = Listener(self.url, reactor)
        listener.on(CHANNEL, jobs.heard)
        listener.tell(jobs)
        pool.open()
        if hears:
            await listener.start()
        await jobs.start()
        try:
            yield jobs
        finally:
            await jobs.stop()
            listener.stop()
            pool.close()


@asynccontextmanager
async def site_of(url: str, server: DatabaseServer, *workers: Any) -> AsyncIterator[Site]:
    """A site for the length of the block."""
    site = Site(url, server, *workers)
    site.pool.open()
    try:
        yield site
    finally:
        site.pool.close()

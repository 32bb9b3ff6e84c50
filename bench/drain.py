"""`python -m bench.drain URL --jobs N --slots S`: queues jobs that do nothing, and how fast they are done."""

import argparse
import json
import random
import time
from collections.abc import Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater, react

from ledger.services.collector import collect_seldom
from ledger.services.ids import new_id
from ledger.services.job_desk import JobDesk
from ledger.services.jobs import Jobs
from ledger.services.outbound import Breakers
from ledger.services.workers import Workers
from ledger.store.pool import Pool

_POOL: Final = 5  # connections, as a server has them


class _Nothing:
    """A worker with nothing to do."""

    name = "nothing"
    queue = "payments"
    timeout = 60.0
    max_attempts = 1

    def __init__(self) -> None:
        self.done = 0

    async def run(self, _args: Mapping[str, Any]) -> None:
        """Count it."""
        self.done += 1


async def _measure(reactor: Any, url: str, many: int, slots: int) -> dict[str, float]:
    pool, worker = Pool(reactor, url, _POOL), _Nothing()
    pool.open()
    workers = Workers(worker)
    desk = JobDesk(pool, workers, [], Breakers(reactor, random.random), new_id, reactor)
    jobs = Jobs(pool, workers, {"payments": slots}, reactor, random.random)
    try:
        begin = time.perf_counter()
        await desk.enqueue_all([desk.new("nothing", {"n": number}) for number in range(many)])
        queued = time.perf_counter() - begin
        collect_seldom()
        begin = time.perf_counter()
        await jobs.start()
        while worker.done < many:
            await deferLater(reactor, 0.005)
        await jobs.stop()  # the last ones are written by then
        took = time.perf_counter() - begin
        ((left,),) = await pool.query("SELECT count(*) FROM jobs WHERE state <> 'completed' OR attempt <> 1")
        return {"queued_per_second": many / queued, "per_second": many / took, "done": worker.done, "left": left}
    finally:
        await jobs.stop()
        pool.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.drain", description="Measure the jobs.")
    parser.add_argument("url")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=2, help="jobs that run at once")
    given = parser.parse_args()

    async def measure(reactor: Any) -> None:
        print(json.dumps(await _measure(reactor, given.url, given.jobs, given.slots)))

    def begin(reactor: Any) -> Deferred[None]:
        return ensureDeferred(measure(reactor))

    react(begin)


if __name__ == "__main__":
    main()

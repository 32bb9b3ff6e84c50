"""`python -m tests.postgres.labourer URL LEASE [quick]`: a process that takes jobs and says which.

It never ends one, unless it is to be quick: then it ends each at once. SIGTERM stops it in order.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred

from ledger.services.jobs import Jobs
from ledger.services.listener import Listener
from ledger.services.workers import Workers
from ledger.store.jobs import CHANNEL
from ledger.store.pool import Pool

reactor: Any = _reactor


class Labour:
    """A worker that says what it is at."""

    name = "work"
    queue = "default"
    timeout = 600.0
    max_attempts = 4

    def __init__(self, *, is_quick: bool) -> None:
        self._is_quick = is_quick

    async def run(self, args: Mapping[str, Any]) -> None:
        """Say so."""
        print(args["n"], flush=not self._is_quick)
        if not self._is_quick:
            await Deferred()


def main(url: str, lease: float, *, is_quick: bool) -> None:
    """Take jobs until killed."""
    pool = Pool(reactor, url, 2)
    pool.open()
    jobs = Jobs(pool, Workers(Labour(is_quick=is_quick)), {"default": 1}, reactor, random.random, lease=lease)
    listener = Listener(url, reactor)
    listener.on(CHANNEL, jobs.heard)
    listener.tell(jobs)

    async def start() -> None:
        await listener.start()
        await jobs.start()

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(start()))
    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(jobs.stop()))
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), is_quick=sys.argv[3:] == ["quick"])

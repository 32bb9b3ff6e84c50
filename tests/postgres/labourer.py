"""`python -m tests.postgres.labourer URL LEASE`: a process that takes jobs, says which, and never ends them."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred

from ledger.services.jobs import Jobs
from ledger.services.workers import Workers
from ledger.store.pool import Pool

reactor: Any = _reactor


class Endless:
    """Never done."""

    name = "work"
    queue = "default"
    timeout = 600.0
    max_attempts = 4

    async def run(self, args: Mapping[str, Any]) -> None:
        """Say so."""
        print(args["n"], flush=True)
        await Deferred()


def main(url: str, lease: float) -> None:
    """Take jobs until killed."""
    pool = Pool(reactor, url, 2)
    pool.open()
    jobs = Jobs(pool, Workers(Endless()), {"default": 1}, reactor, random.random, lease=lease)
    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(jobs.start()))
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))

"""Small requests while large batches are under way: how long they wait, beside how long they wait alone."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Final

from bench import load, report
from bench.batch_load import Funded, booked, run_batches, sample
from bench.load import Measured
from bench.postgres import psql
from bench.report import Table

CONNECTIONS: Final = 8
BATCHES: Final = 2
SIZE: Final = 8_000
RUN_IN_SECONDS: Final = 1
GOAL_TIMES: Final = 3
GOAL_MS: Final = 50
_SLACK: Final = 4  # seconds that the batches go on for longer than what they are measured beside
_PATIENCE: Final = 30.0


@dataclass(frozen=True)
class Pair:
    """Credits alone, credits beside batches, and the transfers a second that those came to meanwhile."""

    alone: Measured
    beside: Measured
    transfers: float


def measure(one: Funded, checkpoint: Callable[[], str], seconds: int, faults: list[str]) -> Pair:
    """Post credits alone, and then while the endpoint has two batches under way without a pause."""
    checkpoint()
    _credits(one, RUN_IN_SECONDS, faults)
    alone = _credits(one, seconds, faults)
    checkpoint()
    with ThreadPoolExecutor(1) as thread:
        lasting = RUN_IN_SECONDS + seconds + _SLACK
        batches = thread.submit(run_batches, one, SIZE, False, BATCHES, lasting, faults)
        _await_first(one, batches)
        _credits(one, RUN_IN_SECONDS, faults)
        (begin, before), ended = sample(one.url), batches.done()
        beside = _credits(one, seconds, faults)
        (end, after), ended = sample(one.url), ended or batches.done()
        batches.result()
    if ended:
        faults.append("small requests: the batches had ended before")
    return Pair(alone, beside, (after - before - beside.requests) / (end - begin))


def table(pairs: Sequence[Pair]) -> Table:
    """Return what was seen in all rounds."""
    alone, beside = [pair.alone for pair in pairs], [pair.beside for pair in pairs]
    first = median(one.p99 for one in alone)
    ratio = report.times([one.p99 for one in beside], [one.p99 for one in alone])
    least = max(GOAL_TIMES * first, GOAL_MS)
    rows = [
        ("alone", *_row(alone), "", ""),
        (
            f"beside {BATCHES} batches of {SIZE:,}",
            *_row(beside),
            f"{ratio} (goal: at most {least:,.1f} ms)",
            report.spread([pair.transfers for pair in pairs]),
        ),
    ]
    columns = ("credits", "requests/s", "p50 ms", "p99 ms", "p99, ratio", "transfers/s of the batches")
    notes = (f"The goal is {GOAL_TIMES} times the p99 alone or {GOAL_MS} ms, whichever is more.",)
    return Table(f"POST /credit over {CONNECTIONS} connections, beside batches", columns, rows, notes)


def _row(seen: Sequence[Measured]) -> tuple[str, str, str]:
    rates = report.spread([one.per_second for one in seen])
    return rates, report.spread([one.p50 for one in seen], 1), report.spread([one.p99 for one in seen], 1)


def _credits(one: Funded, seconds: int, faults: list[str]) -> Measured:
    before = _credited(one.url)
    seen = load.post_credits(one.server, one.customers, seconds, CONNECTIONS, 1)
    many = _credited(one.url) - before
    if seen.refused or seen.failed:
        faults.append(f"credits: {seen.refused} answers were not 2xx and {seen.failed} requests failed")
    if many < seen.requests or seen.requests == 0:
        faults.append(f"credits: {seen.requests} requests were answered and {many} are booked")
    return seen


def _credited(url: str) -> int:
    return int(psql(url, "SELECT count(*) FROM journal WHERE kind = 'credit'"))


def _await_first(one: Funded, batches: Future[Measured]) -> None:
    """Return when the batches that have just been begun are being booked."""
    before, deadline = booked(one.url), time.monotonic() + _PATIENCE
    while booked(one.url) == before:
        if batches.done() or time.monotonic() > deadline:
            raise SystemExit("bench: no batch is booked")
        time.sleep(0.1)

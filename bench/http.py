"""The section `http`: `POST /credit`, ours against the alternative."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

import psutil  # type: ignore[import-untyped]

from bench import load, report
from bench.children import say
from bench.load import Measured, Server
from bench.postgres import (
    Customer,
    create_database,
    credits_booked,
    psql,
    seed_alternative,
    seed_ours,
    throw_away_cluster,
)
from bench.report import Options, Report, Table

OURS: Final = "ledger"
THEIRS: Final = "alternative"


@dataclass(frozen=True)
class Contender:
    """A server that runs, seeded, on a database of its own."""

    server: Server
    url: str
    customers: Sequence[Customer]


@dataclass(frozen=True)
class Shape:
    """One kind of load; `goal` is the least ratio of requests/s to the alternative's."""

    name: str
    connections: int
    threads: int
    hot: bool
    goal: int


SHAPES: Final = (
    Shape("spread, 32 connections", 32, 1, False, 3),
    Shape("hot account, 32 connections", 32, 1, True, 6),
    Shape("spread, 256 connections", 256, 2, False, 4),
    Shape("hot account, 256 connections", 256, 2, True, 8),
)
RUN_IN_SECONDS: Final = 2  # after each checkpoint, unmeasured: the first writes to every page are whole pages
RECIPES: Final = {
    OURS: (load.ours, "/api/health/ready", seed_ours),
    THEIRS: (load.alternative, "/ready", seed_alternative),
}


def http(options: Options) -> Report:
    """`POST /credit`, ours against the alternative, in turn, on one PostgreSQL."""
    load.find_wrk()
    facts = report.machine()
    faults: list[str] = []
    runs: dict[tuple[Shape, str], list[Measured]] = {}
    with throw_away_cluster() as cluster, ExitStack() as stack:
        checkpoint = partial(psql, cluster.superuser_url("postgres"), "CHECKPOINT")
        contenders = []
        for name in options.servers:
            command, ready, seed = RECIPES[name]
            url = create_database(cluster, f"bench_{name}")
            server = stack.enter_context(load.serving(name, partial(command, url), ready))
            contenders.append(Contender(server, url, seed(url, options.accounts)))
        for shape in SHAPES:
            for number in range(options.rounds):
                for one in contenders:
                    checkpoint()
                    _run(one, shape, RUN_IN_SECONDS, faults)
                    seen = _run(one, shape, options.seconds, faults)
                    runs.setdefault((shape, one.server.name), []).append(seen)
                    say(f"{shape.name}, round {number + 1}, {one.server.name}: {seen.per_second:,.0f}/s")
        memory = [_memory(one, options.memory_seconds, faults) for one in contenders if options.memory_seconds]
        facts["postgres"] = psql(cluster.url, "SHOW server_version")
    facts["load"] = (
        f"wrk, {options.accounts:,} accounts or one, {options.rounds} rounds of {options.seconds} s each, in turn, "
        f"each after a checkpoint and {RUN_IN_SECONDS} s of the same load; fsync on; median (min–max)"
    )
    columns = ("load", "server", "requests/s", "p50 ms", "p99 ms", "requests/s, ratio", "p99, ratio")
    tables = [Table("POST /credit", columns, list(_rows(options.servers, runs)))]
    if memory:
        heading = f"Resident memory over {options.memory_seconds} s, {SHAPES[0].name}"
        tables.append(Table(heading, ("server", "first MiB", "last MiB", "max MiB", "requests/s"), memory))
    return Report("HTTP", tables, facts, faults)


def _rows(servers: Sequence[str], runs: dict[tuple[Shape, str], list[Measured]]) -> Iterator[Sequence[str]]:
    for shape in SHAPES:
        for name in servers:
            seen = runs[shape, name]
            rates, p99 = [one.per_second for one in seen], [one.p99 for one in seen]
            ratios = ("", "")
            if name == OURS and (theirs := runs.get((shape, THEIRS))):
                faster = report.times(rates, [one.per_second for one in theirs])
                later = report.times(p99, [one.p99 for one in theirs], 2)
                ratios = (f"{faster} (goal {shape.goal})", f"{later} (goal 0.5)" if shape.connections == 32 else later)
            p50 = [one.p50 for one in seen]
            yield (shape.name, name, report.spread(rates), report.spread(p50, 1), report.spread(p99, 1), *ratios)


def _run(
    one: Contender, shape: Shape, seconds: int, faults: list[str], each_second: Callable[[], None] = lambda: None
) -> Measured:
    before = credits_booked(one.url)
    customers = one.customers[:1] if shape.hot else one.customers
    seen = load.post_credits(one.server, customers, seconds, shape.connections, shape.threads, each_second)
    booked = credits_booked(one.url) - before
    where = f"{one.server.name}, {shape.name}"
    if seen.refused or seen.failed:
        faults.append(f"{where}: {seen.refused} answers were not 2xx and {seen.failed} requests failed")
    if booked < seen.requests or seen.requests == 0:
        faults.append(f"{where}: {seen.requests} requests were answered and {booked} credits booked")
    return seen


def _memory(one: Contender, seconds: int, faults: list[str]) -> Sequence[str]:
    process, samples = psutil.Process(one.server.pid), list[float]()
    seen = _run(one, SHAPES[0], seconds, faults, lambda: samples.append(process.memory_info().rss / 2**20))
    first, last, most = (f"{value:.1f}" for value in (samples[0], samples[-1], max(samples)))
    return (one.server.name, first, last, most, f"{seen.per_second:,.0f}")

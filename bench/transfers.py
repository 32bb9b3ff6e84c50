"""The section `transfers`: batches beside pgledger's manner, small requests beside batches, balances of the past."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Final

from bench import load, past, pgledger, report, small
from bench.batch_load import Batches, balanced, funded, post_batches
from bench.children import say
from bench.postgres import create_database, drop_database, psql, throw_away_cluster
from bench.report import Options, Report, Table
from bench.small import Pair

CONNECTIONS: Final = 4
SIZES: Final = (1_000, 8_000)
RUN_IN_SECONDS: Final = 2
GOAL: Final = 20_000


@dataclass(frozen=True)
class Shape:
    """One kind of load; `goal` is the least ratio of transfers/s to those of pgledger's manner."""

    name: str
    hot: bool
    goal: int


SHAPES: Final = (Shape("spread", False, 5), Shape("hot account", True, 10))


@dataclass
class _Seen:
    """Everything that was measured, round by round."""

    ours: dict[tuple[Shape, int], list[Batches]]
    theirs: dict[Shape, list[float]]
    pairs: list[Pair]


def transfers(options: Options) -> Report:
    """Batches and function calls on one PostgreSQL, in turn, every round on fresh databases; then the other two."""
    load.find_wrk()
    facts = report.machine()
    faults: list[str] = []
    seen = _Seen({}, {}, [])
    accounts = max(options.accounts, 2)
    with throw_away_cluster() as cluster:
        checkpoint = partial(psql, cluster.superuser_url("postgres"), "CHECKPOINT")
        for number in range(options.rounds):
            name = f"bench_pgledger_{number}"
            theirs = create_database(cluster, name)
            pgledger.seed(theirs, accounts)
            with funded(cluster, f"bench_transfers_{number}", accounts) as one:
                for shape in SHAPES:
                    rates = []
                    for size in SIZES:
                        checkpoint()
                        run = post_batches(one, size, shape.hot, CONNECTIONS, RUN_IN_SECONDS, options.seconds, faults)
                        seen.ours.setdefault((shape, size), []).append(run)
                        rates.append(f"{run.booked:,.0f}/s in batches of {size:,}")
                    checkpoint()
                    pgledger.load(theirs, accounts, shape.hot, RUN_IN_SECONDS, faults)
                    rate = pgledger.load(theirs, accounts, shape.hot, options.seconds, faults)
                    seen.theirs.setdefault(shape, []).append(rate)
                    say(f"transfers, {shape.name}, round {number + 1}: {', '.join(rates)}, pgledger's {rate:,.0f}/s")
                pair = small.measure(one, checkpoint, options.seconds, faults)
                seen.pairs.append(pair)
                say(f"small requests, round {number + 1}: p99 {pair.alone.p99:.1f} ms, {pair.beside.p99:.1f} ms beside")
                balanced(one, faults)
            pgledger.check(theirs, faults)
            drop_database(cluster, name)
        checkpoint()
        delays = past.measure(cluster, options.rounds, faults)
        say(f"balances of the past: median {median(one.median for one in delays):.2f} ms")
        facts["postgres"] = psql(cluster.url, "SHOW server_version")
    facts["load"] = (
        f"batches: wrk, {CONNECTIONS} connections, an admin; pgledger's manner: pgbench, {pgledger.CLIENTS} clients, "
        f"{pgledger.THREADS} threads, prepared, one call and one transaction a transfer; transfers between random two "
        f"of {accounts:,} accounts, or from one of them; {options.rounds} rounds of {options.seconds} s each, in turn, "
        f"each after a checkpoint and {RUN_IN_SECONDS} s of the same load; fsync on; median (min–max)"
    )
    columns = ("load", "ledger", "transfers/s (goal)", "answered/s", "request p50 ms", "× pgledger's manner")
    notes = (
        "Transfers a second are those that became durable, by the database's own count and clock. Those answered leave "
        f"out the up to {CONNECTIONS} requests under way when a run ends.",
    )
    heading = "POST /api/transfers/batch beside one call of a function a transfer"
    tables = [Table(heading, columns, list(_rows(seen)), notes), small.table(seen.pairs), past.table(delays)]
    return Report("Transfers", tables, facts, faults)


def _rows(seen: _Seen) -> Iterator[Sequence[str]]:
    for shape in SHAPES:
        theirs = seen.theirs[shape]
        for size in SIZES:
            runs = seen.ours[shape, size]
            rates = [run.booked for run in runs]
            yield (
                shape.name,
                f"batches of {size:,}",
                f"{report.spread(rates)} ({GOAL:,})",
                report.spread([run.answered for run in runs]),
                report.spread([run.p50 for run in runs]),
                f"{report.times(rates, theirs)} (goal {shape.goal})",
            )
        yield (shape.name, "pgledger's manner", report.spread(theirs), report.spread(theirs), "", "")

"""The section `jobs`: how fast jobs that do nothing are queued, and claimed, run and completed by one process."""

from typing import Final

from bench import report
from bench.children import drive, say
from bench.postgres import create_database, drop_database, psql, throw_away_cluster
from bench.report import Options, Report, Table
from ledger.store.migrations import apply_migrations

MANY: Final = 10_000
GOAL: Final = 2_000
SLOTS: Final = (1, 2, 10)  # jobs at once: of the queues `default` and `payments`, and of a large one
_PATIENCE: Final = 60.0


def jobs(options: Options) -> Report:
    """Ten thousand jobs in each round, on a database of their own."""
    facts = report.machine()
    faults: list[str] = []
    queued: dict[int, list[float]] = {slots: [] for slots in SLOTS}
    done: dict[int, list[float]] = {slots: [] for slots in SLOTS}
    with throw_away_cluster() as cluster:
        for number in range(options.rounds):
            for slots in SLOTS:
                name = f"bench_jobs_{number}_{slots}"
                url = create_database(cluster, name)
                apply_migrations(url)
                try:
                    seen = drive("bench.drain", _PATIENCE, url, f"--jobs={MANY}", f"--slots={slots}")
                finally:
                    drop_database(cluster, name)
                if seen["left"] or seen["done"] != MANY:
                    faults.append(f"{slots} at once: {seen['done']} runs, {seen['left']} jobs not done in one")
                queued[slots].append(seen["queued_per_second"])
                done[slots].append(seen["per_second"])
                say(f"jobs, {slots} at once, round {number + 1}: {seen['per_second']:,.0f}/s")
        facts["postgres"] = psql(cluster.url, "SHOW server_version")
    facts["load"] = f"{MANY:,} jobs that do nothing, {options.rounds} rounds; fsync on; median (min–max)"
    rows = [(str(slots), report.spread(queued[slots]), report.spread(done[slots]), f"{GOAL:,}") for slots in SLOTS]
    columns = ("at once", "queued/s", "done/s", "goal")
    return Report("Jobs", [Table("One process", columns, rows)], facts, faults)

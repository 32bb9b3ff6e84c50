"""The section `writer`: transfers a second of the writer alone, in small and large batches, spread and hot."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Final

from bench import report
from bench.children import drive, say
from bench.postgres import create_database, credits_booked, drop_database, psql, seed_ours, throw_away_cluster
from bench.report import Options, Report, Table
from ledger.services.postgres_cluster import Cluster
from ledger.store.migrations import apply_migrations


@dataclass(frozen=True)
class Shape:
    """One kind of batch; `goal` is the least number of transfers a second, for a hot one the least share of spread."""

    batch: int
    hot: bool
    goal: float

    @property
    def name(self) -> str:
        """How the table calls it."""
        return f"batches of {self.batch:,}, {'one hot account' if self.hot else 'spread'}"


SHAPES: Final = (Shape(1_000, False, 30_000), Shape(1_000, True, 0.8), Shape(32, False, 10_000), Shape(32, True, 0.8))


@contextmanager
def seeded(cluster: Cluster, name: str, accounts: int) -> Iterator[str]:
    """Provide a fresh database of ours with that many accounts, and drop it: every round begins with the same."""
    url = create_database(cluster, name)
    apply_migrations(url)
    seed_ours(url, accounts)
    try:
        yield url
    finally:
        drop_database(cluster, name)


def write(cluster: Cluster, url: str, shape: Shape, seconds: float, faults: list[str]) -> float:
    """Run the writer for that long from a checkpoint on; return transfers a second, counted in the database too."""
    psql(cluster.superuser_url("postgres"), "CHECKPOINT")
    before = credits_booked(url)
    hot = ("--hot",) if shape.hot else ()
    seen = drive("bench.writer", seconds, url, f"--batch={shape.batch}", f"--seconds={seconds}", *hot)
    booked = credits_booked(url) - before
    if booked != seen["written"]:
        faults.append(f"{shape.name}: {seen['written']} transfers were written and {booked} are booked")
    return float(seen["per_second"])


def alone(options: Options) -> Report:
    """Facts, decision and append over and over, without the server around them."""
    facts = report.machine()
    faults: list[str] = []
    rates: dict[Shape, list[float]] = {shape: [] for shape in SHAPES}
    with throw_away_cluster() as cluster:
        for number in range(options.rounds):
            with seeded(cluster, f"bench_writer_{number}", options.accounts) as url:
                for shape in SHAPES:
                    rate = write(cluster, url, shape, options.seconds, faults)
                    rates[shape].append(rate)
                    say(f"writer, {shape.name}, round {number + 1}: {rate:,.0f}/s")
        facts["postgres"] = psql(cluster.url, "SHOW server_version")
    facts["load"] = (
        f"credits with keys of their own, {options.accounts:,} accounts or one, {options.rounds} rounds of "
        f"{options.seconds} s each, in turn; fsync on; median (min–max)"
    )
    columns = ("batches", "transfers/s", "goal", "hot, share of spread")
    return Report("The writer alone", [Table("Transfers", columns, list(_rows(rates)))], facts, faults)


def _rows(rates: dict[Shape, list[float]]) -> Iterator[Sequence[str]]:
    spread = 0.0
    for shape, seen in rates.items():
        if shape.hot:
            share = f"{median(seen) / spread:.2f} (goal {shape.goal})"
            yield (shape.name, report.spread(seen), "", share)
        else:
            spread = median(seen)
            yield (shape.name, report.spread(seen), f"{shape.goal:,.0f}", "")

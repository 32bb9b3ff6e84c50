"""The section `live`: how long after a commit a thousand subscribers hear of it, and whether they hear it once."""

import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec

from bench import load, report
from bench.children import drive, say
from bench.live import Plan, Seen
from bench.load import Server
from bench.poster import Payer
from bench.postgres import Customer, create_database, psql, seed_admin, seed_ours, throw_away_cluster
from bench.report import Options, Report, Table

SUBSCRIBERS: Final = 1_000
GOAL: Final = 50


@dataclass(frozen=True)
class Case:
    """What they follow, and how many commits a second are asked for."""

    name: str
    own_topics: bool
    rate: int


@dataclass
class Tally:
    """What the rounds of one case saw."""

    runs: list[Seen] = field(default_factory=list)
    expected: int = 0
    lost: int = 0


CASES: Final = (Case("each its own account", True, 1_000), Case("all balance_updated", False, 10))


def live(options: Options) -> Report:
    """A server, its subscribers and its load on one machine."""
    _allow_many_sockets()
    facts = report.machine()
    faults: list[str] = []
    tallies = {case: Tally() for case in CASES}
    with throw_away_cluster() as cluster:
        url = create_database(cluster, "bench_live")
        with load.serving("ledger", partial(load.ours, url), "/api/health/ready") as server:
            customers, admin = seed_ours(url, SUBSCRIBERS), seed_admin(url)
            for number in range(options.rounds):
                for case, tally in tallies.items():
                    psql(cluster.superuser_url("postgres"), "CHECKPOINT")
                    token = load.log_in(server, admin)
                    _run(case, tally, server, url, customers, token, options.seconds, faults)
                    seen = tally.runs[-1]
                    say(f"live, {case.name}, round {number + 1}: median {seen.median:.1f} ms, p99 {seen.p99:.1f} ms")
        facts["postgres"] = psql(cluster.url, "SHOW server_version")
    facts["load"] = (
        f"{SUBSCRIBERS:,} WebSocket clients beside the server, {options.rounds} rounds of {options.seconds} s each, "
        "in turn; then all are cut off and resume, the load going on; fsync on; median (min–max)"
    )
    return Report("Live updates", [_delays(tallies), _resumed(tallies)], facts, faults)


def _run(
    case: Case,
    tally: Tally,
    server: Server,
    url: str,
    customers: Sequence[Customer],
    admin: str,
    seconds: int,
    faults: list[str],
) -> None:
    head = int(psql(url, "SELECT coalesce(max(seq), 0) FROM journal"))
    payers = tuple(Payer(one.user_id, one.account_id, one.token) for one in customers)
    plan = Plan(server.port, admin, case.own_topics, case.rate, seconds, payers)
    seen = msgspec.convert(drive("bench.live", seconds, given=msgspec.json.encode(plan).decode()), Seen)
    expected = list(_credits(url, head, case, customers))
    surplus = sum(max(got - due, 0) for got, due in zip(seen.received, expected, strict=True))
    lost = sum(max(due - got, 0) for got, due in zip(seen.received, expected, strict=True))
    tally.runs.append(seen)
    tally.expected += sum(expected)
    tally.lost += lost
    faults += [f"{case.name}: {fault}" for fault in seen.faults]
    if lost or surplus or seen.twice:
        faults.append(f"{case.name}: {lost} messages were lost, {seen.twice} came twice, {surplus} without a commit")
    if seen.rate < 0.95 * case.rate:
        faults.append(f"{case.name}: {seen.rate:.0f} commits/s instead of {case.rate}")


def _credits(url: str, head: int, case: Case, customers: Sequence[Customer]) -> Iterator[int]:
    """How many messages the journal owes to each subscriber since that record."""
    rows = psql(
        url,
        f"SELECT account_id, count(*) FROM transactions WHERE seq > {head} AND type = 'credit' GROUP BY account_id",
    )
    booked = {account: int(count) for account, _, count in (row.partition("|") for row in rows.splitlines())}
    everything = sum(booked.values())
    for one in customers:
        yield booked.get(one.account_id, 0) if case.own_topics else everything


def _delays(tallies: dict[Case, Tally]) -> Table:
    rows = [
        (
            case.name,
            report.spread([seen.rate for seen in tally.runs]),
            f"{report.spread([seen.median for seen in tally.runs], 1)} (goal {GOAL})",
            report.spread([seen.p99 for seen in tally.runs], 1),
        )
        for case, tally in tallies.items()
    ]
    note = "From the instant that the record carries, which lies before its commit, to the client's reading of it."
    return Table("Delay", ("subscribed to", "commits/s", "median ms", "p99 ms"), rows, [note])


def _resumed(tallies: dict[Case, Tally]) -> Table:
    rows = [
        (
            case.name,
            f"{tally.expected:,}",
            f"{tally.lost:,}",
            f"{sum(seen.twice for seen in tally.runs):,}",
            report.spread([seen.resumed for seen in tally.runs], 1),
        )
        for case, tally in tallies.items()
    ]
    columns = ("subscribed to", "messages owed by the journal", "lost", "twice", "all back after s")
    return Table("Everybody cut off and resumed with since", columns, rows)


def _allow_many_sockets() -> None:
    """Raise this process's limit, which its children inherit, as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

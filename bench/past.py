"""The balance of an account at random instants of a long past, over one connection."""

import json
import random
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from http.client import HTTPConnection
from statistics import median, quantiles
from typing import Final
from urllib.parse import urlencode

from bench import load, report
from bench.load import Server
from bench.postgres import create_database, drop_database, psql, seed_admin, seed_ours
from bench.report import Table
from ledger.services.postgres_cluster import Cluster
from ledger.store.migrations import apply_migrations

ENTRIES: Final = 1_000_000
INSTANTS: Final = 500
GOAL_MS: Final = 5
_WARMING: Final = 50
_STEP: Final = 10_000_000  # microseconds from entry to entry
_EVERY: Final = 1_000  # one of so many counts from a day before it was booked
_DAY: Final = 86_400_000_000
_MINOR: Final = 100

# Only what the endpoint reads: no record stands behind these entries. Triggers are off, for they ask for records.
_FILL: Final = """
SET session_replication_role = replica;
INSERT INTO transactions (id, account_id, seq, amount, type, balance, held, version, "timestamp")
SELECT uuidv7(), '{account}', n, {minor}, 'credit', {minor} * n, 0, n, '{start}'::timestamptz + n * interval '{step} us'
FROM generate_series(1, {entries}) AS n;
INSERT INTO backdated_entries (account_id, effective_at, version, amount, posted_at)
SELECT account_id, "timestamp" - interval '{day} us', version, amount, "timestamp"
FROM transactions WHERE account_id = '{account}' AND version % {every} = 0;
UPDATE accounts SET balance = {minor} * {entries}, version = {entries}, created_at = '{start}' WHERE id = '{account}';
"""


@dataclass(frozen=True)
class Delays:
    """Milliseconds from a request to its answer."""

    median: float
    p99: float


def measure(cluster: Cluster, rounds: int, faults: list[str]) -> list[Delays]:
    """Fill an account and ask for its balance at random instants, each round at others; every answer is checked."""
    name = "bench_past"
    url = create_database(cluster, name)
    try:
        apply_migrations(url)
        (customer,) = seed_ours(url, 1)
        admin = seed_admin(url)
        start = datetime.now(UTC).replace(microsecond=0) - timedelta(microseconds=ENTRIES * _STEP + 2 * _DAY)
        filling = _FILL.format(
            account=customer.account_id,
            minor=_MINOR,
            start=start.isoformat(),
            step=_STEP,
            entries=ENTRIES,
            day=_DAY,
            every=_EVERY,
        )
        psql(cluster.superuser_url(name), filling)
        psql(cluster.superuser_url(name), "VACUUM ANALYZE")
        with load.serving("ledger", partial(load.ours, url), "/api/health/ready") as server:
            token = load.log_in(server, admin)
            load.post_credits(server, [customer], 1, 1, 1)  # so that the journal has a last record
            return [_ask(server, customer.account_id, token, start, faults) for _ in range(rounds)]
    finally:
        drop_database(cluster, name)


def expected(microseconds: int) -> int:
    """Return the balance, in minor units, so long after the start."""
    booked = min(microseconds // _STEP, ENTRIES)
    backdated, last = _EVERY * _STEP, ENTRIES // _EVERY
    ahead = min((microseconds + _DAY) // backdated, last) - min(microseconds // backdated, last)
    return _MINOR * (booked + ahead)


def table(seen: Sequence[Delays]) -> Table:
    """Return what was seen in all rounds."""
    rows = [
        ("median ms", report.spread([one.median for one in seen], 2), f"{GOAL_MS}"),
        ("p99 ms", report.spread([one.p99 for one in seen], 2), ""),
    ]
    notes = (
        f"{INSTANTS} random instants a round, one after another over one connection, on an account with "
        f"{ENTRIES:,} entries, one in {_EVERY:,} of them backdated by a day; every answer was checked.",
    )
    return Table("GET /api/accounts/<id>/balance?at=", ("delay", "measured", "goal"), rows, notes)


def _ask(server: Server, account_id: str, token: str, start: datetime, faults: list[str]) -> Delays:
    delays: list[float] = []
    wrong: list[str] = []
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=30.0)) as connection:
        for number in range(_WARMING + INSTANTS):
            offset = random.randrange(ENTRIES * _STEP)
            at = (start + timedelta(microseconds=offset)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            path = f"/api/accounts/{account_id}/balance?{urlencode({'at': at})}"
            begin = time.perf_counter()
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            told = answer.read()
            if number >= _WARMING:
                delays.append((time.perf_counter() - begin) * 1000)
            minor = expected(offset)
            balance = f"{minor // 100}.{minor % 100:02}"
            if answer.status != 200 or json.loads(told)["data"]["balance"] != balance:
                wrong.append(f"at {at} the balance was {balance}: {told.decode(errors='replace')[:200]}")
    faults.extend(wrong[:3])
    return Delays(median(delays), quantiles(delays, n=100)[98])

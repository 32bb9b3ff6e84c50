"""A million entries of one account: everything that reads its past does so by index, without sorting, and at once."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import pytest

from ledger.domain.accounts import Owner
from ledger.store import statements
from ledger.store.balances import read_balance_at
from ledger.store.history import Wanted, read_transactions
from ledger.store.journal_pages import read_journal
from ledger.store.pool import Pool
from ledger.store.statements import begin_statement
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import on_reactor, reactor

ACCOUNT = "00000000-0000-7000-8000-000000000001"
OWNER = Owner(ACCOUNT, None, "USD/2", is_system=False)
ENTRIES = 1_000_000  # of that account
RECORDS = 100_000
START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
NEVER = {"Seq Scan", "Sort", "Incremental Sort", "Hash Join", "Merge Join"}

# Each record has ten entries of the account and one of some other; every fiftieth counts from an hour earlier.
FILL = f"""
    SET session_replication_role = replica;
    ALTER TABLE journal SET (autovacuum_enabled = off);
    ALTER TABLE transactions SET (autovacuum_enabled = off);
    ALTER TABLE backdated_entries SET (autovacuum_enabled = off);
    INSERT INTO accounts (id, asset, type, created_at) VALUES ('{ACCOUNT}', 'USD/2', 'CHECKING', '{START}');
    INSERT INTO accounts (id, asset, type)
    SELECT ('00000000-0000-7000-a000-' || lpad(to_hex(n), 12, '0'))::uuid, 'USD/2', 'CHECKING'
    FROM generate_series(0, 9999) AS n;
    INSERT INTO journal (seq, id, kind, posted_at, effective_at, body, hash)
    SELECT n, ('00000000-0000-7000-9000-' || lpad(to_hex(n), 12, '0'))::uuid, 'transfer', at,
           CASE WHEN n % 50 = 0 THEN at - interval '1 hour' ELSE at END,
           '{{"v":1,"seq":' || n || ',"id":"","kind":"","posted_at":""}}', '\\x{"00" * 32}'
    FROM (SELECT n, '{START}'::timestamptz + n * interval '1 second' AS at
          FROM generate_series(1, {RECORDS}) AS n) AS record;
    INSERT INTO transactions (id, account_id, seq, amount, type, balance, held, version, "timestamp")
    SELECT '{ACCOUNT}', '{ACCOUNT}', (n + 9) / 10, 1, 'credit', n, 0, n,
           '{START}'::timestamptz + (n + 9) / 10 * interval '1 second'
    FROM generate_series(1, {ENTRIES}) AS n;
    INSERT INTO transactions (id, account_id, seq, amount, type, balance, held, version, "timestamp")
    SELECT '{ACCOUNT}', ('00000000-0000-7000-a000-' || lpad(to_hex(n % 1000), 12, '0'))::uuid, n, 1, 'credit',
           1 + n / 1000, 0, 1 + n / 1000, '{START}'::timestamptz + n * interval '1 second'
    FROM generate_series(0, {RECORDS}) AS n;
    INSERT INTO backdated_entries (account_id, effective_at, version, amount, posted_at)
    SELECT account_id, "timestamp" - interval '1 hour', version, amount, "timestamp"
    FROM transactions WHERE seq % 50 = 0
"""


@pytest.fixture(scope="module")
def filled(database_server: DatabaseServer) -> Iterator[str]:
    """A database with a long history, without any statistics."""
    name = database_server.create_database()
    try:
        database_server.execute(FILL, database=name)
        yield name
    finally:
        database_server.drop_database(name)


@contextmanager
def opened(database_server: DatabaseServer, name: str) -> Iterator[Pool]:
    """A pool of one connection."""
    pool = Pool(reactor, database_server.url(name), 1)
    pool.open()
    try:
        yield pool
    finally:
        pool.close()


def after(seconds: float) -> datetime:
    """So long after the start."""
    return START + timedelta(seconds=seconds)


async def balances(pool: Pool) -> None:
    """Balances in the middle, at the ends, and as they were known at another time."""
    middle = after(50_000)
    found = await read_balance_at(pool, ACCOUNT, middle, middle)
    assert found.balance == 500_000
    found = await read_balance_at(pool, ACCOUNT, middle, None)
    assert found.balance == 500_000 + 3_600 // 50 * 10  # an hour of what was booked after it
    found = await read_balance_at(pool, ACCOUNT, None, middle)
    assert found.balance == 500_000
    assert (await read_balance_at(pool, ACCOUNT, START - timedelta(hours=2), None)).balance == 0


async def a_statement(pool: Pool) -> None:
    """Some lines of a statement, from its middle and from its beginning."""
    statement = await begin_statement(pool, OWNER, None, None)
    assert statement.closing == ENTRIES
    lines = await statement.lines()
    assert 0 < len(lines) <= 2 * statements.SLICE
    statement = await begin_statement(pool, OWNER, after(70_000), after(80_000))
    booked_at_once, earlier = 100_000 - 2_000, 2_000
    assert statement.closing - statement.opening == booked_at_once + earlier
    for _ in range(20):
        assert await statement.lines()


async def a_list(pool: Pool) -> None:
    """Pages of the list of transactions."""
    page = await read_transactions(pool, OWNER, Wanted(), None, 100)
    assert page.following == ENTRIES - 99
    page = await read_transactions(pool, OWNER, Wanted(since=after(5_000), before=after(50_000)), None, 100)
    assert page.following == 499_990 - 99
    await read_transactions(pool, OWNER, Wanted(type="debit", kind="transfer"), 900_000, 100)


async def the_journal(pool: Pool) -> None:
    """Pages of the journal, of which the last one is not full."""
    for since in (0, 50_000):
        page = await read_journal(pool, since, 100)
        assert [one.record.seq for one in page.kept] == list(range(since + 1, since + 101))
        assert page.has_more
    page = await read_journal(pool, RECORDS - 1, 100)
    assert [one.record.seq for one in page.kept] == [RECORDS]
    assert not page.has_more


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """All steps of a plan."""
    return [plan, *(inner for part in plan.get("Plans", ()) for inner in nodes(part))]


async def plans_of(pool: Pool, read: Callable[[Pool], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> int:
    """Check the plan of every query that some reading makes, and return how many there were."""
    seen: list[tuple[str, Any]] = []
    query = Pool.query

    async def spy(pool: Pool, sql: str, parameters: Any = ()) -> Any:
        seen.append((sql, parameters))
        return await query(pool, sql, parameters)

    with monkeypatch.context() as patch:
        patch.setattr(Pool, "query", spy)
        await read(pool)
    for sql, parameters in seen:
        ((explained,),) = await pool.query(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", parameters)
        steps = nodes(explained[0]["Plan"])
        assert [step for step in steps if step["Node Type"] in NEVER] == [], sql
        for step in steps:
            # A list that is filtered looks through so many; a balance at an instant through what was ever backdated.
            most = 40_000 if "t.type = %s" in sql or "sum(b.amount)" in sql else 2_000
            assert step["Actual Rows"] * step["Actual Loops"] <= most, f"{sql}\n{step}"
    return len(seen)


@on_reactor
async def test_everything_is_read_by_index(
    filled: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(database_server, filled) as pool:
        for _ in ("without statistics", "with statistics"):
            assert await plans_of(pool, balances, monkeypatch) == 4
            assert await plans_of(pool, a_statement, monkeypatch) >= 2 + 2 + 20
            assert await plans_of(pool, a_list, monkeypatch) == 1 + 3 + 1
            assert await plans_of(pool, the_journal, monkeypatch) == 3 * 2
            database_server.execute("ANALYZE", database=filled)


@on_reactor
async def test_a_balance_is_told_at_once(filled: str, database_server: DatabaseServer) -> None:
    with opened(database_server, filled) as pool:
        took = []
        for place in range(100):
            began = time.perf_counter()
            await read_balance_at(pool, ACCOUNT, after(RECORDS * place / 100), None)
            took.append(time.perf_counter() - began)
        assert median(took) < 0.025, f"{median(took) * 1000:.1f} ms"

"""A million entries: transfers are found and listed by index, without sorting, and no further than they must."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ledger.domain.journal import canonical
from ledger.domain.reversals import REVERSED
from ledger.store.facts import array, columns
from ledger.store.history import LOOKED_THROUGH
from ledger.store.pool import Pool
from ledger.store.postgres import Session
from ledger.store.transfers import (
    TransfersWanted,
    find_transfer,
    transfers_of_account,
    transfers_of_journal,
    transfers_under,
)
from ledger.store.writes import STATEMENTS
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import on_reactor, reactor

ACCOUNT = "00000000-0000-7000-8000-000000000001"
SCOPE = "00000000-0000-7000-8000-000000000002"
RECORDS = 250_000  # each with four entries, three of them of the account
START = datetime(2026, 1, 1, tzinfo=UTC)
NEVER = {"Seq Scan", "Sort", "Incremental Sort", "Hash Join", "Merge Join"}

_ID = "('00000000-0000-7000-9000-' || lpad(to_hex(n), 12, '0'))::uuid"

# Every hundredth record is a reversal, every tenth has a key, and one in five moves nothing.
FILL = f"""
    SET session_replication_role = replica;
    ALTER TABLE journal SET (autovacuum_enabled = off);
    ALTER TABLE transactions SET (autovacuum_enabled = off);
    ALTER TABLE reversed_transfers SET (autovacuum_enabled = off);
    INSERT INTO journal (seq, id, kind, scope, key, reverses, posted_at, effective_at, body, hash)
    SELECT n, {_ID}, kind, CASE WHEN n % 10 = 0 THEN '{SCOPE}'::uuid END, CASE WHEN n % 10 = 0 THEN 'key ' || n END,
           CASE WHEN kind = 'reversal' THEN {_ID} END, at, at,
           '{{"v":1,"seq":' || n || ',"id":"","kind":"' || kind || '","posted_at":""'
           || CASE WHEN n % 5 = 1 THEN '' ELSE ',"entries":[["{ACCOUNT}",1,1,0,1,1]]' END || '}}', '\\x{"00" * 32}'
    FROM (SELECT n, '{START}'::timestamptz + n * interval '1 second' AS at,
                 CASE WHEN n % 100 = 0 THEN 'reversal' ELSE 'transfer' END AS kind
          FROM generate_series(1, {RECORDS}) AS n) AS record;
    INSERT INTO transactions (id, account_id, seq, amount, type, balance, held, version, "timestamp")
    SELECT '{ACCOUNT}', '{ACCOUNT}', (n + 2) / 3, 1, 'credit', n, 0, n,
           '{START}'::timestamptz + (n + 2) / 3 * interval '1 second'
    FROM generate_series(1, 3 * {RECORDS}) AS n;
    INSERT INTO transactions (id, account_id, seq, amount, type, balance, held, version, "timestamp")
    SELECT '{ACCOUNT}', ('00000000-0000-7000-a000-' || lpad(to_hex(n % 1000), 12, '0'))::uuid, n, 1, 'credit',
           1 + n / 1000, 0, 1 + n / 1000, '{START}'::timestamptz + n * interval '1 second'
    FROM generate_series(1, {RECORDS}) AS n;
    INSERT INTO reversed_transfers (transfer_id, amount, seq)
    SELECT {_ID}, 1, n FROM generate_series(1, 50000) AS n
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


def identifier(n: int) -> str:
    """The id of a record."""
    return f"00000000-0000-7000-9000-{n:012x}"


def after(seconds: int) -> datetime:
    """So long after the start."""
    return START + timedelta(seconds=seconds)


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """All steps of a plan."""
    return [plan, *(inner for part in plan.get("Plans", ()) for inner in nodes(part))]


async def read_all(pool: Pool) -> None:
    """Everything that reads transfers, at the ends and in the middle."""

    async def of_account(wanted: TransfersWanted, below: int | None = None) -> tuple[list[int], int | None]:
        page = await transfers_of_account(pool, ACCOUNT, wanted, below, 3)
        return [record.seq for record in page.records], page.following

    async def of_journal(wanted: TransfersWanted, below: int | None = None) -> tuple[list[int], int | None]:
        page = await transfers_of_journal(pool, wanted, below, 3)
        return [record.seq for record in page.records], page.following

    plain, reversals, none = TransfersWanted(), TransfersWanted("reversal"), TransfersWanted("bet")
    span = TransfersWanted(since=after(100_000), before=after(100_004))
    found = await find_transfer(pool, identifier(100_000))
    assert found is not None
    assert found.seq == 100_000
    assert [record.seq for record in await transfers_under(pool, [SCOPE, ACCOUNT], "key 100000")] == [100_000]
    assert await of_account(plain) == ([250_000, 249_999, 249_998], 749_994)
    assert await of_account(plain, 749_993) == ([249_997, 249_995], 749_985)
    assert await of_account(span) == ([100_003, 100_002], 300_003)
    assert await of_account(reversals) == ([250_000, 249_900, 249_800], 749_400)
    assert await of_account(none) == ([], 730_001)
    assert await of_account(TransfersWanted(since=after(RECORDS + 1))) == ([], None)
    assert await of_journal(plain) == ([250_000, 249_999, 249_998], 249_998)
    assert await of_journal(plain, 5) == ([4, 3, 2], None)
    assert await of_journal(span) == ([100_003, 100_002, 100_000], None)
    assert await of_journal(reversals, 100_000) == ([99_900, 99_800, 99_700], 99_700)
    assert await of_journal(none) == ([], 230_001)


@pytest.mark.parametrize("analysed", [False, True])
@on_reactor
async def test_transfers_are_read_by_index_and_no_further_than_they_must(
    filled: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch, analysed: bool
) -> None:
    if analysed:
        database_server.execute("ANALYZE", database=filled)
    pool = Pool(reactor, database_server.url(filled), 1)
    pool.open()
    try:
        seen: list[tuple[str, Any]] = []
        query = Pool.query

        async def spy(pool: Pool, sql: str, parameters: Any = ()) -> Any:
            seen.append((sql, parameters))
            return await query(pool, sql, parameters)

        monkeypatch.setattr(Pool, "query", spy)
        await read_all(pool)
        monkeypatch.undo()
        assert len(seen) == 24
        for sql, parameters in seen:
            ((explained,),) = await pool.query(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", parameters)
            steps = nodes(explained[0]["Plan"])
            assert not {step["Node Type"] for step in steps} & NEVER, (sql, steps)
            scans = [step for step in steps if step.get("Relation Name") in ("transactions", "journal")]
            assert scans
            assert {step["Index Name"] for step in scans} <= {
                *("transactions_pkey", "journal_pkey", "journal_id_key", "journal_key"),
            }
            is_sought = "j.kind = %s" in sql
            most = LOOKED_THROUGH if is_sought else 40
            assert all(step["Actual Rows"] * step["Actual Loops"] <= most for step in scans), (sql, explained)
    finally:
        pool.close()


@pytest.mark.parametrize("analysed", [False, True])
@on_reactor
async def test_the_writer_knows_what_is_reversed_by_index(
    filled: str, database_server: DatabaseServer, analysed: bool
) -> None:
    if analysed:
        database_server.execute("ANALYZE", database=filled)
    session = Session(reactor)
    await session.open(database_server.url(filled), plan_cache_mode="force_generic_plan", enable_seqscan="off")
    try:
        keys = {REVERSED: array(map(identifier, range(1, 500_000, 7_001)))}
        rows = canonical([{"transfer_id": identifier(7), "amount": "2", "seq": 9}]).decode()
        written = STATEMENTS[REVERSED].replace("%(rows)s", f"%({REVERSED})s")
        for sql, parameters in ((f"SELECT 1{columns([REVERSED])}", keys), (written, {REVERSED: rows})):
            ((explained,),) = await session.run(f"EXPLAIN (FORMAT JSON) {sql}", parameters)
            steps = nodes(explained[0]["Plan"])
            kept = [step for step in steps if step.get("Relation Name") == "reversed_transfers"]
            assert kept
            assert {step["Node Type"] for step in kept} <= {"Index Scan", "Index Only Scan", "ModifyTable"}, explained
    finally:
        session.close()

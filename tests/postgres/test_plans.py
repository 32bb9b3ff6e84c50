"""How the database goes about it: by index, whatever it knows, or does not know, of the tables."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import pytest

from ledger.domain.accounts import world_id
from ledger.domain.audit import Audit
from ledger.domain.policy import Caller
from ledger.store import verify
from ledger.store.accounts import find_first_account, find_owner, owners_of, read_state
from ledger.store.pool import Pool
from ledger.store.postgres import Session
from ledger.store.reader import JournalReader
from ledger.store.tokens import find_callers
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor

MANY = 30_000


def fill(house: House) -> None:
    """Make tables of some size, without any statistics."""
    house.sql(
        f"""SET session_replication_role = replica;
            ALTER TABLE accounts SET (autovacuum_enabled = off);
            ALTER TABLE journal SET (autovacuum_enabled = off);
            ALTER TABLE transactions SET (autovacuum_enabled = off);
            INSERT INTO accounts (id, asset, type)
            SELECT gen_random_uuid(), 'USD/2', 'CHECKING' FROM generate_series(1, {MANY});
            INSERT INTO journal (seq, id, kind, scope, key, posted_at, effective_at, body, hash)
            SELECT n, gen_random_uuid(), 'credit', '{house.cast.scopes[0]}', 'key ' || n, now(), now(),
                   format('{{"v":1,"seq":%s,"id":"","kind":"","posted_at":"","scope":"%s","key":"key %s"}}',
                          n, '{house.cast.scopes[0]}', n), sha256('')
            FROM generate_series(1, {MANY}) AS n;
            INSERT INTO transactions (id, account_id, seq, amount, type, balance, held, version, "timestamp")
            SELECT gen_random_uuid(), '{world_id("USD/2")}', n, 1, 'credit', 0, 0, n, now()
            FROM generate_series(1, {MANY}) AS n;
            INSERT INTO holds (id, account_id, amount, status, created_at, seq)
            SELECT gen_random_uuid(), gen_random_uuid(), 1, 'open', now(), n FROM generate_series(1, {MANY}) AS n;
            UPDATE accounts SET version = {MANY} WHERE id = '{world_id("USD/2")}'"""
    )


async def plan(session: Session, sql: str, parameters: Any) -> str:
    """How a statement would be run."""
    return "\n".join(row[0] for row in await session.run(f"EXPLAIN {sql}", parameters))


@pytest.mark.parametrize("analysed", [False, True])
@on_reactor
async def test_the_writer_reads_and_writes_by_index(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch, analysed: bool
) -> None:
    async with House(database_url, database_server) as house:
        fill(house)
        if analysed:
            house.sql("ANALYZE")
        session, seen = house.store.session, list[tuple[str, Any]]()
        run, render = session.run, session.render

        def note(sql: str, parameters: Any) -> None:
            seen.extend((part.strip(), parameters) for part in sql.split(";") if part.strip().startswith("EXECUTE"))

        async def run_spy(sql: str | bytes, parameters: Any = ()) -> Any:
            if isinstance(sql, str):
                note(sql, parameters)
            return await run(sql, parameters)

        def render_spy(sql: str, parameters: Any) -> bytes:
            note(sql, parameters)
            return render(sql, parameters)

        monkeypatch.setattr(session, "run", run_spy)
        monkeypatch.setattr(session, "render", render_spy)
        commands = [house.credit(n % 3, key=f"key {n * 7}" if n % 2 else f"new {n}") for n in range(200)]
        await house.submit(*commands, msgspec.structs.replace(house.credit(), key=None, scope=None))
        monkeypatch.undo()
        assert len(seen) == 4  # facts, records, entries, accounts
        await session.run("SET plan_cache_mode = force_generic_plan")
        plans = [await plan(session, sql, parameters) for sql, parameters in seen]
        assert all("Seq Scan" not in text for text in plans), "\n\n".join(plans)
        facts = plans[0]
        for index in ("journal_pkey", "journal_key", "accounts_pkey"):
            assert index in facts, facts
        assert "accounts_pkey" in plans[3]


@pytest.mark.parametrize("analysed", [False, True])
@on_reactor
async def test_readers_read_by_index(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch, analysed: bool
) -> None:
    async with House(database_url, database_server) as house:
        fill(house)
        if analysed:
            house.sql("ANALYZE")
        seen: list[tuple[str, Any]] = []
        query = Pool.query

        async def spy(pool: Pool, sql: str, parameters: Any = ()) -> Any:
            seen.append((sql, parameters))
            return await query(pool, sql, parameters)

        monkeypatch.setattr(Pool, "query", spy)
        pool, account = house.pool, house.cast.accounts[0].id
        reader = JournalReader(pool)
        assert await reader.head() == MANY
        assert len(await reader.after(MANY - 500, 100)) == 100
        assert await find_owner(pool, account) is not None
        assert await find_first_account(pool, account) is None
        assert await read_state(pool, account) is not None
        assert len(await owners_of(pool, {account, world_id("USD/2")})) == 2
        monkeypatch.undo()
        assert len(seen) == 6
        for sql, parameters in seen:
            rows = await house.pool.query(f"EXPLAIN {sql}", parameters)
            text = "\n".join(row[0] for row in rows)
            assert "Seq Scan" not in text, text


def rows_read(node: dict[str, Any]) -> int:
    """The most rows that a step of a plan went through, all its runs together."""
    here = int(node["Actual Rows"] * node["Actual Loops"])
    return max([here, *(rows_read(inner) for inner in node.get("Plans", ()))])


@pytest.mark.parametrize("analysed", [False, True])
@on_reactor
async def test_verify_reads_no_more_of_an_account_than_its_last_entry(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch, analysed: bool
) -> None:
    async with House(database_url, database_server) as house:
        fill(house)
        if analysed:
            house.sql("ANALYZE")
        seen: list[str] = []
        query = Pool.query

        async def spy(pool: Pool, sql: str, parameters: Any = ()) -> Any:
            seen.append(sql)
            return await query(pool, sql, parameters)

        monkeypatch.setattr(Pool, "query", spy)
        assert await verify._accounts(house.pool, Audit()) is not None  # the journal that `fill` makes is nonsense
        monkeypatch.undo()
        before_world = str(UUID(int=UUID(world_id("USD/2")).int - 1))
        explained = f"EXPLAIN (ANALYZE, FORMAT JSON) {seen[0]}"
        ((found,),) = await house.pool.query(explained, (before_world, verify._ACCOUNTS))
        assert rows_read(found[0]["Plan"]) <= verify._ACCOUNTS, found


@on_reactor
async def test_tokens_are_found_by_index(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        account = house.cast.accounts[0].id
        house.sql(
            "INSERT INTO account_tokens (token_hash, account_id)"
            " SELECT sha256(n::text::bytea), %s FROM generate_series(1, 20000) AS n",
            account,
        )
        house.sql("ANALYZE account_tokens")
        ((kept,),) = house.sql("SELECT sha256('77')")
        expected = Caller("account", account, token_hash=bytes(kept).hex())
        assert await find_callers(house.pool, [bytes(kept), b"unknown"]) == {bytes(kept): expected}
        rows = await house.pool.query(
            "EXPLAIN SELECT FROM account_tokens WHERE token_hash = ANY (%s::bytea[])", ([bytes(kept)],)
        )
        assert "account_tokens_pkey" in rows[0][0]

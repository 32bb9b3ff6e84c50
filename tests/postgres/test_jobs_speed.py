"""Many jobs: how fast they go, that each is run once however many processes there are, and how they are found."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from ledger.domain.jobs import DONE
from ledger.store import job_desk
from ledger.store.job_desk import JobFilter
from ledger.store.jobs import JobStore
from ledger.store.pool import Pool
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import on_reactor, reactor, until
from tests.postgres.labour import Hand, site_of

ROOT = Path(__file__).parents[2]
MANY = 10_000
HEARING = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND query IN ('SELECT 1', 'NOTIFY ledger_probe')"
)
LEAST_PER_SECOND = 700  # of 2,000 and more on a machine that does nothing else


@on_reactor
async def test_many_quick_jobs_are_done_quickly(database_url: str, database_server: DatabaseServer) -> None:
    hand = Hand(queue="payments")
    async with site_of(database_url, database_server, hand) as site:
        await site.put(MANY)
        async with site.process():
            began = reactor.seconds()
            await until(lambda: len(hand.runs) == MANY, 60)
            took = reactor.seconds() - began
        assert site.states() == {"completed": MANY}
        assert MANY / took > LEAST_PER_SECOND


@on_reactor
async def test_many_jobs_over_three_processes_are_run_once_each(
    database_url: str, database_server: DatabaseServer, tmp_path: Path
) -> None:
    """Three processes of the operating system, while jobs are still being queued; each says what it has run."""
    command = [sys.executable, "-m", "tests.postgres.labourer", database_url, "30", "quick"]
    outputs = [tmp_path / f"process-{number}" for number in range(3)]
    async with site_of(database_url, database_server, Hand()) as site, AsyncExitStack() as stack:
        await site.put(MANY // 2)
        processes = []
        for path in outputs:
            output = stack.enter_context(path.open("wb"))
            process = subprocess.Popen(command, cwd=ROOT, stdout=output)
            stack.callback(process.kill)
            processes.append(process)
        await until(lambda: site.sql(HEARING) == [(3,)], 60)
        await site.desk.enqueue_all([site.desk.new("work", {"n": n}) for n in range(MANY // 2, MANY)])
        await until(lambda: site.states() == {"completed": MANY}, 90)
        for process in processes:
            process.terminate()
        await until(lambda: all(process.poll() is not None for process in processes), 30)
        shares = [[int(line) for line in path.read_text().split()] for path in outputs]
        runs = Counter(n for share in shares for n in share)
        assert runs == Counter(range(MANY))
        assert site.sql("SELECT min(attempt), max(attempt) FROM jobs") == [(1, 1)]
        assert all(shares)


def fill(site: Any, many: int = 100_000) -> None:
    """Make jobs of every state, more than half of them waiting, most of those not yet due."""
    site.sql(
        """INSERT INTO jobs (id, queue, worker, state, priority, max_attempts, timeout, scheduled_at, leased_until,
                             completed_at, unique_key, unique_for)
           SELECT lpad(to_hex(n), 32, '0')::uuid, (ARRAY['payments', 'banking', 'default'])[n %% 3 + 1], 'work', state,
                  n %% 10, 4, 60, now() + CASE WHEN n %% 4 = 0 THEN -1 ELSE 1 END * n * interval '1 s',
                  CASE state WHEN 'executing' THEN now() + interval '1 h' END,
                  CASE WHEN state IN ('completed', 'dead') THEN now() - interval '1 h' END, 'key ' || n, 60
           FROM (SELECT n, (ARRAY['available', 'scheduled', 'retryable', 'scheduled', 'completed', 'dead', 'executing'])
                           [n %% 7 + 1] AS state
                 FROM generate_series(1, %s) AS n) AS made""",
        many,
    )


@pytest.mark.parametrize("analysed", [False, True])
@on_reactor
async def test_jobs_are_found_by_index(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch, analysed: bool
) -> None:
    async with site_of(database_url, database_server, Hand(queue="payments")) as site:
        site.sql("ALTER TABLE jobs SET (autovacuum_enabled = off)")
        fill(site)
        if analysed:
            site.sql("ANALYZE jobs")
        seen: list[tuple[str, Any]] = []
        query = Pool.query

        async def spy(pool: Pool, sql: str, parameters: Any = ()) -> Any:
            seen.append((sql, parameters))
            return await query(pool, sql, parameters)

        monkeypatch.setattr(Pool, "query", spy)
        store = JobStore(site.pool, ["work"])
        claimed = await store.claim("payments", 200)
        assert len(claimed) == 200
        assert {job.priority for job in claimed} == {0}
        assert await store.renew(claimed) == {job.id for job in claimed}
        assert len(await store.settle([(job, DONE) for job in claimed])) == 200
        assert await store.rescue(10) == 0
        assert (await store.due(["payments", "banking"]))["payments"] < 0
        assert await job_desk.newest_of_key(site.pool, "key 7") is not None
        assert await job_desk.forget(site.pool, ["completed", "cancelled"], 7, 100) == 0
        monkeypatch.undo()
        for sql, parameters in seen:
            rows = await site.pool.query(f"EXPLAIN {sql}", parameters)
            text = "\n".join(row[0] for row in rows)
            assert "Seq Scan" not in text, text
            assert "Sort" not in text or sql is seen[4][0], text  # of what is due: a row for each priority
        assert "jobs_to_claim" in "\n".join(
            row[0] for row in await site.pool.query(f"EXPLAIN {seen[0][0]}", seen[0][1])
        )
        for wanted in (JobFilter("payments", "dead"), JobFilter("payments"), JobFilter(None, "dead"), JobFilter()):
            assert await read_by_list(site, wanted, monkeypatch) <= 40 * 21


async def read_by_list(site: Any, wanted: JobFilter, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many rows any step of a page of a list goes through."""
    seen: list[Any] = []
    query = Pool.query

    async def spy(pool: Pool, sql: str, parameters: Any = ()) -> Any:
        seen.append((sql, parameters))
        return await query(pool, sql, parameters)

    monkeypatch.setattr(Pool, "query", spy)
    assert len(await site.desk.read(wanted, None, 21)) == 21
    monkeypatch.undo()
    ((plan,),) = await site.pool.query(f"EXPLAIN (ANALYZE, FORMAT JSON) {seen[0][0]}", seen[0][1])
    return most_rows(plan[0]["Plan"])


def most_rows(node: dict[str, Any]) -> int:
    """The most rows that a step of a plan went through, all its runs together."""
    here = int(node["Actual Rows"] * node["Actual Loops"]) + int(node.get("Rows Removed by Filter", 0))
    return max([here, *(most_rows(inner) for inner in node.get("Plans", ()))])

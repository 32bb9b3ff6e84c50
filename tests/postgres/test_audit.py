"""The audit log in a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import uuid_utils

from ledger.services.audit import Audit, AuditEvent
from ledger.store.audit import AuditFilter, AuditLine, AuditRow, forget, keep, read
from ledger.store.pool import Pool
from ledger.store.postgres import StatementFailed
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import on_reactor, reactor, until

USER = "01900000-0000-7000-8000-00000000000a"
START = 1_780_000_000.0
ALL = AuditFilter()
MANY = 30_000


def row(number: int, at: float | None = None, **more: Any) -> AuditRow:
    """A row to be written."""
    at = START + number if at is None else at
    plain: dict[str, Any] = {
        "reason": None,
        "endpoint": None,
        "actor_kind": None,
        "actor_id": None,
        "address": None,
        "correlation_id": None,
        "count": 1,
        "details": {},
    }
    given = {"id": str(UUID(int=number)), "at": at, "until": at, "event": "admin_action", **plain, **more}
    return AuditRow(**given)


def numbers(lines: list[AuditLine]) -> list[int]:
    """Which rows these are."""
    return [UUID(line.id).int for line in lines]


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Pool]:
    """A pool for the length of the block."""
    pool = Pool(reactor, url, 2)
    pool.open()
    try:
        yield pool
    finally:
        pool.close()


@on_reactor
async def test_what_is_written_can_be_read(database_url: str) -> None:
    async with opened(database_url) as pool:
        await keep(
            pool,
            [
                row(
                    1,
                    START + 0.123456,
                    until=START + 7.5,
                    event="rate_limited",
                    reason="rate_limit_exceeded",
                    endpoint="GET /balance",
                    actor_kind="user",
                    actor_id=USER,
                    address="2001:db8::1",
                    correlation_id='100% "x" \\',
                    count=3,
                    details={"fields": ["a", "b"], "n": 1, "true": True, "text": "100% ' \" \\ ü 💶"},
                )
            ],
        )
        assert await read(pool, ALL, None, 10) == [
            AuditLine(
                id=str(UUID(int=1)),
                at="2026-05-28T20:26:40.123456Z",
                until="2026-05-28T20:26:47.500000Z",
                event="rate_limited",
                reason="rate_limit_exceeded",
                endpoint="GET /balance",
                actor_kind="user",
                actor_id=USER,
                address="2001:db8::1",
                correlation_id='100% "x" \\',
                count=3,
                details={"fields": ["a", "b"], "n": 1, "true": True, "text": "100% ' \" \\ ü 💶"},
            )
        ]


@on_reactor
async def test_writing_again_brings_up_to_date_and_never_back(database_url: str) -> None:
    async with opened(database_url) as pool:
        await keep(pool, [row(1), row(2)])
        await keep(pool, [row(1, until=START + 9, count=5), row(3)])
        await keep(pool, [row(1)])
        lines = await read(pool, ALL, None, 10)
        assert [(UUID(line.id).int, line.count) for line in lines] == [(3, 1), (2, 1), (1, 5)]
        assert lines[2].until > lines[2].at


@on_reactor
async def test_pages_follow_each_other_without_gap_or_repeat(database_url: str) -> None:
    async with opened(database_url) as pool:
        await keep(pool, [row(number, START + number // 4) for number in range(1, 26)])
        seen: list[int] = []
        after: tuple[str, str] | None = None
        while lines := await read(pool, ALL, after, 7):
            seen += numbers(lines)
            after = (lines[-1].at, lines[-1].id)
            await keep(pool, [row(100 + len(seen), START + 100)])  # news come in before the first page
        assert seen == list(range(25, 0, -1))


@on_reactor
async def test_filters(database_url: str) -> None:
    async with opened(database_url) as pool:
        await keep(
            pool,
            [
                row(1, actor_id=USER, address="192.0.2.1"),
                row(2, event="rate_limited", address="192.0.2.1"),
                row(3, event="rate_limited", actor_id=USER),
                row(4, START + 3.5),
            ],
        )

        async def found(**wanted: Any) -> list[int]:
            return numbers(await read(pool, AuditFilter(**wanted), None, 10))

        assert await found() == [4, 3, 2, 1]
        assert await found(event="rate_limited") == [3, 2]
        assert await found(actor_id=USER) == [3, 1]
        assert await found(address="192.0.2.1") == [2, 1]
        assert await found(address="192.0.2.1", actor_id=USER) == [1]
        third = datetime.fromtimestamp(START + 3, UTC)
        assert await found(since=third) == [4, 3]
        assert await found(before=third) == [2, 1]
        assert await found(event="nothing") == []


@on_reactor
async def test_what_is_older_than_so_many_days_is_deleted_oldest_first(
    database_url: str, database_server: DatabaseServer
) -> None:
    ((now,),) = database_server.execute("SELECT extract(epoch FROM now())::float8")
    async with opened(database_url) as pool:
        await keep(pool, [row(number, now - 86_400 * 30 * number) for number in range(1, 8)])
        assert await forget(pool, 90, 3) == 3
        assert numbers(await read(pool, ALL, None, 10)) == [1, 2, 3, 4]
        assert await forget(pool, 90, 3) == 2
        assert await forget(pool, 90, 3) == 0
        assert numbers(await read(pool, ALL, None, 10)) == [1, 2]


@on_reactor
async def test_a_row_that_cannot_be_kept_fails(database_url: str) -> None:
    async with opened(database_url) as pool:
        with pytest.raises(StatementFailed):
            await keep(pool, [row(1), row(2, count=0)])
        assert await read(pool, ALL, None, 10) == []


@on_reactor
async def test_the_service_writes_what_it_is_told(database_url: str, database_server: DatabaseServer) -> None:
    async with opened(database_url) as pool:
        audit = Audit(pool, reactor, lambda: str(uuid_utils.uuid7()))
        await audit.start()
        for number in range(1_200):
            audit.record(AuditEvent("authentication_failed", "invalid_token", address=f"192.0.2.{number % 3}"))
            audit.record(AuditEvent("admin_action", "", "PUT /x", "user", USER, "::1", f"\0{number}", {"n": number}))
        database = database_url.rpartition("/")[2].partition("?")[0]

        def kept() -> list[tuple[Any, ...]]:
            return database_server.execute(
                "SELECT event, count(*), sum(count) FROM audit_log GROUP BY 1 ORDER BY 1", database=database
            )

        await until(lambda: kept() == [("admin_action", 1_200, 1_200), ("authentication_failed", 3, 1_200)])
        audit.record(AuditEvent("authentication_failed", "invalid_token", address="192.0.2.0"))
        await audit.stop()
        assert kept()[1] == ("authentication_failed", 3, 1_201)
        lines = await audit.read(AuditFilter(event="admin_action"), None, 2_000)
        assert {line.details["n"] for line in lines} == set(range(1_200))
        assert audit.dropped == 0


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (ALL, "audit_log_by_time"),
        (AuditFilter(event="admin_action"), "audit_log_by_event"),
        (AuditFilter(actor_id=USER), "audit_log_by_actor"),
        (AuditFilter(address="192.0.2.1"), "audit_log_by_address"),
    ],
    ids=["all", "event", "actor", "address"],
)
@on_reactor
async def test_a_rare_row_is_found_by_index(
    database_url: str, monkeypatch: pytest.MonkeyPatch, wanted: AuditFilter, index: str
) -> None:
    async with opened(database_url) as pool:
        await pool.query(
            f"""INSERT INTO audit_log (id, at, until, event, address)
                SELECT gen_random_uuid(), now() - n * interval '1 second', now(), 'rate_limited', '10.0.0.' || n % 250
                FROM generate_series(1, {MANY}) AS n"""
        )
        await pool.query("ANALYZE audit_log")
        await keep(pool, [row(1, actor_id=USER, address="192.0.2.1")])
        query, plans = pool.query, list[str]()

        async def explained(sql: str, parameters: Any) -> list[tuple[Any, ...]]:
            plans.extend(line for (line,) in await query(f"EXPLAIN {sql}", parameters))
            return await query(sql, parameters)

        monkeypatch.setattr(pool, "query", explained)
        found = await read(pool, wanted, None, 21)
        assert len(found) == (21 if wanted is ALL else 1)
        assert any(index in line for line in plans), "\n".join(plans)
        assert not any("Sort" in line or "Seq Scan" in line for line in plans), "\n".join(plans)

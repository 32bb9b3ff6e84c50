"""Statements over a real database: what a naive list tells, in slices of any size, as known when they began."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.domain.accounts import Owner, world_id
from ledger.domain.money import format_amount
from ledger.store import statements
from ledger.store.pool import Pool
from ledger.store.statements import Line, Statement, begin_statement
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, refusal_of
from tests.postgres.past import LONG_AGO, Booked, Move, Past, batches, shifted
from tests.strategies import DOLLAR, examples


async def all_of(statement: Statement, most: int) -> list[Line]:
    """All lines."""
    told: list[Line] = []
    while lines := await statement.lines():
        assert len(lines) <= most
        told += lines
    assert await statement.lines() == []
    return told


def lines_of(entries: list[Booked], since: str, before: str) -> tuple[int, list[Line], int]:
    """What a statement must tell: the balance, the lines, and the balance after them."""
    balance = opening = sum(one.amount for one in entries if one.effective_at < since)
    told = []
    for one in entries:
        if since <= one.effective_at < before:
            balance += one.amount
            told.append(
                Line(
                    transaction_id=one.id,
                    transfer_id=one.transfer_id,
                    kind="transfer",
                    type="credit" if one.amount > 0 else "debit",
                    amount=format_amount(abs(one.amount), 2),
                    balance=format_amount(balance, 2),
                    description=one.description,
                    effective_at=one.effective_at,
                    posted_at=one.posted_at,
                )
            )
    return opening, told, balance


@given(made=batches, size=st.integers(1, 5), later=st.lists(st.builds(Move, *map(st.just, (0, 1, 7, None, (0, 1))))))
@settings(examples(20), suppress_health_check=[HealthCheck.function_scoped_fixture])
@on_reactor
async def test_a_statement_tells_what_counts(
    database_url: str,
    database_server: DatabaseServer,
    monkeypatch: pytest.MonkeyPatch,
    made: list[list[Move]],
    size: int,
    later: list[Move],
) -> None:
    monkeypatch.setattr(statements, "SLICE", size)
    async with House(database_url, database_server) as house:
        past = Past(house)
        for batch in made:
            await past.book(batch)
        entries, points = past.entries(), past.points()
        begun = await begin_statement(house.pool, past.owner, datetime.fromisoformat(LONG_AGO), None)
        for since in points[::3]:
            for before in points[1::4]:
                period = datetime.fromisoformat(since), datetime.fromisoformat(before)
                if since > before:
                    refused = await refusal_of(begin_statement(house.pool, past.owner, *period))
                    assert (refused.reason, refused.details) == ("invalid_datetime_format", {"field": "from"})
                    continue
                statement = await begin_statement(house.pool, past.owner, *period)
                assert (statement.since, statement.before) == (since, before)
                told = await all_of(statement, 2 * size)
                assert (statement.opening, told, statement.closing) == lines_of(entries, since, before)
        if later:
            await past.book(later)
        # What has come since is not in it.
        told = await all_of(begun, 2 * size)
        assert (begun.opening, told, begun.closing) == lines_of(entries, LONG_AGO, begun.before)


@on_reactor
async def test_what_is_left_out(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        past = Past(house)
        nothing = await begin_statement(house.pool, past.owner, None, None)
        assert (nothing.opening, await all_of(nothing, 0), nothing.closing) == (0, [], 0)
        ((opened_at,),) = house.sql("SELECT created_at FROM accounts WHERE id = %s", past.first)
        assert datetime.fromisoformat(nothing.since) == opened_at
        await past.book([Move(0, 1, 300, None, (0, 0)), Move(0, 1, 5, "now", None)])
        whole = await begin_statement(house.pool, past.owner, None, None)
        (line,) = await all_of(whole, 2)
        assert (whole.opening, line.description, line.balance, whole.closing) == (300, "now", "3.05", 305)
        assert datetime.fromisoformat(whole.since) == opened_at
        early = datetime.fromisoformat(LONG_AGO) + timedelta(days=1)
        before_it_was = await begin_statement(house.pool, past.owner, None, early)
        assert (before_it_was.since, before_it_was.opening, before_it_was.closing) == (before_it_was.before, 300, 300)
        world = Owner(world_id(DOLLAR), None, DOLLAR, is_system=True)
        far = datetime.fromisoformat("2999-01-01T00:00:00Z")
        mirrored = await begin_statement(house.pool, world, datetime.fromisoformat(LONG_AGO), far)
        assert [line.amount for line in await all_of(mirrored, 2)] == ["3.00", "0.05"]
        assert (mirrored.opening, mirrored.closing, mirrored.before) == (0, -305, "2999-01-01T00:00:00.000000Z")


@on_reactor
async def test_lines_that_do_not_add_up_are_not_taken_for_a_statement(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        past = Past(house)
        await past.book([Move(0, 1, 9, None, None)])
        house.sql(
            "SET session_replication_role = replica; UPDATE transactions SET amount = 8 WHERE account_id = %s",
            past.first,
        )
        statement = await begin_statement(house.pool, past.owner, None, None)
        assert len(await statement.lines()) == 1
        with pytest.raises(RuntimeError, match="does not add up"):
            await statement.lines()


@on_reactor
async def test_a_long_statement_is_read_in_slices(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with House(database_url, database_server) as house:
        past = Past(house)
        for _ in range(3):
            await past.book([Move(0, 1, 1, None, None)] * 300 + [Move(0, 1, 1, None, (0, 0))] * 50)
        entries = past.entries()
        assert [one.effective_at for one in entries].count(LONG_AGO) == 150
        rows: list[int] = []
        query = Pool.query

        async def spy(pool: Pool, sql: str, parameters: Any = ()) -> Any:
            found = await query(pool, sql, parameters)
            rows.append(len(found))
            return found

        monkeypatch.setattr(Pool, "query", spy)
        statement = await begin_statement(house.pool, past.owner, datetime.fromisoformat(LONG_AGO), None)
        assert rows == [2]
        told = await all_of(statement, 2 * statements.SLICE)
        assert told == lines_of(entries, LONG_AGO, shifted(past.instants[-1], 1))[1]
        assert max(rows) <= statements.SLICE
        assert sum(rows) == 2 + 1050

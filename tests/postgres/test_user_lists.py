"""Lists of users over a real database: whole, in order, by index, and right while users come."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.domain.users import ROLES, SORTS, STATUSES, User, UserCounts, UserFilter
from ledger.store.pool import Pool
from ledger.store.users import count_users, email_is_taken, find_user, list_users, users_after
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor
from tests.strategies import examples

Row = tuple[str, str, str, str, int]

names = st.sampled_from(["Ada", "ada", "Éva", "Zoë", "zoe", "A b", "B"])
rows = st.lists(st.tuples(names, st.sampled_from(ROLES), st.sampled_from(STATUSES), st.integers(0, 3)), max_size=25)
orders = st.lists(st.tuples(st.sampled_from(SORTS), st.booleans()), max_size=3, unique_by=lambda part: part[0])
filters = st.builds(UserFilter, st.none() | st.sampled_from(STATUSES), st.none() | st.sampled_from(ROLES))


def fill(house: House, made: list[tuple[str, str, str, int]]) -> None:
    """Have these users and no others."""
    house.sql("DELETE FROM users")
    for n, (name, role, status, second) in enumerate(made):
        add(house, f"{n % 7}-{n}@example.com", name, role, status, second)


def add(house: House, email: str, name: str, role: str, status: str, second: float) -> None:
    """Make a user who came at that second."""
    house.sql(
        """INSERT INTO users (id, email, full_name, password_hash, role, status, inserted_at)
           VALUES (%s, %s, %s, '', %s, %s, '2026-01-01T00:00:00.000001Z'::timestamptz + %s * interval '1 second')""",
        str(uuid4()), email, name, role, status, second,
    )  # fmt: skip


def is_wanted(user: User, wanted: UserFilter) -> bool:
    """Whether a list with that filter tells this user."""
    if wanted.status is None and user.status == "DELETED":
        return False
    return wanted.status in (None, user.status) and wanted.role in (None, user.role)


def in_order(users: list[User], order: list[tuple[str, bool]]) -> list[User]:
    """The users sorted as asked, ids breaking ties in the direction of the last field."""
    users = sorted(users, key=lambda user: user.id, reverse=bool(order) and order[-1][1])
    for field, descends in reversed(order):
        name = "inserted_at" if field == "created_at" else field
        users.sort(key=lambda user: getattr(user, name), reverse=descends)
    return users


async def everyone(house: House) -> list[User]:
    """All users, deleted ones too."""
    found = [await find_user(house.pool, row[0]) for row in house.sql("SELECT id::text FROM users")]
    return [user for user in found if user is not None]


@given(made=rows, order=orders, wanted=filters, size=st.integers(1, 9))
@settings(examples(30), suppress_health_check=[HealthCheck.function_scoped_fixture])
@on_reactor
async def test_the_pages_make_the_list(
    database_url: str, database_server: DatabaseServer, made: Any, order: Any, wanted: UserFilter, size: int
) -> None:
    async with House(database_url, database_server) as house:
        fill(house, made)
        expected = in_order([user for user in await everyone(house) if is_wanted(user, wanted)], order)
        told: list[User] = []
        while True:
            page, total = await list_users(house.pool, wanted, order, size, len(told))
            assert total == len(expected)
            told += page
            if len(page) < size:
                break
        assert told == expected
        assert await list_users(house.pool, wanted, order, size, 10**40) == ([], total)


def place(user: User) -> tuple[datetime, str]:
    """Where a list has got to that ends with this user."""
    return datetime.fromisoformat(user.inserted_at), user.id


@given(made=rows, wanted=filters, size=st.integers(1, 9), coming=st.lists(st.integers(0, 5), max_size=12))
@settings(examples(30), suppress_health_check=[HealthCheck.function_scoped_fixture])
@on_reactor
async def test_going_on_from_a_place_neither_repeats_nor_skips_while_users_come(
    database_url: str, database_server: DatabaseServer, made: Any, wanted: UserFilter, size: int, coming: list[int]
) -> None:
    async with House(database_url, database_server) as house:
        fill(house, made)
        at_first = [user for user in await everyone(house) if is_wanted(user, wanted)]
        told: list[User] = []
        while page := await users_after(house.pool, wanted, place(told[-1]) if told else None, size):
            told += page
            if coming:
                add(house, f"new-{uuid4()}@example.com", "New", wanted.role or "user", wanted.status or "ACTIVE",
                    coming.pop())  # fmt: skip
        assert len({user.id for user in told}) == len(told)
        assert [(user.inserted_at, user.id) for user in told] == sorted(
            ((user.inserted_at, user.id) for user in told), reverse=True
        )
        assert {user.id for user in at_first} <= {user.id for user in told}
        assert all(is_wanted(user, wanted) for user in told)


@on_reactor
async def test_the_counts_leave_out_who_is_deleted(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        assert await count_users(house.pool) == UserCounts(0, 0, 0, 0)
        fill(house, [("A", role, status, 0) for role in ROLES for status in STATUSES])
        assert await count_users(house.pool) == UserCounts(6, 3, 2, 3)


@pytest.mark.parametrize("analysed", [False, True])
@on_reactor
async def test_lists_are_read_by_index(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch, analysed: bool
) -> None:
    async with House(database_url, database_server) as house:
        house.sql(
            """ALTER TABLE users SET (autovacuum_enabled = off);
               INSERT INTO users (id, email, full_name, password_hash, role, status, inserted_at)
               SELECT gen_random_uuid(), n || '@example.com', 'Name ' || n % 5000, '',
                      CASE WHEN n % 1000 = 0 THEN 'admin' ELSE 'user' END,
                      CASE WHEN n % 400 = 0 THEN 'SUSPENDED' ELSE 'ACTIVE' END, now() - n * interval '1 second'
               FROM generate_series(1, 20000) AS n"""
        )
        if analysed:
            house.sql("ANALYZE users")
        seen: list[tuple[str, Any]] = []
        query = Pool.query

        async def spy(pool: Pool, sql: str, parameters: Any = ()) -> Any:
            seen.append((sql, parameters))
            return await query(pool, sql, parameters)

        monkeypatch.setattr(Pool, "query", spy)
        everybody = UserFilter()
        (newest,) = await users_after(house.pool, everybody, None, 1)
        assert len(await users_after(house.pool, everybody, place(newest), 21)) == 21
        assert len(await users_after(house.pool, UserFilter(status="SUSPENDED"), place(newest), 21)) == 21
        assert len(await users_after(house.pool, UserFilter(role="admin"), place(newest), 20)) == 20
        assert await find_user(house.pool, newest.id) == newest
        assert await email_is_taken(house.pool, "77@example.com")
        for field in ("created_at", "email", "full_name"):
            page, total = await list_users(house.pool, everybody, [(field, True)], 20, 0)
            assert (len(page), total) == (20, 20_000)
        monkeypatch.undo()
        assert len(seen) == 9
        for sql, parameters in seen:
            planned = await house.pool.query(f"EXPLAIN (FORMAT JSON) {sql}", parameters)
            limits = [node for node in nodes(planned[0][0][0]["Plan"]) if node["Node Type"] == "Limit"]
            for node in limits or [planned[0][0][0]["Plan"]]:  # the count reads all, and may
                kinds = {inner["Node Type"] for inner in nodes(node)}
                assert not kinds & {"Seq Scan", "Sort"}, (sql, planned)


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """All steps of a plan."""
    return [plan, *(inner for part in plan.get("Plans", ()) for inner in nodes(part))]

"""The pool: in order, bounded, never a dead or dirty connection, never one lost; a transaction is kept whole or not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred

from ledger.domain.errors import Refused
from ledger.store.pool import Pool
from ledger.store.postgres import ConnectionLost, Session, StatementFailed
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, outcome_of, pause, reactor, until


@asynccontextmanager
async def opened(url: str, size: int = 2, max_waiting: int = 2_000) -> AsyncIterator[Pool]:
    """A pool for the length of the block."""
    pool = Pool(reactor, url, size, max_waiting)
    pool.open()
    try:
        yield pool
    finally:
        pool.close()


def later(work: Any) -> Deferred[Any]:
    """Begin some work; a Deferred of what it comes to, failures included."""
    answer: Deferred[Any] = ensureDeferred(outcome_of(ensureDeferred(work)))
    return answer


def backends(server: DatabaseServer, url: str) -> list[tuple[Any, ...]]:
    """The server's processes for the ledger on a database."""
    name = url.split("@/")[1].split("?")[0]
    return server.execute("SELECT pid, state FROM pg_stat_activity WHERE datname = %s", name)


@on_reactor
async def test_work_is_done_in_order_on_few_connections(database_url: str) -> None:
    async with opened(database_url, size=1) as pool:
        done: list[int] = []
        answers = [later(pool.query("SELECT %s", (number,))) for number in range(200)]
        for answer in answers:
            answer.addCallback(lambda rows: done.append(rows[0][0]))
        assert pool.usage == (1, 0, 199)
        await until(lambda: len(done) == 200)
        assert done == list(range(200))
        assert pool.usage == (1, 1, 0)


@on_reactor
async def test_thousands_may_wait_and_no_more_than_that(database_url: str) -> None:
    async with opened(database_url, size=2, max_waiting=1_500) as pool:
        answers = [later(pool.query("SELECT %s", (number,))) for number in range(1_510)]
        results = [await answer for answer in answers]
        assert results[:1_502] == [[(number,)] for number in range(1_502)]
        assert [result.reason for result in results[1_502:]] == ["service_unavailable"] * 8
        assert pool.usage == (2, 2, 0)


@on_reactor
async def test_a_dead_connection_is_replaced(database_url: str, database_server: DatabaseServer) -> None:
    async with opened(database_url) as pool:
        for _ in range(3):
            ((pid,),) = await pool.query("SELECT pg_backend_pid()")
            database_server.execute("SELECT pg_terminate_backend(%s)", pid)
            await until(lambda: backends(database_server, database_url) == [])
            await pause(0.05)  # the news is on its way
            ((new,),) = await pool.query("SELECT pg_backend_pid()")
            assert new != pid
        assert pool.usage == (1, 1, 0)


@on_reactor
async def test_a_connection_that_dies_at_work(database_url: str, database_server: DatabaseServer) -> None:
    async with opened(database_url, size=1) as pool:
        asleep = later(pool.query("SELECT pg_sleep(60)"))
        waiting = later(pool.query("SELECT 1"))
        await until(lambda: [row for row in backends(database_server, database_url) if row[1] == "active"])
        database_server.execute("SELECT pg_terminate_backend(%s)", backends(database_server, database_url)[0][0])
        refused = await asleep
        assert isinstance(refused, Refused)
        assert refused.details["outcome"] == "not_done"
        assert await waiting == [(1,)]
        assert pool.usage == (1, 1, 0)


@on_reactor
async def test_nothing_leaks_whatever_happens(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house, opened(database_url, size=3) as pool:

        async def raises(session: Session) -> None:
            await session.run("INSERT INTO users (id, email, full_name, password_hash) VALUES (%s, '', '', '')", (one,))
            raise KeyError("no")

        async def fails(session: Session) -> None:
            await session.run("SELECT 1 / 0")

        async def swallows(session: Session) -> None:
            with pytest.raises(StatementFailed):
                await session.run("SELECT 1 / 0")

        async def works(session: Session) -> int:
            return len(await session.run("SELECT 1"))

        one = house.cast.unknown
        rounds = 15
        answers = [later(pool.transact(work)) for _ in range(rounds) for work in (raises, fails, swallows, works)]
        answers += [later(pool.query("SELECT nonsense")) for _ in range(rounds)]
        results = [await answer for answer in answers]
        sorts = [getattr(result, "sqlstate", None) or type(result).__name__ for result in results]
        assert sorts == ["KeyError", "22012", "25P02", "int"] * rounds + ["42703"] * rounds
        assert pool.usage[2] == 0
        assert pool.usage[0] == pool.usage[1] <= 3
        assert await pool.query("SELECT count(*) FROM users") == [(0,)]
        assert {row[1] for row in backends(database_server, database_url)} <= {"idle", "active"}


@on_reactor
async def test_a_transaction_is_kept_whole(database_url: str) -> None:
    async with opened(database_url) as pool:

        async def work(session: Session) -> str:
            await session.run("CREATE TABLE notes (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
            await session.run("INSERT INTO notes VALUES (1)")
            return "done"

        async def twice(session: Session) -> None:
            await session.run("INSERT INTO notes VALUES (2), (2)")

        assert await pool.transact(work) == "done"
        with pytest.raises(StatementFailed) as failed:
            await pool.transact(twice)
        assert (failed.value.sqlstate, failed.value.is_passing) == ("23505", False)
        assert await pool.query("SELECT n FROM notes") == [(1,)]


@on_reactor
async def test_a_connection_that_dies_in_the_commit_leaves_it_open_what_happened(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with opened(database_url) as pool:

        async def work(session: Session) -> None:
            ((pid,),) = await session.run("SELECT pg_backend_pid()")
            database_server.execute("SELECT pg_terminate_backend(%s)", pid)

        refused = await later(pool.transact(work))
        assert isinstance(refused, Refused)
        assert refused.details["outcome"] == "unknown"


@on_reactor
async def test_closing_refuses_those_who_wait_and_lets_the_others_finish(
    database_url: str, database_server: DatabaseServer
) -> None:
    pool = Pool(reactor, database_url, 1)
    early = await later(pool.query("SELECT 1"))
    assert isinstance(early, Refused)
    pool.open()
    await pool.query("SELECT 1")
    working = later(pool.query("SELECT pg_sleep(0.2), 7"))
    waiting = [later(pool.query("SELECT 1")) for _ in range(5)]
    pool.close()
    assert {(await answer).reason for answer in waiting} == {"service_unavailable"}
    assert (await working)[0][1] == 7
    late = await later(pool.query("SELECT 1"))
    assert isinstance(late, Refused)
    assert pool.usage == (0, 0, 0)
    await until(lambda: backends(database_server, database_url) == [])


@on_reactor
async def test_where_there_is_no_database_everyone_is_told_at_once(database_url: str) -> None:
    async with opened(database_url.replace("test_", "no_"), size=2) as pool:
        answers = [later(pool.query("SELECT 1")) for _ in range(50)]
        results = [await answer for answer in answers]
        assert {result.details["outcome"] for result in results} == {"not_done"}
        assert pool.usage == (0, 0, 0)


@on_reactor
async def test_a_session_tells_what_went_wrong(database_url: str) -> None:
    session = Session(reactor)
    await session.open(database_url, statement_timeout=100)
    with pytest.raises(StatementFailed) as slow:
        await session.run("SELECT pg_sleep(30)")
    assert (slow.value.sqlstate, slow.value.is_passing) == ("57014", True)
    for text in ("\0", "\ud800"):
        with pytest.raises(StatementFailed) as unwritable:
            await session.run("SELECT %s", (text,))
        assert (unwritable.value.sqlstate, unwritable.value.is_passing) == ("22021", False)
    with pytest.raises(StatementFailed) as unadaptable:
        await session.run("SELECT %s", (object(),))
    assert not unadaptable.value.is_passing
    assert await session.run("SELECT 5") == [(5,)]
    with pytest.raises(ConnectionLost):
        await session.run("SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(ConnectionLost):
        await session.run("SELECT 5")
    assert not session.is_open
    session.close()


@on_reactor
async def test_the_reactor_lets_go_of_a_dead_socket(database_url: str, database_server: DatabaseServer) -> None:
    """libpq closes a socket that it finds dead; one that the reactor still watched would never be watched again."""
    for _ in range(8):
        session = Session(reactor)
        await session.open(database_url)
        ((pid,),) = await session.run("SELECT pg_backend_pid()")
        database_server.execute("SELECT pg_terminate_backend(%s, 5000)", pid)
        with pytest.raises(ConnectionLost):
            await session.run("SELECT 1")  # before the reactor has seen that it is dead
        assert not session.is_open
        assert all(reader.fileno() >= 0 for reader in reactor.getReaders())


@on_reactor
async def test_a_server_that_does_not_answer_is_given_up(database_url: str) -> None:
    session = Session(reactor, deadline=0.2)
    await session.open(database_url)
    with pytest.raises(ConnectionLost):
        await session.run("SELECT pg_sleep(3)")
    assert not session.is_open

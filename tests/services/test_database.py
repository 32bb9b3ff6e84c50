"""The database as a child: a start that makes no headway can be given up."""

from __future__ import annotations

import socket
import threading
from contextlib import closing

import psycopg2
import pytest
from twisted.internet.defer import CancelledError, Deferred

from ledger.domain.errors import ConfigurationError
from ledger.services.database import Database
from ledger.store.migrations import LOCK_KEY
from tests.postgres.house import on_reactor, reactor, until


def migrating() -> list[threading.Thread]:
    """The threads that are at it."""
    return [thread for thread in threading.enumerate() if thread.name == "migrations"]


@on_reactor
async def test_a_silent_database_keeps_neither_the_start_nor_the_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        database = Database(f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d", reactor, 1)
        started = Deferred.fromCoroutine(database.start())
        await until(migrating)
        assert all(thread.daemon for thread in migrating())
        started.cancel()
        with pytest.raises(CancelledError):
            await started
        await database.stop()
    await until(lambda: not migrating())


@on_reactor
async def test_a_silent_database_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        database = Database(f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d?connect_timeout=2", reactor, 1)
        with pytest.raises(ConfigurationError, match=r"--database: .*timeout expired"):
            await database.start()
        await database.stop()


@on_reactor
async def test_stopping_ends_the_wait_for_the_migrations_of_another(empty_database_url: str) -> None:
    with closing(psycopg2.connect(empty_database_url)) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (LOCK_KEY,))
        database = Database(empty_database_url, reactor, 1)
        started = Deferred.fromCoroutine(database.start())
        await until(migrating)
        started.cancel()
        with pytest.raises(CancelledError):
            await started
        await database.stop()
        await until(lambda: not migrating())
        cursor.execute("SELECT to_regclass('users') IS NULL")
        assert cursor.fetchone() == (True,)

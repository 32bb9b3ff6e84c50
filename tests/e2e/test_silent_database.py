# mypy: disable-error-code="untyped-decorator"
"""A database that takes connections and never answers: before, while and after a server starts, a signal ends it."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred

from ledger.services.postgres_cluster import running_postgres
from tests.e2e.books import Books
from tests.e2e.client import Clients
from tests.e2e.server import Machine, postmaster_of, until

WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND position('_yoyo_migration' IN query) > 0"
PROMPTLY = 8.0  # on a loaded machine; alone it takes less than one


@contextmanager
def frozen(data_dir: Path) -> Iterator[None]:
    """Have a PostgreSQL fall silent for the length of the block: it is there, and does nothing."""
    postmaster = postmaster_of(data_dir)
    assert postmaster is not None
    parent = psutil.Process(postmaster.pid)
    family = [parent, *parent.children(recursive=True)]
    for process in family:
        with suppress(psutil.NoSuchProcess):  # a backend that came to its end meanwhile
            process.suspend()
    try:
        yield
    finally:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest_twisted.ensureDeferred
async def test_silent_from_the_start(machine: Machine, number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(0)
        server = machine.serve("--database", f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d")
        taken: list[socket.socket] = []

        def is_connected() -> bool:
            try:
                taken.append(silent.accept()[0])
            except BlockingIOError:
                return False
            return True

        await until(is_connected)
        server.send(number)
        assert await server.ended(PROMPTLY) == -number
        for connection in taken:
            connection.close()


@pytest_twisted.ensureDeferred
async def test_silent_while_the_migrations_run(machine: Machine) -> None:
    data_dir = machine.new_data_dir()
    with running_postgres(data_dir) as url:
        books = Books(url)
        with books.session(transaction=True) as cursor:
            cursor.execute('LOCK TABLE "_yoyo_migration" IN ACCESS EXCLUSIVE MODE')
            server = machine.serve("--database", url)
            await until(lambda: books.rows(WAITING))
            with frozen(data_dir):
                server.send(signal.SIGTERM)
                assert await server.ended(PROMPTLY) == -signal.SIGTERM


@pytest_twisted.ensureDeferred
async def test_silent_after_the_start(machine: Machine, clients: Clients) -> None:
    data_dir = machine.new_data_dir()
    with running_postgres(data_dir) as url:
        server = await machine.serve("--database", url).ready()
        api = clients(server)
        with frozen(data_dir):
            assert (await api.ask("GET", "/api/health/live")).status == 200
            server.send(signal.SIGTERM)
            assert await server.ended(PROMPTLY) == -signal.SIGTERM


@pytest_twisted.ensureDeferred
async def test_silent_after_the_start_with_a_question_unanswered(machine: Machine, clients: Clients) -> None:
    data_dir = machine.new_data_dir()
    with running_postgres(data_dir) as url:
        server = await machine.serve("--database", url).ready()
        api = clients(server)
        with frozen(data_dir):
            unanswered = ensureDeferred(api.ask("GET", "/balance", token="anybody"))
            unanswered.addErrback(lambda _: None)  # cut at the end of the drain
            await until(lambda: server.connections)
            assert (await api.ask("GET", "/api/health/live")).status == 200
            server.send(signal.SIGTERM)
            assert await server.ended(8 + PROMPTLY) == -signal.SIGTERM
        await unanswered

# mypy: disable-error-code="untyped-decorator"
"""The database dies in every way, under load: nothing acknowledged is lost, nothing is done twice, nobody hangs."""

from __future__ import annotations

import os
import resource
import signal
from contextlib import suppress

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.threads import deferToThread

from ledger.services.postgres_layout import Layout
from tests.e2e.books import Books
from tests.e2e.client import ALL, Clients, Follower, Load, Operation, StreamFollower
from tests.e2e.server import Machine, pause, postmaster_of, until
from tests.postgres.cluster import DatabaseServer

# Waits, in its COMMIT, for whoever holds this lock.
SLOW_COMMIT = """
CREATE FUNCTION wait_a_little() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON journal DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION wait_a_little();
"""


@pytest_twisted.ensureDeferred
async def test_every_backend_is_terminated_while_idle(machine: Machine, books: Books, clients: Clients) -> None:
    server = await machine.serve("--database", books.url).ready()
    api = clients(server)
    (customer,) = books.seed(1)
    load = Load([api], [customer], clients=1)
    assert (await api.move("credit", customer, "1.00")).status == 201
    assert books.terminate() >= 3  # writer, listener, pool
    deadline = 100
    while (reply := await api.move("credit", customer, "1.00")).status != 201:
        assert reply.outcome == "not_done"
        deadline -= 1
        assert deadline
        await pause(0.05)
    assert (await api.ask("GET", "/balance", token=customer.token)).data["balance"] == "2.00"
    await until(lambda: books.terminate() >= 3)
    assert (await api.ask("GET", "/api/health/live")).status == 200
    await api.until_ready()
    load.start()
    await load.more("done", 5)
    await load.stop()
    load.check(books)
    await machine.verify("--database", books.url)
    await server.stop()


@pytest.mark.parametrize("stage", ["waiting for its turn", "writing", "in COMMIT, undone", "in COMMIT, done"])
@pytest_twisted.ensureDeferred
async def test_the_writers_backend_is_terminated(
    machine: Machine, books: Books, clients: Clients, database_server: DatabaseServer, stage: str
) -> None:
    server = await machine.serve("--database", books.url).ready()
    api = clients(server)
    load = Load([api], books.seed(20)).start()
    await load.more("done", 50)
    if stage == "waiting for its turn":
        with books.lock_held():
            books.terminate(await books.stuck("pg_advisory_xact_lock"))
    elif stage == "writing":
        with books.session(transaction=True) as cursor:
            cursor.execute("LOCK TABLE accounts IN SHARE MODE")
            books.terminate(await books.stuck("append_records"))
    elif stage == "in COMMIT, undone":
        await load.stop()
        books.rows(SLOW_COMMIT)
        with books.session(transaction=True) as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(42)")
            load = load.again()
            books.terminate(await books.stuck("append_records"))
    else:
        database_server.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        try:
            database_server.execute("SELECT pg_reload_conf()")
            books.terminate(await books.stuck("append_records", "SyncRep"))
        finally:
            database_server.execute("ALTER SYSTEM RESET synchronous_standby_names")
            database_server.execute("SELECT pg_reload_conf()")
    await load.more("done", 50)
    await load.stop()
    assert load.counts["unknown"] == 0
    assert "died in a commit" in server.log or stage == "waiting for its turn"
    await load.settle(books, api)
    await machine.verify("--database", books.url)
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_the_embedded_postgresql_is_killed(machine: Machine, clients: Clients) -> None:
    machine.expects_trouble = True
    data_dir = machine.new_data_dir()
    server = await machine.serve("--data-dir", str(data_dir)).ready()
    books, api = Books(Layout(data_dir).url()), clients(server)
    admin = await api.admin(books)
    followers = [Follower(ALL, token=admin), StreamFollower(ALL, token=admin)]
    for follower in followers:
        await follower.connect(server)
    load = Load([api], books.seed(20)).start()
    await load.more("done", 100)
    killed = postmaster_of(data_dir)
    assert killed is not None
    os.kill(killed.pid, signal.SIGKILL)
    await load.more("not done", 1)
    await load.more("done", 100)
    await load.stop()
    found = postmaster_of(data_dir)
    assert found is not None
    assert found.pid != killed.pid
    await load.settle(books, api)
    assert (await api.services(admin))["postgres"]["restarts"] == 1
    for follower in followers:  # they were never disconnected
        await follower.reach(books.head())
        await follower.cut()
        follower.check(range(1, books.head() + 1))
    await machine.verify("--data-dir", str(data_dir))
    await server.stop()
    assert postmaster_of(data_dir) is None


@pytest_twisted.ensureDeferred
async def test_an_external_postgresql_is_restarted(
    machine: Machine, books: Books, clients: Clients, database_server: DatabaseServer
) -> None:
    server = await machine.serve("--database", books.url).ready()
    api = clients(server)
    load = Load([api], books.seed(20)).start()
    await load.more("done", 50)
    await deferToThread(database_server.cluster.release)
    try:
        await load.more("not done", 1)
        assert (await api.ask("GET", "/api/health/live")).status == 200
        assert (await api.ask("GET", "/api/health/ready")).status == 503
    finally:
        await deferToThread(database_server.cluster.acquire)
    await load.more("done", 50)
    await load.stop()
    await load.settle(books, api)
    await api.until_ready()
    await machine.verify("--database", books.url)
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_it_dies_with_a_thousand_requests_queued(machine: Machine, clients: Clients) -> None:
    machine.expects_trouble = True
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    data_dir = machine.new_data_dir()
    listen = "tcp:0:interface=127.0.0.1:backlog=2000"
    server = await machine.twistd(
        "ledger", "--listen", listen, "--rate-limit", "0", "--data-dir", str(data_dir)
    ).ready()
    books, api = Books(Layout(data_dir).url()), clients(server, 1_000)
    customers = books.seed(50)
    load = Load([api], customers)
    load.operations = [Operation(customers[number % 50], "credit", 100) for number in range(1_000)]
    postmaster = postmaster_of(data_dir)
    assert postmaster is not None
    with books.lock_held():
        answers = gatherResults([ensureDeferred(one.attempt(api)) for one in load.operations])
        backend = await books.stuck("pg_advisory_xact_lock")
        await until(lambda: server.connections >= 1_000)
        probe = clients(server)
        for _ in range(5):
            assert (await probe.ask("GET", "/api/health/live")).status == 200
            await pause(0.1)
        assert load.counts == {"unknown": 1_000}
        everyone = [postmaster.pid, *(child.pid for child in postmaster.process.children())]
        # The one that waits for the lock goes first: it would get it from its dying holder.
        for pid in sorted(everyone, key=lambda pid: pid != backend):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await answers
    assert load.counts == {"not done": 1_000}
    await probe.until_ready()
    await load.settle(books, probe)
    await machine.verify("--data-dir", str(data_dir))
    await server.stop()

# mypy: disable-error-code="untyped-decorator"
"""Two server processes on one database: one journal, one order, and each sees what the other commits."""

from __future__ import annotations

import signal

import pytest_twisted

from tests.e2e.books import Books
from tests.e2e.client import ALL, Clients, Follower, Load, Operation, StreamFollower
from tests.e2e.server import Machine, pause, until

TAKES_OVER_WITHIN = 20.0


@pytest_twisted.ensureDeferred
async def test_totals_are_exact_and_each_sees_the_others_commits(
    machine: Machine, books: Books, clients: Clients
) -> None:
    starting = [machine.serve("--database", books.url) for _ in range(2)]
    servers = [await server.ready() for server in starting]
    apis = [clients(server) for server in servers]
    customers, admin = books.seed(20), await apis[0].admin(books)
    followers = [kind(ALL, token=admin) for kind in (Follower, StreamFollower) for _ in servers]
    for follower, server in zip(followers, servers * 2, strict=True):
        await follower.connect(server)
    # The same accounts through both doors at once.
    load = Load(apis, customers, clients=32).start()
    await load.more("done", 600)
    await load.stop()
    assert load.counts.keys() <= {"done", "refused"}
    await load.settle(books, apis[0])
    head = books.head()
    assert head == load.counts["done"]
    for follower in followers:
        await follower.reach(head)
        await follower.cut()
        follower.check(range(1, head + 1))
    await machine.verify("--database", books.url)
    for server in servers:
        await server.stop()


@pytest_twisted.ensureDeferred
async def test_one_key_through_both_doors_books_once(machine: Machine, books: Books, clients: Clients) -> None:
    starting = [machine.serve("--database", books.url) for _ in range(2)]
    apis = [clients(await server.ready()) for server in starting]
    (customer,) = books.seed(1)
    loads = [Load([api], [customer], clients=0) for api in apis]
    for number in range(20):
        with books.lock_held():
            asked = [load.ask(Operation(customer, "credit", 100, f"key-{number}")) for load in loads]
            await until(lambda: len(books.waiting("pg_advisory_xact_lock")) == 2)
        for answer in asked:
            await answer
    for one, other in zip(loads[0].operations, loads[1].operations, strict=True):
        assert (one.known, other.known) == ("done", "done")
        assert one.transfer_id == other.transfer_id
        assert one.was_replayed != other.was_replayed
    assert books.head() == 20
    assert books.balances()[customer.account_id] == 2_000
    await machine.verify("--database", books.url)
    for server in starting:
        await server.stop()


@pytest_twisted.ensureDeferred
async def test_one_is_frozen_in_the_middle_of_a_batch(machine: Machine, books: Books, clients: Clients) -> None:
    starting = [machine.serve("--database", books.url) for _ in range(2)]
    frozen, other = [await server.ready() for server in starting]
    customers = books.seed(20)
    loads = [Load([clients(server)], customers, clients=8) for server in (frozen, other)]
    with books.lock_held():
        loads[0].start()
        backend = await books.stuck("pg_advisory_xact_lock")
        await pause(0.2)
        frozen.send(signal.SIGSTOP)
        loads[1].start()
        await until(lambda: len(books.waiting("pg_advisory_xact_lock")) == 2)
    # The frozen one is first in line for the lock, and gets it.
    await until(lambda: (backend,) in books.rows("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"))
    assert loads[1].counts["done"] == 0
    await loads[1].more("done", 50, TAKES_OVER_WITHIN)
    frozen.send(signal.SIGCONT)
    await loads[0].more("done", 50)
    for load in loads:
        await load.stop()
    assert [load.counts["unknown"] for load in loads] == [0, 0]
    both = Load([], customers)
    both.operations = loads[0].operations + loads[1].operations
    await both.settle(books, clients(other))
    await machine.verify("--database", books.url)
    for server in starting:
        await server.stop()

# mypy: disable-error-code="untyped-decorator"
"""Clients hang up, the server is killed or told to stop, all under load: what was accepted is done once, and told."""

from __future__ import annotations

import json
import signal
import socket
import struct
import time

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults

from ledger.services.postgres_layout import Layout
from tests.e2e.books import Books
from tests.e2e.client import Clients, Load, Operation
from tests.e2e.server import Machine, pause, postmaster_of, until

STOPS_WITHIN = 15.0


@pytest_twisted.ensureDeferred
async def test_clients_hang_up_before_the_answer(machine: Machine, books: Books, clients: Clients) -> None:
    server = await machine.serve("--database", books.url).ready()
    api = clients(server)
    customers = books.seed(20)
    load = Load([api], customers)
    load.operations = [Operation(customer, "credit", 100) for customer in customers]
    with books.lock_held():
        for operation in load.operations:
            body = json.dumps({"user_id": operation.customer.user_id, "amount": "1.00"})
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.sendall(
                    f"POST /credit HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {operation.customer.token}\r\n"
                    f"Idempotency-Key: {operation.key}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
                )
                if load.operations.index(operation) % 2:  # half of them leave with a reset
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await until(lambda: books.waiting("pg_advisory_xact_lock"))
                assert (await api.ask("GET", "/api/health/live")).status == 200
        await pause(0.1)
        assert books.head() == 0
    await until(lambda: books.head() == 20)
    await load.settle(books, api)
    assert all(operation.was_replayed for operation in load.operations)
    assert set(books.balances().values()) == {100}
    await machine.verify("--database", books.url)
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_the_server_is_killed_and_started_again(machine: Machine, clients: Clients) -> None:
    data_dir = machine.new_data_dir()
    server = await machine.serve("--data-dir", str(data_dir)).ready()
    books, api = Books(Layout(data_dir).url()), clients(server)
    load = Load([api], books.seed(20)).start()
    await load.more("done", 100)
    orphan = postmaster_of(data_dir)
    server.send(signal.SIGKILL)
    assert await server.ended() == -signal.SIGKILL
    assert postmaster_of(data_dir) == orphan
    again = await machine.serve("--data-dir", str(data_dir), port=server.port).ready()
    await load.more("done", 100)
    await load.stop()
    assert postmaster_of(data_dir) == orphan
    await load.settle(books, api)
    await machine.verify("--data-dir", str(data_dir))
    await again.stop()
    assert postmaster_of(data_dir) is None


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT to the group", "SIGINT again and again"])
@pytest_twisted.ensureDeferred
async def test_told_to_stop_it_answers_all_that_it_took(machine: Machine, clients: Clients, how: str) -> None:
    data_dir = machine.new_data_dir()
    server = await machine.serve("--data-dir", str(data_dir)).ready()
    books, api = Books(Layout(data_dir).url()), clients(server)
    load = Load([api], books.seed(20), clients=32).start()
    await load.more("done", 200)
    began = time.monotonic()
    if how == "SIGTERM":
        server.send(signal.SIGTERM)
    else:
        server.send_group(signal.SIGINT)
    if how == "SIGINT again and again":
        for _ in range(3):
            await pause(0.01)
            if server.process.poll() is None:
                server.send_group(signal.SIGINT)
    assert await server.ended() == -(signal.SIGTERM if how == "SIGTERM" else signal.SIGINT), server.tail()
    assert time.monotonic() - began < STOPS_WITHIN
    await load.stop()
    assert postmaster_of(data_dir) is None
    again = await machine.serve("--data-dir", str(data_dir), port=server.port).ready()
    keys = books.keys()
    assert not [one for one in load.operations if one.known == "unknown" and one.key in keys]
    await load.settle(books, api)
    await machine.verify("--data-dir", str(data_dir))
    await again.stop()


@pytest_twisted.ensureDeferred
async def test_told_to_stop_it_waits_for_what_is_under_way(machine: Machine, books: Books, clients: Clients) -> None:
    server = await machine.serve("--database", books.url).ready()
    api = clients(server)
    customers = books.seed(40)
    load = Load([api], customers)
    load.operations = [Operation(customer, "credit", 100) for customer in customers]
    with books.lock_held():
        answers = gatherResults([ensureDeferred(operation.attempt(api)) for operation in load.operations])
        await books.stuck("pg_advisory_xact_lock")
        await pause(0.5)
        server.send(signal.SIGTERM)
        await until(lambda: "shutting down" in server.log)
        await pause(0.5)
        assert server.process.poll() is None
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))
    await answers
    assert load.counts == {"done": 40}
    assert await server.ended(STOPS_WITHIN) == -signal.SIGTERM
    load.check(books)
    await machine.verify("--database", books.url)


@pytest_twisted.ensureDeferred
async def test_the_first_of_two_on_a_data_directory_is_stopped(machine: Machine, clients: Clients) -> None:
    data_dir = machine.new_data_dir()
    first = await machine.serve("--data-dir", str(data_dir)).ready()
    second = await machine.serve("--data-dir", str(data_dir)).ready()
    books = Books(Layout(data_dir).url())
    postmaster = postmaster_of(data_dir)
    assert postmaster is not None
    customers = books.seed(20)
    loads = [Load([clients(server)], customers, clients=8).start() for server in (first, second)]
    for load in loads:
        await load.more("done", 50)
    await first.stop()
    await loads[0].stop()
    await loads[1].more("done", 100)
    await loads[1].stop()
    assert postmaster_of(data_dir) == postmaster
    assert loads[1].counts.keys() <= {"done", "refused"}
    api = clients(second)
    both = Load([api], customers)
    both.operations = loads[0].operations + loads[1].operations
    await both.settle(books, api)
    await machine.verify("--data-dir", str(data_dir))
    await second.stop()
    assert not postmaster.alive()

# mypy: disable-error-code="untyped-decorator"
"""Long statements over real sockets: whole, no faster than they are read, and cut off where they cannot be whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from tests.e2e.books import Books, Customer
from tests.e2e.client import Clients
from tests.e2e.server import Machine, Server, pause, until
from tests.postgres.cluster import DatabaseServer
from tests.pubsub.server import Reader

reactor: Any = _reactor
_Endpoint: Any = TCP4ClientEndpoint

_Failure: Any = Failure
_DONE: Any = _Failure(ConnectionDone())

TEXT = "=" * 100
LINES = 60_000  # far more than all buffers on the way hold
MIB = 1 << 20


def fill(books: Books, server: DatabaseServer) -> Customer:
    """A customer with many transactions."""
    (customer,) = books.seed(1)
    server.execute(
        f"""SET session_replication_role = replica;
            INSERT INTO journal (seq, id, kind, posted_at, effective_at, body, hash)
            SELECT n, gen_random_uuid(), 'topup', at, at,
                   '{{"v":1,"seq":' || n || ',"id":"","kind":"","posted_at":"","description":"{TEXT}"}}', sha256('')
            FROM (SELECT n, now() + n * interval '1 microsecond' - interval '1 hour' AS at
                  FROM generate_series(1, {LINES}) AS n) AS record;
            INSERT INTO transactions (id, account_id, seq, amount, type, balance, held, version, "timestamp")
            SELECT gen_random_uuid(), '{customer.account_id}', seq, 1, 'credit', seq, 0, seq, posted_at FROM journal;
            ANALYZE""",
        database=urlsplit(books.url).path[1:],
    )
    return customer


class Listener(Reader):
    """A client that knows how its connection was lost."""

    ended_well = False

    def connectionLost(self, reason: Failure = _DONE) -> None:
        self.ended_well = isinstance(reason.value, ConnectionDone)
        super().connectionLost(reason)


async def begin(server: Server, customer: Customer, query: str = "", version: str = "1.1") -> Listener:
    """Ask for the statement, from before its first line on."""
    reader: Listener = await _Endpoint(reactor, "127.0.0.1", server.port).connect(Factory.forProtocol(Listener))
    path = f"/api/accounts/{customer.account_id}/statement?from=2020-01-01T00:00:00Z{query}"
    head = f"GET {path} HTTP/{version}\r\nHost: localhost\r\nAuthorization: Bearer {customer.token}\r\n\r\n"
    reader.transport.write(head.encode())
    await until(lambda: b"\r\n\r\n" in reader.received)
    return reader


async def lost(reader: Listener) -> None:
    """Return when a client's connection is lost."""
    await until(lambda: reader.lost)


async def close(reader: Listener) -> None:
    """Close a client's connection."""
    reader.transport.loseConnection()
    await lost(reader)


READING = "t.version, t.id::text, j.id::text"  # stands in every statement that reads a slice


@contextmanager
def closed(books: Books) -> Iterator[None]:
    """Have whoever asks for a slice wait for the length of the block."""
    with books.session(transaction=True) as cursor:
        cursor.execute("LOCK TABLE transactions IN ACCESS EXCLUSIVE MODE")
        yield


async def stalled(books: Books) -> None:
    """Return once no slice is asked for any more."""
    deadline = reactor.seconds() + 30
    while True:
        assert reactor.seconds() < deadline, "it goes on"
        with closed(books):
            if not await is_asked_for(books):
                return


async def is_asked_for(books: Books) -> bool:
    """Whether somebody waits for a slice, or begins to within a moment."""
    for _ in range(10):
        if books.waiting(READING):
            return True
        await pause(0.05)
    return False


@contextmanager
def away(books: Books, server: DatabaseServer) -> Iterator[None]:
    """Have the database let nobody in for the length of the block."""
    name = urlsplit(books.url).path[1:]
    server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    try:
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", name)
        yield
    finally:
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@pytest_twisted.ensureDeferred
async def test_a_long_statement_comes_whole_in_little_memory(
    machine: Machine, books: Books, clients: Clients, database_server: DatabaseServer
) -> None:
    customer = fill(books, database_server)
    server = await machine.serve("--database", books.url).ready()
    api = clients(server)
    process = psutil.Process(server.process.pid)
    warm = await begin(server, customer, "&to=2020-01-02T00:00:00Z")
    before = most = process.memory_info().rss
    reader = await begin(server, customer)
    while not reader.received.endswith(b"0\r\n\r\n"):
        assert not reader.lost
        most = max(most, process.memory_info().rss)
        balance = await api.ask("GET", "/balance", token=customer.token)  # others are served meanwhile
        assert balance.status == 200
        await pause(0.02)
    assert len(reader.received) > 20 * MIB
    assert most - before < 15 * MIB, f"{(most - before) / MIB:.1f} MiB more"
    told = json.loads(reader.body)["data"]
    assert [line["balance"] for line in told["lines"]] == [f"{n // 100}.{n % 100:02}" for n in range(1, LINES + 1)]
    assert told["closing_balance"] == told["lines"][-1]["balance"] == "600.00"
    await close(warm)
    await close(reader)
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_a_client_that_hangs_up_ends_the_reading(
    machine: Machine, books: Books, database_server: DatabaseServer
) -> None:
    customer = fill(books, database_server)
    server = await machine.serve("--database", books.url).ready()
    reader = await begin(server, customer)
    reader.transport.pauseProducing()
    await stalled(books)
    with closed(books):
        reader.transport.resumeProducing()
        await until(lambda: books.waiting(READING))
        reader.transport.abortConnection()
        await until(lambda: reader.lost and server.connections == 0)
    with closed(books):
        assert not await is_asked_for(books)
    other = await begin(server, customer, "&format=csv&to=2020-01-02T00:00:00Z")
    await until(lambda: other.received.endswith(b"0\r\n\r\n"))
    assert other.body.count(b"\r\n") == 1
    await close(other)
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_a_database_that_dies_midway_cuts_the_connection(
    machine: Machine, books: Books, clients: Clients, database_server: DatabaseServer
) -> None:
    customer = fill(books, database_server)
    server = await machine.serve("--database", books.url).ready()
    api = clients(server)
    for query, version in (("", "1.1"), ("&format=csv", "1.1"), ("&format=csv", "1.0")):
        reader = await begin(server, customer, query, version)
        reader.transport.pauseProducing()
        await stalled(books)  # though it has not come to the end, as will be seen
        with away(books, database_server):
            reader.transport.resumeProducing()
            await lost(reader)
        assert not reader.received.endswith(b"0\r\n\r\n")
        assert not reader.ended_well  # nor does a client without chunks take this for the end
        await api.until_ready()
        assert (await api.ask("GET", "/balance", token=customer.token)).status == 200
    await server.stop()

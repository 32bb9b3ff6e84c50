# mypy: disable-error-code="untyped-decorator"
"""Live updates over real sockets: exactly once and in order, over disconnects, restarts, and readers that are slow."""

from __future__ import annotations

import signal
import time

import pytest_twisted

from tests.e2e.books import Books
from tests.e2e.client import ALL, Clients, Follower, Load, StreamFollower, websocket
from tests.e2e.server import Machine, until

RING = 10_000  # records that the server keeps in memory


@pytest_twisted.ensureDeferred
async def test_forced_disconnects_under_load(machine: Machine, books: Books, clients: Clients) -> None:
    server = await machine.serve("--database", books.url).ready()
    api = clients(server)
    customers, admin = books.seed(10), await api.admin(books)
    everything = [kind(ALL, token=admin) for kind in (Follower, StreamFollower) for _ in range(3)]
    own = [
        kind(topic, token=one.token)
        for one in customers[:3]
        for kind, topic in ((Follower, f"accounts:{one.account_id}"), (StreamFollower, f"users:{one.user_id}"))
    ]
    for follower in everything + own:
        await follower.connect(server)
    load = Load([api], customers).start()
    for _ in range(4):
        await load.more("done", 60)
        for follower in everything + own:
            await follower.cut()
        await load.more("done", 20)
        for follower in everything + own:
            await follower.connect(server)
    await load.stop()
    head = books.head()
    for follower in everything:
        await follower.reach(head)
        await follower.cut()
        follower.check(range(1, head + 1))
    for customer, *pair in zip(customers, own[::2], own[1::2], strict=False):
        rows = books.rows("SELECT seq FROM transactions WHERE account_id = %s ORDER BY seq", customer.account_id)
        seqs = [row[0] for row in rows]
        assert len(seqs) > 10
        for follower in pair:
            await follower.reach(seqs[-1])
            await follower.cut()
            follower.check(seqs)
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_the_server_is_killed_and_started_again(machine: Machine, books: Books, clients: Clients) -> None:
    server = await machine.serve("--database", books.url).ready()
    api = clients(server)
    customers, admin = books.seed(10), await api.admin(books)
    followers = [Follower(ALL, token=admin), StreamFollower(ALL, token=admin)]
    for follower in followers:
        await follower.connect(server)
    await books.fill(customers, 3_000)  # more than the next life keeps in memory at its start
    for follower in followers[:1]:
        await follower.reach(3_000)
    load = Load([api], customers).start()
    await load.more("done", 50)
    server.send(signal.SIGKILL)
    await server.ended()
    for follower in followers:
        await follower.lost()
    again = await machine.serve("--database", books.url, port=server.port).ready()
    late = Follower(ALL, token=admin)
    for follower in (*followers, late):
        await follower.connect(again)
    await load.more("done", 50)
    await load.stop()
    head = books.head()
    for follower in (*followers, late):
        await follower.reach(head)
        await follower.cut()
        follower.check(range(1, head + 1))
    await again.stop()


@pytest_twisted.ensureDeferred
async def test_a_slow_subscriber_is_closed_and_comes_back(machine: Machine, books: Books, clients: Clients) -> None:
    server = await machine.serve("--database", books.url).ready()
    customers, admin = books.seed(10), await clients(server).admin(books)
    slow, quick = Follower(ALL, token=admin), Follower(ALL, token=admin)
    client = await slow.connect(server, small=True)
    await books.fill(customers, 10)
    await slow.reach(10)
    client.transport.pauseProducing()
    await quick.connect(server)
    total = 10 + 3 * RING  # the kernel's buffers hold some thousands too
    await books.fill(customers, total - 10)
    await quick.reach(total)
    client.transport.resumeProducing()
    assert await slow.lost() == 4408
    assert 10 < len(slow.seen) < total - RING
    await slow.connect(server)
    await slow.reach(total)
    for follower in (slow, quick):
        await follower.cut()
        follower.check(range(1, total + 1))
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_whoever_may_not_stay_is_closed(machine: Machine, books: Books) -> None:
    server = await machine.serve("--database", books.url).ready()
    began = time.monotonic()
    nobody = await websocket(server)
    customer, other = books.seed(2)
    topic = f"accounts:{customer.account_id}"
    followers = [Follower(topic, token=customer.token), StreamFollower(topic, token=customer.token)]
    bystander = Follower(f"accounts:{other.account_id}", token=other.token)
    for follower in (*followers, bystander):
        await follower.connect(server)
    await books.fill([customer, other], 2)
    for follower in followers:
        await follower.reach(1)
    books.revoke(customer)
    revoked = time.monotonic()
    assert [await follower.lost() for follower in followers] == [4401, 4401]
    assert time.monotonic() < revoked + 3.0
    await bystander.reach(2)
    await bystander.cut()
    refused = await websocket(server, customer.token)
    assert await refused.closed() == 4401
    assert await nobody.closed() == 4401
    assert time.monotonic() > began + 4.5
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_a_server_that_stops_says_so(machine: Machine, books: Books, clients: Clients) -> None:
    server = await machine.serve("--database", books.url).ready()
    customers, admin = books.seed(2), await clients(server).admin(books)
    followers = [Follower(ALL, token=admin), StreamFollower(ALL, token=admin)]
    for follower in followers:
        await follower.connect(server)
    await books.fill(customers, 100)
    for follower in followers:
        await follower.reach(100)
    stuck = Follower(ALL, token=admin)
    client = await stuck.connect(server, small=True)
    client.transport.pauseProducing()  # it will not answer
    server.send(signal.SIGTERM)
    assert [await follower.lost() for follower in followers] == [4503, 4503]
    assert await server.ended(20) == -signal.SIGTERM
    client.transport.resumeProducing()
    await until(lambda: client.lost)
    for follower in followers:
        follower.check(range(1, 101))

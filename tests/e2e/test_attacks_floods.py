# mypy: disable-error-code="untyped-decorator"
"""Attacks by number: guesses at passwords, failures that would fill the audit log, logins that would slow payments."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from tests.e2e.attack import PASSWORD, Told, request, scene, sent
from tests.e2e.books import Books, Customer
from tests.e2e.client import Api, Clients
from tests.e2e.server import Machine, Server, until

reactor: Any = _reactor

HOME = "198.51.100.7"
GUESS = "not the password"
LOGINS = 200
CREDITS = 300
ROUNDS = 3  # the best of them counts: this machine has other things to do
PATIENCE = 0.1
TIMES = 5


def login(email: str, password: str, address: str) -> bytes:
    """A request to log in, as a proxy hands it on."""
    body = json.dumps({"email": email, "password": password}).encode()
    return request("POST", "/api/auth/login", body, f"X-Forwarded-For: {address}")


async def all_of(server: Server, requests: Iterable[bytes]) -> list[Told]:
    """Ask for one thing after the other."""
    asked = list(requests)
    return await sent(server, b"".join(asked), len(asked))


def wait_of(answer: Told) -> int:
    """How long the client of a refused login is to wait."""
    assert (answer.status, answer.reason) == (429, "rate_limit_exceeded")
    wait = int(answer.error["details"]["retry_after"])
    assert answer.all("Retry-After") == [str(wait)]
    return wait


@pytest_twisted.ensureDeferred
async def test_guessing_is_limited_and_locks_nobody_out(machine: Machine, books: Books, clients: Clients) -> None:
    options = ("--rate-limit", "10000/60", "--trusted-proxy", "127.0.0.1")
    stage = await scene(machine, books, clients, *options)
    ada, bob, server = stage.ada, stage.bob, stage.server
    (home,) = await sent(server, login(ada.email, PASSWORD, HOME))
    assert home.status == 200

    # Many places, one user: the e-mail address is limited, however it is written and wherever one comes from.
    emails = (ada.email, ada.email.upper(), f" {ada.email} ")
    guesses = [login(emails[number % 3], GUESS, f"203.0.113.{number}") for number in range(14)]
    told = await all_of(server, guesses)
    assert [answer.status for answer in told] == [401] * 10 + [429] * 4
    begun = time.monotonic()
    first = wait_of(told[10])
    assert 0 < first <= 60
    (right,) = await sent(server, login(ada.email, PASSWORD, "203.0.113.99"))
    assert wait_of(right) <= first  # nor does the right password tell that it is right
    (known,) = await sent(server, login(ada.email, PASSWORD, HOME))
    assert known.status == 200
    me = await stage.api.ask("GET", "/api/auth/me", token=json.loads(known.body)["data"]["access_token"])
    assert me.data["email"] == ada.email
    assert (await stage.api.ask("GET", "/balance", token=ada.account_token)).status == 200

    # One place, many users: the place is limited, and nobody elsewhere is.
    told = await all_of(server, [login(f"{number}@example.com", GUESS, "192.0.2.1") for number in range(33)])
    assert [answer.status for answer in told] == [401] * 30 + [429] * 3
    assert 0 < wait_of(told[30]) <= 60
    (other,) = await sent(server, login(bob.email, PASSWORD, "192.0.2.2"))
    assert other.status == 200

    # What is refused does not prolong the wait: nobody is locked out by guesses that go on.
    further = await all_of(server, [login(ada.email, GUESS, f"203.0.113.{number}") for number in range(100, 200)])
    passed = time.monotonic() - begun
    waits = [wait_of(answer) for answer in further if answer.status == 429]
    assert len(waits) >= 90 or passed > first - 5
    assert all(wait <= first for wait in waits)
    assert passed > first - 5 or waits[-1] <= first - passed + 2
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_failures_do_not_fill_the_audit_log(machine: Machine, books: Books, clients: Clients) -> None:
    stage = await scene(machine, books, clients, "--rate-limit", "100/60", "--trusted-proxy", "127.0.0.1")
    server, many = stage.server, 3_000
    places = [f"X-Forwarded-For: 2001:db8:{number:x}::1" for number in range(many)]
    body = json.dumps({"refresh_token": "a.b.c"}).encode()
    nobody = (request("GET", "/api/auth/me", b"", place, token="nobody") for place in places)
    refresh = (request("POST", "/api/auth/refresh", body, place) for place in places[:500])
    same = (request("GET", f"/api/{number}?{'x' * 200}", b"", places[0], token="nobody") for number in range(500))
    begun = time.monotonic()
    told = await all_of(server, [*nobody, *refresh, *same])
    assert {answer.status for answer in told} == {401, 404, 429}
    failed = sum(answer.status != 404 for answer in told)
    # What an admin does is told all the same, and apart from them.
    changed = await stage.api.ask("PUT", f"/api/users/{stage.bob.user_id}", {"full_name": "Robert"}, stage.admin)
    assert changed.status == 200

    def counted() -> int:
        return int(books.rows("SELECT coalesce(sum(count), 0) FROM audit_log WHERE event <> 'admin_action'")[0][0])

    await until(lambda: counted() >= failed, 30, lambda: f"{counted()} of {failed}")
    assert counted() == failed
    minutes = 1 + int((time.monotonic() - begun) // 60) + 1
    ((rows, longest),) = books.rows("SELECT count(*), max(octet_length(audit_log::text)) FROM audit_log")
    assert rows <= minutes * 1_100
    assert longest < 2_000
    told_of = "SELECT 1 FROM audit_log WHERE event = 'admin_action'"
    await until(lambda: books.rows(told_of), 30)
    lines = (await stage.api.ask("GET", "/api/audit?event=admin_action", token=stage.admin)).data
    assert [line["endpoint"] for line in lines] == ["PUT /api/users/<id>"]
    await server.stop()


async def credit_all(api: Api, customer: Customer, latencies: list[float]) -> None:
    """Credit one after the other, and take note of how long each took."""
    for _ in range(CREDITS // 4):
        begun = time.monotonic()
        reply = await api.move("credit", customer, "0.01")
        latencies.append(time.monotonic() - begun)
        assert reply.status == 201, reply.json


async def slowest(api: Api, customers: list[Customer]) -> float:
    """The 99th percentile of the latencies of some hundred credits, four at a time."""
    latencies: list[float] = []
    await gatherResults([Deferred.fromCoroutine(credit_all(api, one, latencies)) for one in customers])
    return sorted(latencies)[int(len(latencies) * 0.99)]


class Raider(Protocol):
    """A client that logs in without end, and waits for a second, as it is told to, where it is refused."""

    transport: Any

    def __init__(self, number: int, statuses: list[bytes]) -> None:
        body = json.dumps({"email": f"{number}@example.com", "password": GUESS}).encode()
        self._request = request("POST", "/api/auth/login", body)
        self._statuses = statuses
        self._delay = number / LOGINS
        self._next: Any = None
        self.lost = False

    def connectionMade(self) -> None:
        self._next = reactor.callLater(self._delay, self._ask)

    def dataReceived(self, data: bytes) -> None:
        status = data[9:12]
        self._statuses.append(status)
        assert status == b"401" or (status == b"503" and b"\r\nRetry-After: 1\r\n" in data), data
        self._next = reactor.callLater(1 if status == b"503" else 0, self._ask)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # type: ignore[no-untyped-call] # noqa: ARG002, B008
        self.lost = True

    def stop(self) -> None:
        """Hang up, whatever is under way."""
        if self._next is not None:
            self._next.cancel()
        self.transport.abortConnection()

    def _ask(self) -> None:
        self._next = None
        self.transport.write(self._request)


class Flood:
    """Two hundred of them, made of little more than bytes: what they cost this process is not to be measured."""

    def __init__(self) -> None:
        self.statuses: list[bytes] = []
        self._raiders: list[Raider] = []

    async def start(self, server: Server) -> None:
        """Return when some are let in, and more are refused."""
        for number in range(LOGINS):
            endpoint: Any = TCP4ClientEndpoint(reactor, "127.0.0.1", server.port)
            self._raiders.append(await endpoint.connect(Factory.forProtocol(partial(Raider, number, self.statuses))))
        await until(lambda: b"401" in self.statuses and self.statuses.count(b"503") >= LOGINS)

    async def stop(self) -> None:
        """End it."""
        for raider in self._raiders:
            raider.stop()
        await until(lambda: all(raider.lost for raider in self._raiders))


@pytest_twisted.ensureDeferred
async def test_a_flood_of_logins_slows_no_payment(machine: Machine, books: Books, clients: Clients) -> None:
    server = await machine.serve("--database", books.url, "--rate-limit", "0").ready()
    api, customers = clients(server), books.seed(4)
    await slowest(api, customers)  # whatever is done once is done now
    measured = []
    for _ in range(ROUNDS):
        calm = await slowest(api, customers)
        flood = Flood()
        await flood.start(server)
        flooded = await slowest(api, customers)
        await flood.stop()
        measured.append((calm, flooded))
        # Hashing in the reactor's thread would hold each credit up for a quarter of a second, and most for longer.
        if flooded <= max(PATIENCE, TIMES * calm):
            break
    else:
        raise AssertionError(f"the 99th percentile without and with the flood: {measured}")
    assert books.head() == CREDITS * (1 + 2 * len(measured))
    await server.stop()

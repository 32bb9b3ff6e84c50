"""Clients of a server: plain HTTP by treq, WebSockets by Autobahn, and a load that remembers what it was told."""

from __future__ import annotations

import json
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import treq
from autobahn.twisted.websocket import WebSocketClientFactory
from treq.client import HTTPClient
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.protocol import Factory
from twisted.web.client import Agent, HTTPConnectionPool, ResponseFailed, ResponseNeverReceived

from tests.e2e.books import Books, Customer
from tests.e2e.kept_secrets import note, note_all
from tests.e2e.server import Server, pause, until
from tests.pubsub.server import Ears, Reader

reactor: Any = _reactor
_ConnectionPool: Any = HTTPConnectionPool
_Agent: Any = Agent
_Endpoint: Any = TCP4ClientEndpoint

ALL = "balance_updated"
HANGS_AFTER = 45.0
BROKEN = (ConnectionClosed, ResponseFailed, ResponseNeverReceived)  # the connection, that is


@dataclass(frozen=True)
class Reply:
    """One answer."""

    status: int
    headers: Any
    json: Any

    @property
    def data(self) -> Any:
        """The data of a success."""
        assert self.json.get("success") is True, self.json
        return self.json["data"]

    @property
    def reason(self) -> str:
        """Why it was refused."""
        return str(self.json["error"]["reason"])

    @property
    def outcome(self) -> str | None:
        """What a 503 says became of the operation."""
        found: str | None = self.json["error"]["details"].get("outcome")
        return found

    @property
    def is_replay(self) -> bool:
        """Whether it says that it was given before."""
        return bool(self.headers.getRawHeaders("Idempotent-Replayed") == ["true"])


class Api:
    """A client of one server, with kept-alive connections; to be closed."""

    def __init__(self, port: int, connections: int = 64) -> None:
        self.port = port
        self._pool = _ConnectionPool(reactor, persistent=True)
        self._pool.maxPersistentPerHost = connections
        self._pool.retryAutomatically = False
        self._http = HTTPClient(_Agent(reactor, connectTimeout=10, pool=self._pool))

    async def ask(
        self, method: str, path: str, body: object = None, token: str | None = None, key: str | None = None
    ) -> Reply:
        """Make a request and read its answer; a connection that fails raises."""
        note(token)
        note_all(body)
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        if key is not None:
            headers["Idempotency-Key"] = key
        if body is not None:
            headers["Content-Type"] = "application/json"
        response = await self._http.request(
            method,
            f"http://127.0.0.1:{self.port}{path}",
            headers=headers,
            data=None if body is None else json.dumps(body).encode(),
            timeout=HANGS_AFTER,
        )
        content = await treq.content(response)
        told = json.loads(content)
        note_all(told)
        return Reply(response.code, response.headers, told)

    async def post(self, path: str, raw: bytes, headers: Mapping[str, str]) -> tuple[int, Any]:
        """Post a body as it is; returns status and JSON of the answer."""
        url = f"http://127.0.0.1:{self.port}{path}"
        response = await self._http.request("POST", url, headers=headers, data=raw, timeout=HANGS_AFTER)
        return response.code, json.loads(await treq.content(response))

    async def move(self, kind: str, customer: Customer, amount: str, key: str | None = None) -> Reply:
        """Credit or debit."""
        body = {"user_id": customer.user_id, "amount": amount}
        return await self.ask("POST", f"/{kind}", body, customer.token, key)

    async def admin(self, books: Books) -> str:
        """The access token of a new admin, which is good for a quarter of an hour."""
        email, password = books.add_admin()
        reply = await self.ask("POST", "/api/auth/login", {"email": email, "password": password})
        return str(reply.data["access_token"])

    async def services(self, token: str) -> dict[str, dict[str, Any]]:
        """The service tree, by name, for an admin."""
        detailed = await self.ask("GET", "/api/health/detailed", token=token)
        return {service["name"]: service for service in detailed.json["services"]}

    async def until_ready(self, within: float = 60.0) -> None:
        """Return when the server takes work."""
        deadline = reactor.seconds() + within
        while True:
            assert reactor.seconds() < deadline, "it does not become ready"
            try:
                if (await self.ask("GET", "/api/health/ready")).status == 200:
                    return
            except (ConnectError, *BROKEN):
                pass
            await pause(0.05)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._pool.closeCachedConnections()


class Clients:
    """Makes HTTP clients, and closes them."""

    def __init__(self) -> None:
        self._apis: list[Api] = []

    def __call__(self, server: Server, connections: int = 64) -> Api:
        self._apis.append(Api(server.port, connections))
        return self._apis[-1]

    async def close(self) -> None:
        """Close all."""
        for api in self._apis:
            await api.close()


@dataclass
class Operation:
    """One credit or debit, and what its client knows of it."""

    customer: Customer
    kind: str
    amount: int
    key: str = field(default_factory=lambda: uuid4().hex)
    known: str = "unknown"  # or: done, refused (for good), not done, never sent
    transfer_id: str | None = None
    was_replayed: bool = False

    async def attempt(self, api: Api) -> None:
        """Ask for it (again), and note the answer."""
        began = reactor.seconds()
        try:
            reply = await api.move(self.kind, self.customer, f"{self.amount / 100:.2f}", self.key)
        except ConnectError:
            self.known = "never sent"
            return
        except BROKEN:
            self.known = "unknown"
            assert reactor.seconds() < began + HANGS_AFTER, "no answer, and no end either"
            return
        if reply.status == 201:
            self.known = "done"
            self.transfer_id = reply.data["transfer_id"]
            self.was_replayed = reply.is_replay
        elif reply.status == 422:
            assert reply.reason == "insufficient_funds", reply.json
            self.known = "refused"
        else:
            assert reply.status == 503, reply.json
            assert reply.headers.hasHeader("Retry-After")
            self.known = {"not_done": "not done", "unknown": "unknown"}[str(reply.outcome)]


class Load:
    """Clients that credit and debit without pause, each operation with a key of its own, and remember every answer."""

    def __init__(self, apis: Sequence[Api], customers: Sequence[Customer], clients: int = 16) -> None:
        self._apis = apis
        self._customers = customers
        self._clients = clients
        self._going = True
        self._running: Deferred[Any] | None = None
        self.operations: list[Operation] = []

    def start(self) -> Load:
        """Begin."""
        self._running = gatherResults([ensureDeferred(self._client(number)) for number in range(self._clients)])
        return self

    def ask(self, operation: Operation) -> Deferred[None]:
        """Ask for one operation; fires when its answer is noted."""
        self.operations.append(operation)
        return ensureDeferred(operation.attempt(self._apis[0]))

    def again(self) -> Load:
        """Go on after a stop."""
        self._going = True
        return self.start()

    async def stop(self) -> None:
        """Begin nothing more, and wait for all that is under way."""
        self._going = False
        assert self._running is not None
        await self._running

    @property
    def counts(self) -> Counter[str]:
        """How many operations there are of each kind of knowledge."""
        return Counter(operation.known for operation in self.operations)

    async def more(self, known: str, count: int, within: float = 60.0) -> None:
        """Return when that many more operations have ended so."""
        wanted = self.counts[known] + count
        await until(lambda: self.counts[known] >= wanted, within, lambda: f"the load came to a halt: {self.counts}")

    def check(self, books: Books) -> None:
        """What was answered is true: done is in the journal, once, as told; refused and not done are not."""
        keys = books.keys()
        for operation in self.operations:
            if operation.known == "done":
                assert keys.get(operation.key) == operation.transfer_id, operation
            elif operation.known != "unknown":
                assert operation.key not in keys, operation

    async def settle(self, books: Books, api: Api) -> None:
        """Check, retry with their keys whatever is open, and check that all is there once, and nothing else."""
        self.check(books)
        before = books.keys()
        for operation in self.operations:
            while operation.known not in ("done", "refused"):
                await operation.attempt(api)
                if operation.known == "done":
                    assert operation.was_replayed == (operation.key in before), operation
        self.check(books)
        done = [operation for operation in self.operations if operation.known == "done"]
        assert set(books.keys()) == {operation.key for operation in done}
        sums = Counter[str]()
        for operation in done:
            sums[operation.customer.account_id] += operation.amount if operation.kind == "credit" else -operation.amount
        assert {account: cents for account, cents in books.balances().items() if cents} == {
            account: cents for account, cents in sums.items() if cents
        }

    async def _client(self, number: int) -> None:
        choice = random.Random()
        while self._going:
            kind = "debit" if choice.random() < 0.4 else "credit"
            operation = Operation(choice.choice(self._customers), kind, choice.randint(1, 200))
            self.operations.append(operation)
            await operation.attempt(self._apis[number % len(self._apis)])
            if operation.known not in ("done", "refused"):
                await pause(0.02)


async def websocket(server: Server, token: str | None = None, *, small: bool = False) -> Ears:
    """A WebSocket client that is connected."""
    note(token)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    factory: Any = WebSocketClientFactory(f"ws://127.0.0.1:{server.port}/ws", headers=headers, reactor=reactor)
    factory.noisy = False
    factory.protocol = Ears
    factory.setProtocolOptions(openHandshakeTimeout=20, closeHandshakeTimeout=20)
    client: Ears = await _Endpoint(reactor, "127.0.0.1", server.port).connect(_Small(factory) if small else factory)
    await client.opened
    return client


async def hang_up(client: Any) -> None:
    """Cut a client's connection from its own side."""
    client.transport.abortConnection()
    await until(lambda: client.lost)


async def event_stream(server: Server, topics: str, last: str | None = None, token: str | None = None) -> Reader:
    """A client that reads server-sent events."""
    reader: Reader = await _Endpoint(reactor, "127.0.0.1", server.port).connect(Factory.forProtocol(Reader))
    note(token)
    headers = {"Host": "localhost"}
    if last is not None:
        headers["Last-Event-ID"] = last
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    reader.ask("GET", f"/api/events?topics={topics}", headers)
    await until(lambda: b"\r\n\r\n" in reader.received)
    return reader


class Follower:
    """A subscriber of one topic that comes back after every disconnect, with what it has seen last."""

    def __init__(self, topic: str, since: int = 0, token: str | None = None) -> None:
        self.topic = topic
        self.token = token
        self.seen: list[tuple[int, int]] = []
        self.since = str(since)
        self._client: Any = None

    async def connect(self, server: Server, *, small: bool = False) -> Any:
        """Connect, and follow everything after what was seen last."""
        self._client = await websocket(server, self.token, small=small)
        self._client.say({"type": "subscribe", "topic": self.topic, "since": self.since})
        return self._client

    def take(self) -> None:
        """Take note of what has arrived."""
        messages = self._client.messages
        while messages:
            message = messages.popleft()
            if message["type"] != "subscribed":
                assert message["type"] == ALL, message
                self.note(message["seq"], message["part"])

    def note(self, seq: int, part: int) -> None:
        """Take note of one update."""
        self.seen.append((seq, part))
        self.since = f"{seq}:{part}"

    async def cut(self) -> None:
        """Lose the connection, from this side."""
        await hang_up(self._client)
        self.take()

    async def lost(self) -> int | None:
        """Wait until the connection is lost; returns the code that the server closed with."""
        await until(lambda: self._client.lost)
        self.take()
        code: int | None = self._client.code
        return code

    async def reach(self, seq: int) -> None:
        """Return when this record has been seen."""

        def there() -> bool:
            self.take()
            return bool(self.seen) and self.seen[-1][0] >= seq

        await until(there, 60, lambda: f"it did not get to {seq}, but to {self.seen[-1:]}")

    def check(self, seqs: Iterable[int]) -> None:
        """These records were seen, each once, in order, and no others."""
        assert self.seen == [(seq, 0) for seq in seqs]


class StreamFollower(Follower):
    """The same by server-sent events."""

    async def connect(self, server: Server, *, small: bool = False) -> Any:
        """Connect, and follow everything after what was seen last."""
        assert not small
        self._client = await event_stream(server, self.topic, self.since, self.token)
        self._taken = 0
        return self._client

    def take(self) -> None:
        """Take note of what has arrived."""
        events = self._client.events
        for event in events[self._taken :]:
            seq, part = map(int, event["id"].split(":"))
            self.note(seq, part)
        self._taken = len(events)

    async def lost(self) -> int | None:
        """Wait until the stream ends; returns the code that the server gave."""
        await until(lambda: self._client.lost or self._farewell() is not None)
        self.take()
        return self._farewell()

    def _farewell(self) -> int | None:
        codes = [json.loads(block["data"])["code"] for block in self._client.blocks if block.get("event") == "close"]
        return int(codes[0]) if codes else None


class _Small(Factory):
    """Builds the clients of another factory, with small buffers in the kernel."""

    noisy = False

    def __init__(self, factory: Any) -> None:
        self._factory = factory

    def buildProtocol(self, addr: Any) -> Any:
        client = self._factory.buildProtocol(addr)
        made: Callable[[], None] = client.connectionMade

        def connection_made() -> None:
            client.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
            made()

        client.connectionMade = connection_made
        return client

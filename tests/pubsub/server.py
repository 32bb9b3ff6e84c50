"""A real site on loopback over the small world, and clients with real sockets."""

from __future__ import annotations

import json
import resource
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import pytest_twisted
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Site

from ledger.domain.errors import Refused
from ledger.domain.policy import Caller
from ledger.pubsub.access import Note
from ledger.pubsub.sse import EventsResource
from ledger.pubsub.websocket import websocket_resource
from tests.pubsub.world import World, done

reactor: Any = _reactor

Test = TypeVar("Test", bound=Callable[..., Any])


def asynchronous(test: Test) -> Test:
    """Let a coroutine be a test."""
    run: Test = pytest_twisted.ensureDeferred(test)
    return run


async def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Return when the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await pause(0.005)


def pause(seconds: float) -> Deferred[None]:
    """Let the reactor run."""
    turned: Deferred[None] = Deferred()
    reactor.callLater(seconds, turned.callback, None)
    return turned


class PlainVisit:
    """Answers as plainly as can be."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def admit(self, caller: Caller | None) -> None:
        assert caller is None or caller.client

    def headers(self) -> list[tuple[bytes, bytes]]:
        assert self._request.method == b"GET"
        return [(b"X-Correlation-ID", b"c0ffee")]

    def refuse(self, refused: Refused) -> None:
        request = self._request
        request.setResponseCode(refused.category.status)
        request.setHeader(b"Content-Type", b"application/json")
        request.write(json.dumps({"error": {"reason": refused.reason}}).encode())
        request.finish()

    def refusal(self, refused: Refused) -> bytes:
        assert self._request.method == b"GET"
        return b"HTTP/1.1 %d\r\n\r\n%b" % (refused.category.status, refused.reason.encode())

    def answer_without_get(self) -> None:
        self.refuse(Refused("method_not_allowed"))

    def witness(self) -> Note:
        return lambda _refused, _caller: None


class PlainFront:
    """Lets everybody in."""

    def visit(self, name: str, request: Any) -> PlainVisit:
        assert name.startswith("GET /")
        return PlainVisit(request)


class Server:
    """The world, served."""

    def __init__(self, timeout: float = 60.0) -> None:
        raise_open_files()
        self.world = World(reactor)
        self.world.start()
        self.port = reactor.listenTCP(0, self.site(timeout), interface="127.0.0.1", backlog=2000)
        self.number: int = self.port.getHost().port
        self.clients: list[Any] = []

    def site(self, timeout: float) -> Any:
        """The site, which has nothing but the live streams."""
        root: Any = Resource()  # type: ignore[no-untyped-call]
        api: Any = Resource()  # type: ignore[no-untyped-call]
        root.putChild(b"ws", websocket_resource(self.world.context, PlainFront(), reactor))
        root.putChild(b"api", api)
        api.putChild(b"events", EventsResource(self.world.context, PlainFront()))
        site: Any = Site(root, timeout=timeout)  # type: ignore[no-untyped-call]
        site.log = lambda _request: None
        return site

    async def websocket(self, headers: dict[str, str] | None = None, *, path: str = "/ws", small: bool = False) -> Ears:
        """A WebSocket client that is connected."""
        factory: Any = WebSocketClientFactory(f"ws://127.0.0.1:{self.number}{path}", headers=headers, reactor=reactor)
        factory.protocol = Ears
        factory.setProtocolOptions(openHandshakeTimeout=20, closeHandshakeTimeout=20)
        endpoint: Any = TCP4ClientEndpoint(reactor, "127.0.0.1", self.number)
        client: Ears = await endpoint.connect(_SmallBuffers(factory) if small else factory)
        self.clients.append(client)
        await client.opened
        return client

    async def get(self, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Reader:
        """A plain HTTP client that reads an answer that may not end."""
        endpoint: Any = TCP4ClientEndpoint(reactor, "127.0.0.1", self.number)
        reader: Reader = await endpoint.connect(Factory.forProtocol(Reader))
        self.clients.append(reader)
        reader.ask(method, path, {"Host": "localhost", **(headers or {})})
        await until(lambda: b"\r\n\r\n" in reader.received)
        return reader

    async def stop(self) -> None:
        """End everything."""
        await self.port.stopListening()
        await self.world.sockets.close_all()
        done(self.world.feed.stop())
        for client in self.clients:
            client.transport.abortConnection()
        await until(lambda: all(client.lost for client in self.clients))
        await until(lambda: len(self.world.sockets) == 0)


def raise_open_files() -> None:
    """Allow as many sockets as a test with a thousand clients needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _SmallBuffers(Factory):
    """Builds the clients of another factory, and makes their kernel buffers small."""

    noisy = False

    def __init__(self, factory: Any) -> None:
        self._factory = factory

    def buildProtocol(self, addr: IAddress | None) -> Any:
        client = self._factory.buildProtocol(addr)
        made = client.connectionMade

        def connection_made() -> None:
            client.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            made()

        client.connectionMade = connection_made
        return client


class Ears(WebSocketClientProtocol):  # type: ignore[misc]
    """A WebSocket client that keeps what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: Deferred[None] = Deferred()
        self.messages: deque[dict[str, Any]] = deque()
        self.arrivals: deque[float] = deque()
        self.code: int | None = None
        self.lost = False

    def onOpen(self) -> None:
        self.opened.callback(None)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        assert not isBinary
        self.arrivals.append(time.monotonic())
        self.messages.append(json.loads(payload))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: ARG002
        self.code = self.remoteCloseCode
        self.lost = True
        if not self.opened.called:
            self.opened.errback(ConnectionError(reason))

    def say(self, message: Any) -> None:
        """Send a JSON message."""
        self.sendMessage(json.dumps(message).encode())

    async def next(self) -> dict[str, Any]:
        """The next message."""
        await until(lambda: self.messages or self.lost)
        assert self.messages, f"closed with {self.code}"
        return self.messages.popleft()

    async def subscribe(self, topic: str, **more: object) -> dict[str, Any]:
        """Subscribe, and return the answer."""
        self.say({"type": "subscribe", "topic": topic, **more})
        return await self.next()

    async def closed(self) -> int | None:
        """The code that the server closed with."""
        await until(lambda: self.lost)
        return self.code


class Reader(Protocol):
    """A bare HTTP/1.1 client."""

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost = False

    def ask(self, method: str, path: str, headers: dict[str, str]) -> None:
        """Send a request without a body."""
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        self.transport.write("\r\n".join(lines).encode("latin-1"))

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # type: ignore[no-untyped-call] # noqa: ARG002, B008
        self.lost = True

    @property
    def status(self) -> int:
        """The status code."""
        return int(self.received.split(b" ", 2)[1])

    @property
    def headers(self) -> dict[str, str]:
        """The headers, in lower case."""
        head = self.received.partition(b"\r\n\r\n")[0].decode()
        pairs = (line.split(": ", 1) for line in head.split("\r\n")[1:])
        return {name.lower(): value for name, value in pairs}

    @property
    def body(self) -> bytes:
        """What has come of the body, its chunks joined."""
        raw = bytes(self.received).partition(b"\r\n\r\n")[2]
        if self.headers.get("transfer-encoding") != "chunked":
            return raw
        chunks, place = [], 0
        while (end := raw.find(b"\r\n", place)) >= 0:
            length = int(raw[place:end], 16)
            place = end + 2 + length + 2
            if length == 0 or place > len(raw):
                break
            chunks.append(raw[end + 2 : place - 2])
        return b"".join(chunks)

    @property
    def blocks(self) -> list[dict[str, str]]:
        """The blocks of an event stream: their fields, comments under an empty name."""
        return [
            {name: value for name, _, value in (line.partition(": ") for line in block.split("\n"))}
            for block in self.body.decode().split("\n\n")[:-1]
        ]

    @property
    def events(self) -> list[dict[str, str]]:
        """The updates among the blocks."""
        return [block for block in self.blocks if block.get("event") == "balance_updated"]

"""WebSocket clients as cheap as they can be: one topic each, and a note of every message that comes."""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

_TEXT: Final = 0x81  # a whole message; masked by zeros, which is to say not at all
_MASKED: Final = 0x80
_NO_MASK: Final = bytes(4)
_CLOSE, _PING, _PONG = 0x88, 0x89, 0x8A


class _Data(msgspec.Struct):
    timestamp: datetime


class _Message(msgspec.Struct):
    type: str
    seq: int = 0
    part: int = 0
    data: _Data | None = None


_decode = msgspec.json.Decoder(_Message).decode


class Line(Protocol):
    """One connection: a handshake, one subscription, and then whole messages, each with the time it was read."""

    def __init__(
        self,
        port: int,
        token: str | None,
        subscribe: bytes,
        heard: Callable[[_Message, float], None],
        lost: Callable[[str], None],
    ) -> None:
        bearer = "" if token is None else f"Authorization: Bearer {token}\r\n"
        self._hello = (
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{bearer}"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ).encode()
        self._subscribe = subscribe
        self._heard = heard
        self._lost = lost
        self._rest = b""
        self._open = False
        self._cut = False

    def connectionMade(self) -> None:
        """Ask for the WebSocket."""
        self._transport.setTcpNoDelay(True)
        self._transport.write(self._hello)

    @property
    def _transport(self) -> Any:
        return self.transport

    def dataReceived(self, data: bytes) -> None:
        """Part what came into frames; the server's are not masked, and each is a whole message."""
        if self._cut:
            return
        now = time.time()
        data = self._rest + data
        start, end = 0, len(data)
        if not self._open:
            start = data.find(b"\r\n\r\n") + 4
            if start < 4:
                self._rest = data
                return
            if not data.startswith(b"HTTP/1.1 101"):
                self._fail(data[:200].decode("latin-1"))
                return
            self._open = True
            self._send(_TEXT, self._subscribe)
        while end - start >= 2:
            kind, size = data[start], data[start + 1]
            head = start + 2
            if size > 125:
                head += 2 if size == 126 else 8
                size = int.from_bytes(data[start + 2 : head])
            if head + size > end or head > end:
                break
            start = head + size
            self._take(kind, data[head:start], now)
        self._rest = data[start:]

    def _take(self, kind: int, payload: bytes, now: float) -> None:
        if kind == _TEXT:
            self._heard(_decode(payload), now)
        elif kind == _PING:
            self._send(_PONG, payload)
        else:
            self._fail(f"frame {kind:#x} {payload!r}")

    def _send(self, kind: int, payload: bytes) -> None:
        size = len(payload)
        length = bytes([_MASKED | size]) if size < 126 else bytes([_MASKED | 126]) + size.to_bytes(2)
        self._transport.write(bytes([kind]) + length + _NO_MASK + payload)

    def _fail(self, why: str) -> None:
        self._lost(why)
        self.cut()

    def cut(self) -> None:
        """Drop the connection without a word, and whatever was on its way."""
        self._cut = True
        self._transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell of a connection that was not cut by us."""
        if not self._cut:
            self._lost(str(reason.value))


class Subscriber:
    """A follower of one topic over all its connections: what it has seen, and what it has seen again."""

    def __init__(self, reactor: Any, port: int, topic: str, token: str | None, delay: Callable[[float], None]) -> None:
        self.received = 0
        self.twice = 0
        self.faults: list[str] = []
        self._reactor = reactor
        self._port = port
        self._topic = topic
        self._token = token
        self._delay = delay
        self._last: tuple[int, int] | None = None
        self._since: str | None = None
        self._line: Line | None = None
        self._subscribed: Deferred[None] | None = None

    async def connect(self) -> None:
        """Connect and return when subscribed: from now on the first time, then from what was seen last."""
        wanted = {"type": "subscribe", "topic": self._topic}
        if self._since is not None:
            wanted["since"] = self._since
        subscribed: Deferred[None] = Deferred()
        self._subscribed = subscribed
        line = Line(self._port, self._token, msgspec.json.encode(wanted), self._hear, self._fail)
        self._line = line
        endpoint = TCP4ClientEndpoint(self._reactor, "127.0.0.1", self._port)
        await connectProtocol(endpoint, line)  # type: ignore[no-untyped-call]
        await subscribed

    def cut(self) -> None:
        """Drop the connection."""
        if self._line is not None:
            self._line.cut()

    def _hear(self, message: _Message, now: float) -> None:
        if message.data is not None:
            place = (message.seq, message.part)
            if self._last is not None and place <= self._last:
                self.twice += 1
                return
            self._last = place
            self._since = f"{message.seq}:{message.part}"
            self.received += 1
            self._delay(now - message.data.timestamp.timestamp())
        elif message.type == "subscribed" and self._subscribed is not None:
            if self._since is None:
                self._since = str(message.seq)
            subscribed, self._subscribed = self._subscribed, None
            subscribed.callback(None)
        else:
            self._fail(f"{self._topic}: {message.type}")

    def _fail(self, why: str) -> None:
        self.faults.append(why)
        if self._subscribed is not None:
            subscribed, self._subscribed = self._subscribed, None
            subscribed.errback(ConnectionError(why))

"""A WebSocket connection as cheap as it can be, for a client that shares the machine with the server."""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import msgspec
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

_TEXT: Final = 0x81  # a whole message; masked by zeros, which is to say not at all
_MASKED: Final = 0x80
_NO_MASK: Final = bytes(4)
_PING, _PONG = 0x89, 0x8A


class _Data(msgspec.Struct):
    timestamp: datetime


class Message(msgspec.Struct):
    """What the server says, as far as it is looked at."""

    type: str
    seq: int = 0
    part: int = 0
    data: _Data | None = None


_decode = msgspec.json.Decoder(Message).decode


class Line(Protocol):
    """One connection: a handshake, one subscription, and then whole messages, each with the time it was read."""

    def __init__(
        self,
        port: int,
        token: str,
        subscribe: bytes,
        heard: Callable[[Message, float], None],
        lost: Callable[[str], None],
    ) -> None:
        self._hello = (
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Authorization: Bearer {token}\r\n"
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

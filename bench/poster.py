"""Credits over HTTP at a steady pace, on a few keep-alive connections."""

import json
import secrets
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

_CONNECTIONS: Final = 32
_TICK: Final = 0.002
_LENGTH: Final = b"content-length:"


class Payer(msgspec.Struct, frozen=True):
    """Whose account is credited, and the token that permits it."""

    user_id: str
    account_id: str
    token: str


class _Connection(Protocol):
    def __init__(self, poster: "Poster") -> None:
        self._poster = poster
        self._rest = b""

    def post(self, request: bytes) -> None:
        transport: Any = self.transport
        transport.write(request)

    def dataReceived(self, data: bytes) -> None:
        data = self._rest + data
        head, parted, body = data.partition(b"\r\n\r\n")
        if parted:
            lower = head.lower()
            start = lower.index(_LENGTH) + len(_LENGTH)
            if len(body) >= int(lower[start:].split(b"\r\n", 1)[0]):
                self._rest = b""
                self._poster.answered(self, int(head[9:12]))
                return
        self._rest = data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._poster.lost(self, str(reason.value))


class Poster:
    """Posts to each account in turn, each request with a key of its own; what is late is made up for."""

    def __init__(self, reactor: Any, port: int, payers: Sequence[Payer], rate: float) -> None:
        self.booked = 0
        self.faults: list[str] = []
        self._reactor = reactor
        self._port = port
        self._rate = rate
        self._requests = [self._request(payer) for payer in payers]
        self._run = secrets.token_hex(8)
        self._idle: deque[_Connection] = deque()
        self._busy = 0
        self._sent = 0
        self._begun = 0.0
        self._loop = LoopingCall(self._tick)
        self._loop.clock = reactor
        self._done: Deferred[None] | None = None

    def _request(self, payer: Payer) -> tuple[bytes, bytes]:
        body = json.dumps({"user_id": payer.user_id, "amount": "1.00"})
        head = (
            f"POST /credit HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nAuthorization: Bearer {payer.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nIdempotency-Key: "
        )
        return head.encode(), f"\r\n\r\n{body}".encode()

    async def start(self) -> None:
        """Connect, and begin."""
        endpoint = TCP4ClientEndpoint(self._reactor, "127.0.0.1", self._port)
        for _ in range(_CONNECTIONS):
            connection = _Connection(self)
            await connectProtocol(endpoint, connection)  # type: ignore[no-untyped-call]
            self._idle.append(connection)
        self._begun = self._reactor.seconds()
        self._loop.start(_TICK).addErrback(lambda failure: self.faults.append(str(failure.value)))

    def _tick(self) -> None:
        due = int((self._reactor.seconds() - self._begun) * self._rate)
        while self._idle and self._sent < due:
            head, tail = self._requests[self._sent % len(self._requests)]
            self._idle.popleft().post(b"%b%b-%d%b" % (head, self._run.encode(), self._sent, tail))
            self._sent += 1
            self._busy += 1

    def answered(self, connection: _Connection, status: int) -> None:
        """Count an answer; the connection is free."""
        self._busy -= 1
        self._idle.append(connection)
        if status == 201:
            self.booked += 1
        else:
            self.faults.append(f"a credit was answered {status}")
        self._settle()

    def lost(self, connection: _Connection, why: str) -> None:
        """Learn that a connection is gone, and perhaps an answer with it."""
        self.faults.append(f"a connection for credits was lost: {why}")
        if connection in self._idle:
            self._idle.remove(connection)
        else:
            self._busy -= 1
        self._settle()

    async def stop(self) -> None:
        """Post nothing more, and return when all is answered."""
        self._loop.stop()
        if self._busy > 0:
            self._done = Deferred()
            await self._done

    def _settle(self) -> None:
        if self._busy <= 0 and self._done is not None:
            done, self._done = self._done, None
            done.callback(None)

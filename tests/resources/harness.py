"""A whole site in memory: bytes in, bytes out, no sockets and no real time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from ledger.resources.addresses import Addresses
from ledger.resources.endpoint import Endpoint
from ledger.resources.exchange import Exchange
from ledger.resources.guards import Guards
from ledger.resources.rate_limit import RateLimiter
from ledger.resources.routes import all_endpoints
from ledger.resources.site import LedgerSite
from ledger.services.audit import AuditEvent
from tests.resources.backend import MemoryBackend

_Transport: Any = StringTransport  # Twisted leaves these without types
_Failure: Any = Failure

NOW = 1_780_000_000.25


@dataclass
class Reply:
    """One answer as it came over the wire."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def data(self) -> Any:
        """The data of a success."""
        assert self.json["success"] is True
        return self.json["data"]

    @property
    def error(self) -> Any:
        """The error of a refusal."""
        return self.json["error"]

    @property
    def refusal(self) -> tuple[int, str]:
        """Status and reason of a refusal."""
        assert self.error["code"] == self.status
        return self.status, self.error["reason"]

    def header(self, name: str) -> str | None:
        """A header's value, or None; more than one value is a failure."""
        values = [value for given, value in self.headers if given.lower() == name.lower()]
        assert len(values) <= 1, values
        return values[0] if values else None


class Connection:
    """One client's connection to the site."""

    def __init__(self, site: LedgerSite, peer: str = "192.0.2.7") -> None:
        self.transport = _Transport(peerAddress=IPv4Address("TCP", peer, 50000))
        self.channel: Any = site.buildProtocol(None)
        self.channel.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.channel.dataReceived(data)

    def hang_up(self) -> None:
        """Lose the connection from the client's side."""
        self.channel.connectionLost(_Failure(ConnectionDone()))

    def received(self) -> bytes:
        """All bytes that the server has sent."""
        value: bytes = self.transport.value()
        return value

    def replies(self, head_only: bool = False) -> list[Reply]:
        """All answers so far; nothing may be left over."""
        data, replies = self.received(), []
        while data:
            reply, data = parse(data, head_only)
            replies.append(reply)
        return replies


def parse(data: bytes, head_only: bool = False) -> tuple[Reply, bytes]:
    """Return the first answer in the data, and the rest."""
    head, separator, rest = data.partition(b"\r\n\r\n")
    assert separator, data
    status_line, *lines = head.decode("latin-1").split("\r\n")
    version, status, _ = status_line.split(" ", 2)
    assert version in ("HTTP/1.1", "HTTP/1.0")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    length = int(next((value for name, value in headers if name.lower() == "content-length"), "0"))
    if head_only or status in ("204", "100"):
        length = 0
    assert len(rest) >= length
    return Reply(int(status), headers, rest[:length]), rest[length:]


class Server:
    """A site over a backend in memory."""

    def __init__(
        self,
        backend: MemoryBackend | None = None,
        *,
        plain: bool = True,
        endpoints: Iterable[Endpoint] | None = None,
        extra: Mapping[str, IResource] | None = None,
        limit: tuple[int, int] | None = None,
    ) -> None:
        self.backend = MemoryBackend() if backend is None else backend
        self.clock: Any = Clock()
        self.clock.advance(NOW)
        self._random = 0
        if endpoints is None:
            endpoints = all_endpoints(self.backend, self.clock.seconds, document_at_once=False)
        self.audited: list[AuditEvent] = []
        limiter = None if limit is None else RateLimiter(*limit, seconds=self.clock.seconds)
        guards = Guards(Addresses(self.backend.config.trusted_proxies), limiter, self.audited.append)
        self.exchange = Exchange(self.backend, guards, self.clock.seconds, self.random)
        self.site = LedgerSite(self.clock, self.exchange, endpoints, extra or {}, plain=plain)
        self.user_id = self.backend.new_id()
        self.account, self.token = self.backend.open_account(self.user_id)

    def random(self, size: int) -> bytes:
        """Numbers that are different, if not random."""
        self._random += 1
        return b"".join((self._random * size + place).to_bytes(16, "big") for place in range(size // 16))

    def connect(self, peer: str = "192.0.2.7") -> Connection:
        """Open a connection."""
        return Connection(self.site, peer)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str | None] | None = None,
        *,
        token: str | None = "own",
        peer: str = "192.0.2.7",
        raw: bytes | None = None,
    ) -> Reply:
        """Send one request on a connection of its own and return the answer, which must be there at once."""
        connection = self.connect(peer)
        connection.send(self.request(method, path, body, headers, token=token, raw=raw))
        (reply,) = connection.replies(head_only=method == "HEAD")
        return reply

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str | None] | None = None,
        *,
        token: str | None = "own",
        raw: bytes | None = None,
    ) -> bytes:
        """Return the bytes of a request; `token="own"` is that of the user's account, a header of None is left out."""
        content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        lines: dict[str, str | None] = {"Host": "localhost", "User-Agent": "test"}
        if token is not None:
            lines["Authorization"] = f"Bearer {self.token if token == 'own' else token}"
        if content:
            lines |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
        lines |= headers or {}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
        return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + content

    def credit(self, amount: object = "50.00", key: str | None = None, **more: Any) -> Reply:
        """Credit the user's account."""
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.ask("POST", "/credit", {"user_id": self.user_id, "amount": amount, **more}, headers)

    def debit(self, amount: object = "50.00", key: str | None = None, **more: Any) -> Reply:
        """Debit the user's account."""
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.ask("POST", "/debit", {"user_id": self.user_id, "amount": amount, **more}, headers)

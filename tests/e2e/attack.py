"""What the attacks share: bytes as they are sent, answers that must be ours, and the fields that the document names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from ledger.domain.errors import CATALOGUE
from tests.e2e.books import Books
from tests.e2e.client import Api, Clients
from tests.e2e.kept_secrets import found_in
from tests.e2e.server import Machine, Server, until

reactor: Any = _reactor
_Endpoint: Any = TCP4ClientEndpoint

PASSWORD = "correct horse battery staple"


@dataclass(frozen=True)
class Told:
    """One answer as it came over the wire."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        """The values of a header."""
        return [value for given, value in self.headers if given == name.lower()]

    @property
    def error(self) -> dict[str, Any]:
        """What was refused, which must be told as every refusal of ours is."""
        error = json.loads(self.body)["error"]
        check_error(self.status, error)
        assert self.all("X-Correlation-ID") == [error["correlation_id"]]
        return dict(error)

    @property
    def reason(self) -> str:
        """Why it was refused."""
        return str(self.error["reason"])


def check_error(status: int, error: dict[str, Any]) -> None:
    """Fail where a refusal is not one of the catalogue's, is a failure of ours, or tells a secret or too much."""
    assert set(error) == {"type", "message", "code", "reason", "details", "timestamp", "correlation_id"}
    row = CATALOGUE[error["reason"]]
    assert (error["type"], error["code"], status) == (row.category.wire_type, status, row.category.status)
    assert status < 500, error
    text = json.dumps(error)
    assert found_in(text) == 0
    assert len(text) < 4_000
    assert not any(word in text for word in ("Traceback", "psycopg", 'File "', "SELECT", "INSERT"))


class Wire(Protocol):
    """A client that sends any bytes, and reads what comes back."""

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # type: ignore[no-untyped-call] # noqa: ARG002, B008
        self.lost = True

    def has(self, answers: int, bodies: bool) -> bool:
        """Whether so many answers have come whole."""
        return self.received.count(b"HTTP/1.1 ") >= answers and len(self.answers(bodies)) >= answers

    def answers(self, bodies: bool) -> list[Told]:
        """The answers that have come whole; those to HEAD have no bodies, whatever their length is said to be."""
        told, rest = [], bytes(self.received)
        while b"\r\n\r\n" in rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in lines)]
            length = int(dict(headers).get("content-length", "0")) if bodies else 0
            if len(rest) < length:
                break
            told.append(Told(int(first.split(" ")[1]), headers, rest[:length]))
            rest = rest[length:]
        return told


async def sent(server: Server, data: bytes, answers: int = 1, *, bodies: bool = True) -> list[Told]:
    """Send bytes, and return the answers when there are so many, or when the server has hung up; then hang up too."""
    wire: Wire = await _Endpoint(reactor, "127.0.0.1", server.port).connect(Factory.forProtocol(Wire))
    wire.transport.write(data)
    await until(lambda: wire.lost or wire.has(answers, bodies), 60, lambda: bytes(wire.received[-2000:]))
    if not wire.lost:
        wire.transport.loseConnection()
        await until(lambda: wire.lost)
    return wire.answers(bodies)


def request(method: str, path: str, body: bytes = b"", *lines: str, token: str | None = None) -> bytes:
    """A request as bytes, with these lines in its head beside the usual ones."""
    bearer = [] if token is None else [f"Authorization: Bearer {token}"]
    length = [f"Content-Length: {len(body)}"] if body else []
    head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *bearer, *length, *lines])
    return head.encode("latin-1") + b"\r\n\r\n" + body


@dataclass(frozen=True)
class Person:
    """A user who has signed up and logged in."""

    email: str
    user_id: str
    account_id: str
    account_token: str
    access: str
    refresh: str


class Scene:
    """A server with two users and an admin, all of whom have logged in."""

    ada: Person
    bob: Person
    admin: str
    document: dict[str, Any]

    def __init__(self, server: Server, api: Api) -> None:
        self.server = server
        self.api = api

    async def set_up(self, books: Books) -> Scene:
        """Have them sign up and log in."""
        self.ada, self.bob = await self.person("ada", books), await self.person("bob", books)
        self.admin = await self.api.admin(books)
        self.document = (await self.api.ask("GET", "/api/openapi.json")).json
        return self

    async def person(self, name: str, books: Books) -> Person:
        """Have somebody sign up and log in."""
        email = f"{name}@example.com"
        made = (await self.api.ask("POST", "/users", {"name": name, "email": email, "password": PASSWORD})).data
        books.cheapen(PASSWORD, email)
        given = (await self.api.ask("POST", "/api/auth/login", {"email": email, "password": PASSWORD})).data
        tokens = (made["token"], given["access_token"], given["refresh_token"])
        return Person(email, made["id"], made["account"]["id"], *tokens)


async def scene(machine: Machine, books: Books, clients: Clients, *options: str) -> Scene:
    """Start a server, and set everything up."""
    server = await machine.serve("--database", books.url, *options).ready()
    return await Scene(server, clients(server)).set_up(books)


@dataclass(frozen=True)
class Operation:
    """An operation of the OpenAPI document, and what it may be asked with."""

    method: str
    path: str
    statuses: frozenset[int]
    is_open: bool
    query: tuple[str, ...]
    fields: tuple[str, ...]
    required: tuple[str, ...]

    @property
    def name(self) -> str:
        """How it is called."""
        return f"{self.method} {self.path}"


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    """Return every operation told of, but the event stream, which has no end, and those in the games' dialect."""

    def opened(told: dict[str, Any]) -> Any:
        while "$ref" in told:
            found: Any = document
            for part in told["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            told = found
        return told

    for path, methods in document["paths"].items():
        for method, told in methods.items():
            if path == "/api/events" or path.startswith(("/transaction/", "/user/")):
                continue
            parameters = [opened(one) for one in told.get("parameters", ())]
            schema: dict[str, Any] = {}
            if "requestBody" in told:
                (content,) = opened(told["requestBody"])["content"].values()
                schema = opened(content["schema"])
            yield Operation(
                method.upper(),
                path,
                frozenset(map(int, told["responses"])),
                is_open=not told.get("security"),
                query=tuple(one["name"] for one in parameters if one["in"] == "query"),
                fields=tuple(schema.get("properties", ())),
                required=tuple(schema.get("required", ())),
            )

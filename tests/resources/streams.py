"""Answers that come in chunks, and a statement in memory to make them of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import Deferred

from ledger.domain.accounts import Owner
from ledger.domain.money import format_amount
from ledger.store.statements import Line
from tests.resources.harness import Connection, Reply, Server, parse

SINCE, BEFORE = "2026-01-01T00:00:00.000000Z", "2026-02-01T00:00:00.000000Z"


def line(number: int, description: str | None = None) -> Line:
    """A line of a statement."""
    return Line(
        transaction_id=f"01900000-0000-7000-9000-{number:012x}",
        transfer_id=f"01900000-0000-7000-a000-{number:012x}",
        kind="topup",
        type="credit",
        amount="1.00",
        balance=f"{number}.00",
        description=description,
        effective_at=SINCE,
        posted_at=SINCE,
    )


class MemoryStatement:
    """Slices that are there at once, or when the test says so; an exception among them is raised."""

    def __init__(self, slices: Iterable[list[Line] | Exception | Deferred[list[Line]]]) -> None:
        self._slices = list(slices)
        self.since, self.before = SINCE, BEFORE
        self.opening, self.closing = 0, 300
        self.owner = Owner("", None, "USD/2", is_system=False)
        self.reads = 0

    def money(self, amount: int) -> str:
        """The amount in USD."""
        return format_amount(amount, 2)

    async def lines(self) -> list[Line]:
        """The next slice."""
        self.reads += 1
        found = self._slices.pop(0) if self._slices else []
        if isinstance(found, Exception):
            raise found
        return await found if isinstance(found, Deferred) else found


class MemoryHistories:
    """Gives out one statement, and notes what was asked for."""

    def __init__(self, statement: Any) -> None:
        self.given = statement
        self.asked: list[Any] = []

    async def statement(self, owner: Owner, since: Any, before: Any) -> Any:
        """Begin the statement."""
        self.asked.append((owner.account_id, since, before))
        if isinstance(self.given, Exception):
            raise self.given
        self.given.owner = owner
        return self.given


def path_of(server: Server, query: str = "") -> str:
    """The path of the statement of the user's account."""
    return f"/api/accounts/{server.account.account_id}/statement{query}"


def begin(server: Server, query: str = "", headers: dict[str, str | None] | None = None) -> Connection:
    """Ask for a statement."""
    connection = server.connect()
    connection.send(server.request("GET", path_of(server, query), None, headers))
    return connection


def whole(data: bytes) -> tuple[Reply, bytes]:
    """The first answer in the data, whose chunks have all come, and the rest."""
    reply, rest = parse(data)
    assert reply.header("Transfer-Encoding") == "chunked"
    assert reply.body == b""
    body = b""
    while True:
        size, separator, rest = rest.partition(b"\r\n")
        assert separator, "the last chunk is missing"
        length = int(size, 16)
        body += rest[:length]
        assert rest[length : length + 2] == b"\r\n"
        rest = rest[length + 2 :]
        if not length:
            return Reply(reply.status, reply.headers, body), rest

"""Statements of an account: all that counts within a time, line by line, as JSON or CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from typing import Final, Literal

import msgspec
from msgspec.structs import astuple

from ledger.domain.money import asset_named
from ledger.domain.policy import Action, Caller
from ledger.resources.answers import to_json
from ledger.resources.backend import Backend
from ledger.resources.endpoint import Call, Endpoint, Streamed
from ledger.resources.reading import Moment, identifier
from ledger.resources.wallet import OF_ONE, wallet_meant
from ledger.store.statements import Line, Statement

CSV: Final = "text/csv; charset=utf-8"

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # how a text begins that a spreadsheet would calculate


class StatementQuery(msgspec.Struct, frozen=True):
    """A time without its end, the account's opening and now where left out; and how it is to be written."""

    since: Moment | None = msgspec.field(name="from", default=None)
    before: Moment | None = msgspec.field(name="to", default=None)
    format: Literal["json", "csv"] = "json"


class AccountStatement(msgspec.Struct, frozen=True):
    """What an account held at both ends of a time, and every movement of money that counts in between."""

    account_id: str
    currency: str
    since: str = msgspec.field(name="from")
    before: str = msgspec.field(name="to")
    opening_balance: str
    closing_balance: str
    lines: list[Line]


class StatementEndpoints:
    """GET /api/accounts/<id>/statement."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare it."""
        return (
            Endpoint(
                "GET",
                "/api/accounts/<id>/statement",
                self.read,
                summary="The statement of an account",
                policy=Action.READ_HISTORY,
                query=StatementQuery,
                answer=AccountStatement,
                further_types=("text/csv",),
                refuses=(*OF_ONE, "invalid_request", "invalid_datetime_format"),
            ),
        )

    async def read(self, caller: Caller, call: Call[None, StatementQuery]) -> Streamed:
        """Tell the lines in the order in which they count, as known when the answer began; however many, it streams."""
        account_id, query = identifier(call.params["id"], "id"), call.query
        owner = await wallet_meant(self._backend, caller, Action.READ_HISTORY, account_id)
        statement = await self._backend.histories.statement(owner, query.since, query.before)
        if query.format == "json":
            return Streamed(_Json(statement).part)
        name = b'attachment; filename="statement-%b.csv"' % account_id.encode()
        return Streamed(_Csv(statement).part, CSV.encode(), ((b"Content-Disposition", name),))


class _Json:
    """A statement as JSON, part by part."""

    def __init__(self, statement: Statement) -> None:
        self._statement = statement
        self._next: bytes | None = self._head()
        self._separator = b""

    async def part(self) -> bytes:
        """Return the next part."""
        told, self._next = self._next, b""
        if told is None:
            return b""
        if told:
            return told
        lines = await self._statement.lines()
        if not lines:
            self._next = None
            return b"]}"
        separator, self._separator = self._separator, b","
        return separator + to_json(lines)[1:-1]

    def _head(self) -> bytes:
        statement = self._statement
        owner = statement.owner
        whole = AccountStatement(
            account_id=owner.account_id,
            currency=asset_named(owner.asset).code,
            since=statement.since,
            before=statement.before,
            opening_balance=statement.money(statement.opening),
            closing_balance=statement.money(statement.closing),
            lines=[],
        )
        return to_json(whole)[:-2]


class _Csv:
    """The lines of a statement as CSV, part by part."""

    def __init__(self, statement: Statement) -> None:
        self._statement = statement
        self._has_head = False

    async def part(self) -> bytes:
        """Return the next part."""
        if not self._has_head:
            self._has_head = True
            return _rows([Line.__struct_fields__])
        return _rows([astuple(_harmless(line)) for line in await self._statement.lines()])


def _harmless(line: Line) -> Line:
    """Return a line whose one text of a client's is no formula to any spreadsheet."""
    if line.description is None or not line.description.startswith(_FORMULA):
        return line
    return msgspec.structs.replace(line, description=f"'{line.description}")


def _rows(rows: Sequence[Sequence[str | None]]) -> bytes:
    text = StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()

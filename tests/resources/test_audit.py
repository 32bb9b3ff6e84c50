"""GET /api/audit: who may read it, and how it is asked for."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest

from ledger.resources.audit import AuditEndpoints
from ledger.store.audit import AuditFilter, AuditLine
from tests.resources.backend import MemoryBackend
from tests.resources.harness import Reply, Server

USER = "01900000-0000-7000-8000-00000000000a"


class MemoryAudit:
    """An audit log of a few lines, newest first, that remembers what it was asked."""

    def __init__(self) -> None:
        self.lines = [self.line(number) for number in range(45, 0, -1)]
        self.asked: list[AuditFilter] = []

    def line(self, number: int) -> AuditLine:
        at = f"2026-01-02T03:04:{number // 2:02d}.000001Z"
        plain = ("token_expired", "GET /x", "user", USER, "192.0.2.1", "c", 1, {"n": number})
        return AuditLine(str(UUID(int=number)), at, at, "authentication_failed", *plain)

    async def read(self, wanted: AuditFilter, after: tuple[str, str] | None, limit: int) -> list[AuditLine]:
        """The lines after a place."""
        self.asked.append(wanted)

        def stands_after(line: AuditLine) -> bool:
            if after is None:
                return True
            return (datetime.fromisoformat(line.at), line.id) < (datetime.fromisoformat(after[0]), after[1])

        return [line for line in self.lines if stands_after(line)][:limit]


class House:
    """A server with nothing but the audit log."""

    def __init__(self) -> None:
        self.audit = MemoryAudit()
        audit: Any = self.audit
        self.server = Server(MemoryBackend(), endpoints=AuditEndpoints(audit).endpoints())

    def ask(self, query: str = "", token: str | None = None) -> Reply:
        """Ask as an admin, or with another token."""
        return self.server.ask("GET", f"/api/audit?{query}", token=token or self.server.backend.admin_token)


@pytest.fixture
def house() -> House:
    return House()


def test_a_line_as_it_is_told(house: House) -> None:
    reply = house.ask("limit=1")
    assert reply.status == 200
    assert reply.data == [
        {
            "id": str(UUID(int=45)),
            "at": "2026-01-02T03:04:22.000001Z",
            "until": "2026-01-02T03:04:22.000001Z",
            "event": "authentication_failed",
            "reason": "token_expired",
            "endpoint": "GET /x",
            "actor_kind": "user",
            "actor_id": USER,
            "address": "192.0.2.1",
            "correlation_id": "c",
            "count": 1,
            "details": {"n": 45},
        }
    ]
    assert house.audit.asked == [AuditFilter()]


@pytest.mark.parametrize(
    ("query", "limit"), [("", 20), ("limit=7", 7), ("limit=9", 9), ("limit=45", 45), ("limit=999", 100)]
)
def test_pages_follow_each_other(house: House, query: str, limit: int) -> None:
    seen: list[int] = []
    cursor = None
    while True:
        reply = house.ask(query if cursor is None else f"{query}&cursor={quote(cursor)}")
        pagination = reply.json["metadata"]["pagination"]
        assert len(reply.data) <= limit
        assert (pagination["type"], pagination["limit"]) == ("keyset", limit)
        seen += [line["details"]["n"] for line in reply.data]
        cursor = pagination["next_cursor"]
        assert pagination["has_more"] == (cursor is not None)
        if cursor is None:
            break
    assert seen == list(range(45, 0, -1))


def test_filters(house: House) -> None:
    house.ask(
        f"event=rate_limited&actor_id={USER.upper()}&address=::FFFF:192.0.2.1"
        "&from=2026-01-02T00:00:00Z&to=2026-01-02T03:00:00.5%2B02:00"
    )
    assert house.audit.asked == [
        AuditFilter(
            "rate_limited",
            USER,
            "192.0.2.1",
            datetime(2026, 1, 2, tzinfo=UTC),
            datetime(2026, 1, 2, 1, 0, 0, 500_000, tzinfo=UTC),
        )
    ]


UNREADABLE = [
    "{}",
    "[" * 5_000,
    f'{{"at":"2026-01-02T00:00:00","id":"{USER}"}}',
    '{"at":"2026-01-02T00:00:00Z","id":"x"}',
]


def cursor(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("query", "reason", "field"),
    [
        ("limit=0", "invalid_pagination", "limit"),
        ("limit=x", "invalid_pagination", "limit"),
        ("cursor=", "invalid_cursor", "cursor"),
        ("cursor=x", "invalid_cursor", "cursor"),
        ("cursor=%F0%9F%92%B6", "invalid_cursor", "cursor"),
        *[(f"cursor={cursor(text)}", "invalid_cursor", "cursor") for text in UNREADABLE],
        ("event=nothing", "invalid_request", "event"),
        ("actor_id=x", "invalid_uuid_format", "actor_id"),
        ("from=yesterday", "invalid_datetime_format", "from"),
        ("from=2026-01-02", "invalid_datetime_format", "from"),
        ("to=2026-01-02T00:00:00", "invalid_datetime_format", "to"),
        ("to=2026-13-02T00:00:00Z", "invalid_datetime_format", "to"),
        (f"address={'x' * 256}", "invalid_request", "address"),
    ],
)
def test_what_cannot_be_asked(house: House, query: str, reason: str, field: str) -> None:
    reply = house.ask(query)
    assert reply.refusal == (400, reason)
    assert reply.error["details"]["field"] == field
    assert house.audit.asked == []


@pytest.mark.parametrize("role", ["user", "support"])
def test_it_is_for_admins(house: House, role: Any) -> None:
    backend = house.server.backend
    for token in (backend.log_in(role), house.server.token):
        assert house.ask("actor_id=x", token).refusal == (403, "insufficient_permissions")
    assert house.server.ask("GET", "/api/audit", token=None).refusal == (401, "invalid_token")
    assert house.audit.asked == []

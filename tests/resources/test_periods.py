"""Closing periods over HTTP, and balances at an instant."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ledger.domain.accounts import Owner, world_id
from ledger.domain.errors import Refused
from ledger.domain.periods import PERIODS
from ledger.store.balances import BalanceAt
from tests.resources.backend import INSTANT
from tests.resources.harness import Reply, Server

UNTIL = "2026-01-01T00:00:00.000000Z"
LATER = "2026-01-01T00:00:00.000001Z"


@pytest.fixture
def closing(server: Server) -> Server:
    """A server that knows of closed periods."""
    server.backend.book.facts = {PERIODS: {}}
    return server


def close(server: Server, until: object, key: str | None = None) -> Reply:
    """Close periods, as an admin."""
    headers = {} if key is None else {"Idempotency-Key": key}
    return server.ask("POST", "/api/periods/close", {"until": until}, headers, token=server.backend.admin_token)


def test_a_period_is_closed_once(closing: Server) -> None:
    reply = close(closing, "2026-01-01T02:00:00+02:00")
    assert reply.status == 200
    record = closing.backend.submitted[-1].id
    assert reply.data == {"id": record, "seq": 1, "until": UNTIL, "closed_at": INSTANT}
    again = close(closing, UNTIL)
    assert again.refusal == (409, "already_processed")
    assert again.error["details"] == {"field": "until", "until": UNTIL}
    assert close(closing, LATER).data["seq"] == 2
    assert [event.event for event in closing.audited] == ["admin_action", "admin_action"]


def test_a_key_closes_once_and_answers_alike(closing: Server) -> None:
    first, second = close(closing, UNTIL, "k"), close(closing, "2026-01-01T01:00:00+01:00", "k")
    assert second.header("Idempotent-Replayed") == "true"
    assert (second.status, second.data) == (first.status, first.data)
    other = close(closing, LATER, "k")
    assert other.refusal == (409, "duplicate_transaction")
    assert other.error["details"] == {"transfer_id": first.data["id"]}


@pytest.mark.parametrize(
    ("until", "reason"),
    [
        (None, "missing_fields"),
        ("", "missing_fields"),
        ("2026-01-01", "invalid_datetime_format"),
        ("2026-01-01T00:00:00", "invalid_datetime_format"),
        ("0001-01-01T00:00:00+14:00", "invalid_datetime_format"),
        ("2026-01-02T03:04:05.678902Z", "invalid_datetime_format"),  # to come
        (1767225600, "invalid_request"),
    ],
)
def test_what_is_no_end_of_a_period(closing: Server, until: object, reason: str) -> None:
    reply = close(closing, until)
    assert reply.refusal == (400, reason)
    assert reply.error["details"]["field"] == "until"


def test_only_admins_close_periods(closing: Server) -> None:
    for token in ("own", closing.backend.log_in("user"), closing.backend.log_in("support")):
        reply = closing.ask("POST", "/api/periods/close", {"until": UNTIL}, token=token)
        assert reply.refusal == (403, "insufficient_permissions")
    assert closing.backend.submitted == []


class MemoryHistories:
    """Tells one balance, and notes what was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, datetime | None, datetime | None]] = []
        self.refused: Refused | None = None

    async def balance_at(self, owner: Owner, at: datetime | None, known_at: datetime | None) -> BalanceAt:
        """Read a balance."""
        self.asked.append((owner.account_id, at, known_at))
        if self.refused is not None:
            raise self.refused
        return BalanceAt(-1234, UNTIL, LATER)


@pytest.fixture
def histories(server: Server) -> MemoryHistories:
    """What balances are read from."""
    server.backend.histories = found = MemoryHistories()
    return found


def balance(server: Server, query: str = "", account_id: str | None = None, **more: Any) -> Reply:
    """Ask for a balance."""
    return server.ask("GET", f"/api/accounts/{account_id or server.account.account_id}/balance{query}", **more)


def test_the_balance_now(server: Server, histories: MemoryHistories) -> None:
    server.credit("50.00")
    server.backend.book.accounts[server.account.account_id].held = 2000
    assert balance(server).data == {
        "account_id": server.account.account_id,
        "currency": "USD",
        "balance": "50.00",
        "at": INSTANT,
        "known_at": INSTANT,
        "available": "30.00",
        "version": 1,
    }
    assert histories.asked == []


def test_the_balance_at_an_instant(server: Server, histories: MemoryHistories) -> None:
    account_id = server.account.account_id
    at, known_at = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    for query in ("?at=2026-01-01T00:00:00Z&known_at=2026-01-02T01:00:00%2B01:00", "?at=2026-01-01T00:00:00Z"):
        assert balance(server, query).data == {
            "account_id": account_id,
            "currency": "USD",
            "balance": "-12.34",
            "at": UNTIL,
            "known_at": LATER,
        }
    balance(server, "?known_at=2026-01-02T00:00:00Z")
    assert histories.asked == [(account_id, at, known_at), (account_id, at, None), (account_id, None, known_at)]
    histories.refused = Refused("invalid_datetime_format", field="at")
    assert balance(server, "?at=2999-01-01T00:00:00Z").refusal == (400, "invalid_datetime_format")


def test_whose_balance_it_is(server: Server, histories: MemoryHistories) -> None:
    somebodys, _ = server.backend.open_account(server.backend.new_id())
    world = world_id("USD/2")
    for account_id, refusal in (
        ("1", (400, "invalid_uuid_format")),
        (server.backend.new_id(), (404, "account_not_found")),
        (world, (404, "account_not_found")),
        (somebodys.account_id, (403, "unauthorized_access")),
    ):
        for query in ("", "?at=2026-01-01T00:00:00Z"):
            assert balance(server, query, account_id).refusal == refusal
    for query, field in (("?at=now", "at"), ("?known_at=5", "known_at"), ("?at=2026-01-01T00:00:00", "at")):
        reply = balance(server, query)
        assert reply.refusal == (400, "invalid_datetime_format")
        assert reply.error["details"]["field"] == field
    assert histories.asked == []
    assert balance(server, "", world, token=server.backend.admin_token).data["balance"] == "0.00"
    assert balance(server, "", somebodys.account_id, token=server.backend.log_in("support")).status == 200

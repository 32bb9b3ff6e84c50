"""The journal over HTTP: in order, exact, in pages; and its verdict."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred

from ledger.domain.accounts import world_id
from ledger.domain.audit_rows import Finding
from ledger.domain.cash import Credit
from ledger.domain.commands import Sealed
from ledger.domain.journal import GENESIS, read_body
from ledger.store.journal_pages import JournalPage, Kept
from ledger.store.verify import Verdict
from tests.resources.harness import Reply, Server


class MemoryHistories:
    """A journal in memory, and verdicts that come when the test says so."""

    def __init__(self, sealed: list[Sealed]) -> None:
        self._kept = [Kept(one.record, one.hash, one.body.decode()) for one in sealed]
        self.asked: list[tuple[int, int]] = []
        self.verdicts: list[Deferred[Verdict]] = []

    async def journal(self, since: int, limit: int) -> JournalPage:
        """Read a page."""
        self.asked.append((since, limit))
        kept = [one for one in self._kept if one.record.seq > since]
        assets = {entry.account: "USD/2" for one in kept for entry in one.record.entries}
        return JournalPage(kept[:limit], assets, len(kept) > limit)

    async def verdict(self) -> Verdict:
        """Verify."""
        self.verdicts.append(Deferred())
        return await self.verdicts[-1]


@pytest.fixture
def journal(server: Server) -> list[Sealed]:
    """Some credits, as they were decided."""
    sealed: list[Any] = [
        server.backend.book.decide(
            Credit(
                id=server.backend.new_id(),
                description="Pay \u201cMay\u201d",
                account_id=server.account.account_id,
                user_id=server.user_id,
                asset="USD/2",
                amount=amount,
            )
        )
        for amount in (100, 250, 5)
    ]
    server.backend.histories = MemoryHistories(sealed)
    return sealed


def ask(server: Server, query: str = "") -> Reply:
    """Ask for a page, as an admin."""
    return server.ask("GET", f"/api/journal{query}", token=server.backend.admin_token)


def test_the_journal_is_told_as_it_is_kept(server: Server, journal: list[Sealed]) -> None:
    reply = ask(server)
    assert [one["body"].encode() for one in reply.data] == [one.body for one in journal]
    previous = GENESIS
    for told, sealed in zip(reply.data, journal, strict=True):
        previous = sha256(previous + told["body"].encode()).digest()
        assert told["hash"] == previous.hex()
        record = read_body(told["body"])
        assert record == sealed.record
        assert (told["seq"], told["id"]) == (record.seq, record.id)
        assert (told["kind"], told["posted_at"]) == (record.kind, record.posted_at)
        assert list(told) == ["seq", "id", "kind", "posted_at", "entries", "hash", "body"]
    assert reply.data[1]["entries"] == [
        {"account_id": world_id("USD/2"), "type": "debit", "amount": "2.50", "balance": "-3.50", "version": 2},
        {"account_id": server.account.account_id, "type": "credit", "amount": "2.50", "balance": "3.50", "version": 2},
    ]
    expected = {"type": "keyset", "limit": 20, "has_more": False, "next_cursor": None}
    assert reply.json["metadata"]["pagination"] == expected


@pytest.mark.usefixtures("journal")
def test_pages_go_on_where_the_last_one_ended(server: Server) -> None:
    seen, query = [], "?limit=2"
    while True:
        reply = ask(server, query)
        seen += [one["seq"] for one in reply.data]
        pagination = reply.json["metadata"]["pagination"]
        assert pagination["has_more"] == (pagination["next_cursor"] is not None)
        if not pagination["has_more"]:
            break
        assert pagination["next_cursor"] == str(seen[-1])
        query = f"?limit=2&since=0&cursor={pagination['next_cursor']}"
    assert seen == [1, 2, 3]
    assert [one["seq"] for one in ask(server, "?since=2").data] == [3]
    assert ask(server, "?since=9223372036854775807").data == []
    assert server.backend.histories.asked[-1] == (2**63 - 1, 20)


@pytest.mark.usefixtures("journal")
@pytest.mark.parametrize(
    ("query", "field", "reason"),
    [
        ("since=-1", "since", "invalid_cursor"),
        ("since=1.0", "since", "invalid_cursor"),
        ("since=", "since", "invalid_cursor"),
        ("since=null", "since", "invalid_cursor"),
        ("since=9223372036854775808", "since", "invalid_cursor"),
        ("cursor=x", "cursor", "invalid_cursor"),
        ("limit=0", "limit", "invalid_pagination"),
    ],
)
def test_what_is_no_place_in_the_journal(server: Server, query: str, field: str, reason: str) -> None:
    reply = ask(server, f"?{query}")
    assert reply.refusal == (400, reason)
    assert reply.error["details"]["field"] == field
    assert server.backend.histories.asked == []


def test_a_verdict_is_told_whatever_it_is(server: Server, journal: list[Sealed]) -> None:
    assert journal
    for verdict in (Verdict(True, 3, 3), Verdict(False, 3, 1, Finding("journal 2", "is not as it was", 2))):
        connection = server.connect()
        connection.send(server.request("GET", "/api/journal/verify", token=server.backend.admin_token))
        assert connection.replies() == []
        server.backend.histories.verdicts[-1].callback(verdict)
        (reply,) = connection.replies()
        assert (reply.status, reply.data) == (200, msgspec.to_builtins(verdict))


@pytest.mark.parametrize("path", ["/api/journal", "/api/journal/verify"])
def test_only_admins_read_it(server: Server, path: str) -> None:
    for token in ("own", server.backend.log_in("user"), server.backend.log_in("support")):
        assert server.ask("GET", path, token=token).refusal == (403, "insufficient_permissions")
    assert server.ask("GET", path, token=None).refusal == (401, "invalid_token")
    assert server.ask("GET", path, token=server.backend.admin_token).refusal == (503, "service_unavailable")

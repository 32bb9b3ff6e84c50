"""The journal itself, for whoever audits it."""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from ledger.domain.errors import Refused
from ledger.domain.money import asset_named, format_amount
from ledger.domain.policy import Action, Caller
from ledger.resources.backend import Backend
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.resources.paging import KeysetMetadata, KeysetPagination, KeysetQuery, limit_of
from ledger.store.journal_pages import Kept
from ledger.store.verify import Verdict

_MOST: Final = 2**63 - 1
_is_seq = re.compile(r"[0-9]{1,19}\Z").match

# Text too, so that what is no number is refused here, for the reason that cursors have.
Seq = Annotated[int | str, Meta(extra_json_schema={"type": "integer", "minimum": 0})]


class JournalQuery(KeysetQuery, frozen=True, kw_only=True):
    """Which records: those that follow a number, or the one that a cursor stands for."""

    since: Seq = 0


class JournalEntry(msgspec.Struct, frozen=True):
    """A movement of money on one account, with the balance and the version after it."""

    account_id: str
    type: str
    amount: str
    balance: str
    version: int


class JournalRecord(msgspec.Struct, frozen=True):
    """A record: `hash` is SHA-256, in hexadecimal digits, over the hash before it and the exact bytes of `body`."""

    seq: int
    id: str
    kind: str
    posted_at: str
    entries: list[JournalEntry]
    hash: str
    body: str


class JournalEndpoints:
    """GET /api/journal, and whether it holds."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare them."""
        return (
            Endpoint(
                "GET",
                "/api/journal",
                self.read,
                summary="The journal, in its order",
                policy=Action.READ_JOURNAL,
                query=JournalQuery,
                answer=list[JournalRecord],
                refuses=("invalid_request", "invalid_pagination", "invalid_cursor", "service_unavailable"),
            ),
            Endpoint(
                "GET",
                "/api/journal/verify",
                self.verify,
                summary="Whether the whole journal holds",
                policy=Action.READ_JOURNAL,
                answer=Verdict,
                refuses=("service_unavailable",),
            ),
        )

    async def read(self, _caller: Caller, call: Call[None, JournalQuery]) -> Answer:
        """Read records without a gap; a page may hold fewer than its limit while `has_more` says that others follow."""
        query = call.query
        limit = limit_of(query)
        since = _seq(query.since, "since") if query.cursor is None else _seq(query.cursor, "cursor")
        page = await self._backend.histories.journal(since, limit)
        following = str(page.kept[-1].record.seq) if page.has_more and page.kept else None
        pagination = KeysetPagination(limit=limit, has_more=following is not None, next_cursor=following)
        return Answer([_told(one, page.assets) for one in page.kept], metadata=KeysetMetadata(pagination))

    async def verify(self, _caller: Caller, _call: Call[None, None]) -> Answer:
        """Check every invariant over the whole journal, which takes its time; who asks meanwhile shares the verdict."""
        return Answer(await self._backend.histories.verdict())


def _told(kept: Kept, assets: dict[str, str]) -> JournalRecord:
    record = kept.record
    entries = []
    for entry in record.entries:
        scale = asset_named(assets[entry.account]).scale
        amount, balance = format_amount(abs(entry.amount), scale), format_amount(entry.balance, scale)
        entries.append(JournalEntry(entry.account, entry.type, amount, balance, entry.version))
    return JournalRecord(
        seq=record.seq,
        id=record.id,
        kind=record.kind,
        posted_at=record.posted_at,
        entries=entries,
        hash=kept.hash.hex(),
        body=kept.body,
    )


def _seq(value: int | str, field: str) -> int:
    text = str(value)
    if not _is_seq(text) or int(text) > _MOST:
        raise Refused("invalid_cursor", field=field)
    return int(text)

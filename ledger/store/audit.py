"""The audit log in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from ledger.store.pool import Pool

_INSTANT: Final = """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""


class AuditRow(msgspec.Struct, kw_only=True):
    """One row as it is written: `at` and `until` in seconds of the epoch, and how often the same was seen by then."""

    id: str
    at: float
    until: float
    event: str
    reason: str | None
    endpoint: str | None
    actor_kind: str | None
    actor_id: str | None
    address: str | None
    correlation_id: str | None
    count: int
    details: dict[str, Any]


class AuditLine(msgspec.Struct, frozen=True):
    """One row as it is read: the times as text."""

    id: str
    at: str
    until: str
    event: str
    reason: str | None
    endpoint: str | None
    actor_kind: str | None
    actor_id: str | None
    address: str | None
    correlation_id: str | None
    count: int
    details: dict[str, Any]


class AuditFilter(msgspec.Struct, frozen=True):
    """Which rows are asked for; what is None admits all. `since` is the first instant, `before` the first no more."""

    event: str | None = None
    actor_id: str | None = None
    address: str | None = None
    since: datetime | None = None
    before: datetime | None = None


async def keep(pool: Pool, rows: Sequence[AuditRow]) -> None:
    """Write rows; those that are there already are brought up to date, so that writing them again does no harm."""
    await pool.query(
        """INSERT INTO audit_log AS kept (id, at, until, event, reason, endpoint, actor_kind, actor_id, address,
                                          correlation_id, count, details)
           SELECT id, to_timestamp(at), to_timestamp(until), event, reason, endpoint, actor_kind, actor_id, address,
                  correlation_id, count, details
           FROM jsonb_to_recordset(%s::jsonb)
                AS fresh (id uuid, at float8, until float8, event text, reason text, endpoint text, actor_kind text,
                          actor_id uuid, address text, correlation_id text, count integer, details jsonb)
           ON CONFLICT (id) DO UPDATE SET until = greatest(kept.until, excluded.until),
                                          count = greatest(kept.count, excluded.count)""",
        (msgspec.json.encode(rows).decode(),),
    )


async def read(pool: Pool, wanted: AuditFilter, after: tuple[str, str] | None, limit: int) -> list[AuditLine]:
    """Return at most so many rows, newest first, those after the row with this `at` and `id`."""
    terms, values = [], []
    for term, value in (
        ("event = %s", wanted.event),
        ("actor_id = %s", wanted.actor_id),
        ("address = %s", wanted.address),
        ("at >= %s", wanted.since),
        ("at < %s", wanted.before),
    ):
        if value is not None:
            terms.append(term)
            values.append(value)
    if after is not None:
        terms.append("(at, id) < (%s::timestamptz, %s::uuid)")
        values.extend(after)
    where = f"WHERE {' AND '.join(terms)}" if terms else ""
    # The order names the table's own columns: `id` alone would be the text of the select list, which no index has.
    rows = await pool.query(
        f"""SELECT id::text, {_INSTANT.format("at")}, {_INSTANT.format("until")}, event, reason, endpoint, actor_kind,
                   actor_id::text, address, correlation_id, count, details
            FROM audit_log {where} ORDER BY audit_log.at DESC, audit_log.id DESC LIMIT %s""",
        (*values, limit),
    )
    return [AuditLine(*row) for row in rows]


async def forget(pool: Pool, days: int, most: int) -> int:
    """Delete at most so many rows that are older than so many days, oldest first; returns how many went."""
    ((gone,),) = await pool.query(
        """WITH old AS (SELECT id FROM audit_log WHERE at < now() - make_interval(days => %s) ORDER BY at, id LIMIT %s),
                gone AS (DELETE FROM audit_log WHERE id IN (SELECT id FROM old) RETURNING 1)
           SELECT count(*) FROM gone""",
        (days, most),
    )
    return int(gone)

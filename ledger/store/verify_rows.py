"""What `verify` reads beside a slice of the journal: the rows that its records should have led to."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from ledger.domain.audit_games import mark_of
from ledger.domain.audit_holds import holds_of
from ledger.domain.audit_payments import payment_of
from ledger.domain.audit_rows import (
    KeptBackdated,
    KeptEntry,
    KeptGameUser,
    KeptHold,
    KeptPayment,
    KeptRecord,
    KeptReversed,
    Nature,
    Tables,
)
from ledger.domain.audit_transfers import until_of
from ledger.domain.game_users import GAMES, game_account_id
from ledger.domain.journal import Record, read_body
from ledger.store.pool import Pool

T = TypeVar("T")

_is_uuid = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.ASCII).fullmatch


def instant(column: str) -> str:
    """Return SQL for an instant in the form that records carry."""
    return f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"


HOLD: Final = f"""h.id::text, h.account_id::text, h.amount, h.captured, h.status, {instant("h.expires_at")},
                   h.description, {instant("h.created_at")}, h.seq"""


PAYMENT: Final = f"""p.id::text, p.user_id::text, p.account_id::text, p.amount, p.direction, p.payment_type,
                   p.description, p.status, {instant("p.posted_at")}, p.failure_reason, p.transfer_id::text,
                   {instant("p.inserted_at")}, {instant("p.updated_at")}, p.seq, p.paid_in_day,
                   (SELECT last.paid_in_day FROM (
                       SELECT q.posted_at, q.paid_in_day FROM payments AS q
                       WHERE q.account_id = p.account_id AND q.status = 'COMPLETED' AND q.direction = 'DEBIT'
                             AND q.seq < p.seq ORDER BY q.seq DESC LIMIT 1) AS last
                    WHERE date_trunc('day', last.posted_at, 'UTC') = date_trunc('day', p.posted_at, 'UTC'))"""


async def tables_of(pool: Pool, kept: Sequence[KeptRecord], records: Sequence[Record]) -> Tables:
    """Return what a few records should have led to, and what they refer to; tables that none names are not asked."""
    backdated = {row.seq: row.effective_at for row in kept if row.effective_at < row.posted_at}
    games = [record for record in records if record.kind in ("game_deposit", "game_status")]
    names = said(games, lambda record: [str((record.metadata or {})["name"])])
    marks = said((r for r in records if r.kind == "rollback"), lambda record: [mark_of(record)])
    marks = [mark for mark in marks if _is_uuid(mark[0])]
    closings = said((r for r in records if r.kind == "period_close"), lambda record: [until_of(record)])
    reverses = [record.reverses for record in records if record.reverses is not None]
    return Tables(
        natures=await _natures(pool, {item.account for record in records for item in record.items}),
        entries=await _entries(pool, records),
        holds=await _holds(pool, said(records, holds_of)),
        originals=await _originals(pool, reverses),
        reversed_transfers=await _reversed(pool, reverses),
        backdated=await _backdated(pool, backdated, records) if backdated else {},
        closed_periods=await _closed(pool, closings) if closings else {},
        game_users=await _game_users(pool, map(game_account_id, names)) if names else {},
        game_transactions=await _game_transactions(pool, [uuid for uuid, _ in marks]) if marks else {},
        game_undone=await _game_undone(pool, marks) if marks else {},
        payments=await _payments(pool, said(records, payment_of)),
    )


def said(records: Iterable[Record], what: Callable[[Record], list[T]]) -> list[T]:
    """Return what records name; the audit tells of those that do not say what they should."""
    named: list[T] = []
    for record in records:
        try:
            named += what(record)
        except (LookupError, TypeError, ValueError):
            continue
    return named


def _ids(values: Iterable[Any]) -> list[str]:
    return list({value: None for value in values if isinstance(value, str) and _is_uuid(value)})


async def _natures(pool: Pool, account_ids: Iterable[str]) -> dict[str, Nature]:
    rows = await pool.query(
        f"""SELECT id::text, user_id::text, asset, type, {instant("created_at")}
            FROM accounts WHERE id = ANY (%s::uuid[])""",
        (_ids(account_ids),),
    )
    return {row[0]: Nature(*row) for row in rows}


async def _entries(pool: Pool, records: Iterable[Record]) -> dict[tuple[str, int], KeptEntry]:
    named = [entry for record in records for entry in record.entries if _is_uuid(entry.account)]
    rows = await pool.query(
        f"""SELECT t.id::text, t.account_id::text, t.seq, t.amount, t.type, t.balance, t.held, t.version,
                   {instant('t."timestamp"')}
            FROM unnest(%s::uuid[], %s::bigint[]) AS named (account_id, version)
            JOIN transactions AS t USING (account_id, version)""",
        ([entry.account for entry in named], [entry.version for entry in named]),
    )
    found = (KeptEntry(*row)._replace(balance=int(row[5]), held=int(row[6])) for row in rows)
    return {(entry.account_id, entry.version): entry for entry in found}


async def _holds(pool: Pool, hold_ids: Iterable[Any]) -> dict[str, KeptHold]:
    ids = _ids(hold_ids)
    rows = await pool.query(f"SELECT {HOLD} FROM holds AS h WHERE h.id = ANY (%s::uuid[])", (ids,)) if ids else []
    return {row[0]: KeptHold(*row) for row in rows}


async def _payments(pool: Pool, payment_ids: Iterable[Any]) -> dict[str, KeptPayment]:
    ids = _ids(payment_ids)
    sql = f"SELECT {PAYMENT} FROM payments AS p WHERE p.id = ANY (%s::uuid[])"
    rows = await pool.query(sql, (ids,)) if ids else []
    return {row[0]: KeptPayment(*row) for row in rows}


async def _originals(pool: Pool, record_ids: Iterable[str]) -> dict[str, Record]:
    ids = _ids(record_ids)
    rows = await pool.query("SELECT body FROM journal WHERE id = ANY (%s::uuid[])", (ids,)) if ids else []
    return {record.id: record for (body,) in rows if (record := readable(body)) is not None}


async def _reversed(pool: Pool, transfer_ids: Iterable[str]) -> dict[str, KeptReversed]:
    ids = _ids(transfer_ids)
    sql = "SELECT transfer_id::text, amount, seq FROM reversed_transfers WHERE transfer_id = ANY (%s::uuid[])"
    rows = await pool.query(sql, (ids,)) if ids else []
    return {row[0]: KeptReversed(row[0], int(row[1]), row[2]) for row in rows}


async def _backdated(
    pool: Pool, effective: Mapping[int, str], records: Iterable[Record]
) -> dict[tuple[str, int], KeptBackdated]:
    named = [
        (entry.account, effective[record.seq], entry.version)
        for record in records
        if record.seq in effective
        for entry in record.entries
        if _is_uuid(entry.account)
    ]
    rows = await pool.query(
        f"""SELECT b.account_id::text, {instant("b.effective_at")}, b.version, b.amount, {instant("b.posted_at")}
            FROM unnest(%s::uuid[], %s::timestamptz[], %s::bigint[]) AS named (account_id, effective_at, version)
            JOIN backdated_entries AS b USING (account_id, effective_at, version)""",
        ([one[0] for one in named], [one[1] for one in named], [one[2] for one in named]),
    )
    return {(row[0], row[2]): KeptBackdated(*row) for row in rows}


async def _closed(pool: Pool, closings: Sequence[str]) -> dict[str, int]:
    until = instant("until")  # compared as a text: there are few, and a body may say anything
    rows = await pool.query(f"SELECT {until}, seq FROM closed_periods WHERE {until} = ANY (%s)", (list(closings),))
    return dict(rows)


async def _game_users(pool: Pool, account_ids: Iterable[str]) -> dict[str, KeptGameUser]:
    rows = await pool.query(
        """SELECT g.account_id::text, g.name, g.status, a.name FROM game_users AS g
           JOIN accounts AS a ON a.id = g.account_id WHERE g.account_id = ANY (%s::uuid[])""",
        (list(account_ids),),
    )
    return {row[0]: KeptGameUser(*row) for row in rows}


async def _game_transactions(pool: Pool, uuids: list[str]) -> dict[str, Record]:
    rows = await pool.query("SELECT key, body FROM journal WHERE scope = %s AND key = ANY (%s)", (GAMES, uuids))
    return {key: record for key, body in rows if (record := readable(body)) is not None}


async def _game_undone(pool: Pool, marks: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    rows = await pool.query(
        """SELECT g.transaction_uuid::text, g.account_id::text, g.seq
           FROM unnest(%s::uuid[], %s::uuid[]) AS named (transaction_uuid, account_id)
           JOIN game_undone AS g USING (transaction_uuid, account_id)""",
        ([uuid for uuid, _ in marks], [account_id for _, account_id in marks]),
    )
    return {(uuid, account_id): seq for uuid, account_id, seq in rows}


def readable(body: str) -> Record | None:
    """Return the record that a body says, or None."""
    try:
        return read_body(body)
    except msgspec.DecodeError:
        return None

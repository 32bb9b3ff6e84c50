"""Transfers in PostgreSQL: the records that moved money, one by its id, or listed, newest first."""

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

import msgspec

from ledger.domain.journal import Record, read_body
from ledger.store.history import LOOKED_THROUGH
from ledger.store.pool import Pool
from ledger.store.versions import last_before

_MOST: Final = 1 << 20  # bytes of bodies in a page, unless the first alone has more
_NEWEST: Final = 2**63 - 1

# What would make the page too large comes without its body: the list goes on from there.
_PAGE: Final = """
    SELECT place, CASE WHEN total - size < %s THEN body END
    FROM (SELECT place, body, octet_length(body) AS size,
                 sum(octet_length(body)) OVER (ORDER BY place DESC ROWS UNBOUNDED PRECEDING) AS total
          FROM ({rows} ORDER BY place DESC LIMIT %s) AS found) AS measured ORDER BY place DESC"""

# A record is told once, at the last of its entries in the account.
_OF_ACCOUNT: Final = """
    SELECT t.version AS place, j.body
    FROM transactions AS t
    CROSS JOIN LATERAL (SELECT kind, body FROM journal WHERE journal.seq = t.seq OFFSET 0) AS j
    WHERE t.account_id = %s AND t.version > %s AND t.version <= %s
      AND coalesce((SELECT n.seq FROM transactions AS n
                    WHERE n.account_id = t.account_id AND n.version = t.version + 1), 0) <> t.seq{terms}"""

# Numbers are dense: so many of them are a stretch, and the index is read from its end even where nothing is known of
# the table. Of a record without entries the body holds no such text, unless as a part of its metadata.
_OF_JOURNAL: Final = """
    SELECT j.seq AS place, j.body
    FROM (SELECT seq, kind, body FROM journal WHERE seq <= %s ORDER BY seq DESC LIMIT %s) AS j
    WHERE strpos(j.body, '"entries":[[') > 0{terms}"""

# Records are dense and in the order of time, so the last one before an instant is found by halving.
_LAST_BEFORE: Final = """
    WITH RECURSIVE search (low, high) AS (
        SELECT 0::bigint, 1 + coalesce((SELECT max(seq) FROM journal), 0)
        UNION ALL
        SELECT CASE WHEN is_before THEN middle ELSE low END, CASE WHEN is_before THEN high ELSE middle END
        FROM (SELECT low, high, (low + high) / 2 AS middle,
                     (SELECT j.posted_at < %s FROM journal AS j WHERE j.seq = (low + high) / 2) AS is_before
              FROM search WHERE high - low > 1) AS half)
    SELECT low FROM search WHERE high - low = 1"""


class TransfersWanted(msgspec.Struct, frozen=True):
    """Which transfers are asked for; None admits all. `since` is the first instant, `before` the first no more."""

    kind: str | None = None
    since: datetime | None = None
    before: datetime | None = None


class TransferPage(msgspec.Struct, frozen=True):
    """Some records, and the place below which the list goes on; None at its end."""

    records: list[Record]
    following: int | None


async def find_transfer(pool: Pool, record_id: str) -> Record | None:
    """Return a record that moved money, or None."""
    rows = await pool.query("SELECT body FROM journal WHERE id = %s", (record_id,))
    return next(iter(_transfers(rows)), None)


async def transfers_under(pool: Pool, scopes: Collection[str], key: str) -> list[Record]:
    """Return the records that moved money under an idempotency key, newest first: one of a scope at most."""
    rows = await pool.query("SELECT body FROM journal WHERE scope = ANY (%s::uuid[]) AND key = %s", (list(scopes), key))
    return sorted(_transfers(rows), key=lambda record: record.seq, reverse=True)


async def transfers_of_account(
    pool: Pool, account_id: str, wanted: TransfersWanted, below: int | None, limit: int
) -> TransferPage:
    """Return at most so many of an account's transfers; places are versions of the account.

    Fewer than that may be told while the list goes on: a page looks through a bounded number of entries.
    """
    high = _NEWEST if below is None else below - 1
    if wanted.before is not None:
        high = min(high, await last_before(pool, account_id, wanted.before))
    elif below is None and wanted.kind is not None:
        sql = "SELECT coalesce(max(version), 0) FROM transactions WHERE account_id = %s"
        ((high,),) = await pool.query(sql, (account_id,))
    low = 0 if wanted.since is None else await last_before(pool, account_id, wanted.since)
    lowest = low if wanted.kind is None else max(low, high - LOOKED_THROUGH)
    return await _page(pool, _OF_ACCOUNT, (account_id, lowest, high), wanted.kind, lowest, low, limit)


async def transfers_of_journal(pool: Pool, wanted: TransfersWanted, below: int | None, limit: int) -> TransferPage:
    """Return at most so many transfers of all accounts; places are the records' numbers. Bounded likewise."""
    if wanted.before is not None:
        ((high,),) = await pool.query(_LAST_BEFORE, (wanted.before,))
    else:
        ((high,),) = await pool.query("SELECT coalesce(max(seq), 0) FROM journal")
    if below is not None:
        high = min(high, below - 1)
    low = 0
    if wanted.since is not None:
        ((low,),) = await pool.query(_LAST_BEFORE, (wanted.since,))
    lowest = max(low, high - LOOKED_THROUGH)
    return await _page(pool, _OF_JOURNAL, (high, max(0, high - lowest)), wanted.kind, lowest, low, limit)


async def _page(
    pool: Pool, rows_sql: str, bounds: tuple[Any, ...], kind: str | None, lowest: int, low: int, limit: int
) -> TransferPage:
    terms, kinds = ("", ()) if kind is None else (" AND j.kind = %s", (kind,))
    sql = _PAGE.format(rows=rows_sql.format(terms=terms))
    rows = await pool.query(sql, (_MOST, *bounds, *kinds, limit + 1))
    told = [row for row in rows[:limit] if row[1] is not None]
    rest = lowest + 1 if lowest > low else None
    following = told[-1][0] if len(told) < len(rows) else rest
    return TransferPage(_transfers([(body,) for _, body in told]), following)


def _transfers(rows: Collection[tuple[Any, ...]]) -> list[Record]:
    return [record for (body,) in rows if (record := read_body(body)).entries]

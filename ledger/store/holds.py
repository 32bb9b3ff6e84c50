"""Holds in PostgreSQL: read as they are now, whether or not it has been written that their time is up."""

from typing import Final

import msgspec

from ledger.domain.held import Hold, HoldStatus
from ledger.store.accounts import NOW
from ledger.store.pool import Pool
from ledger.store.postgres import Row

# Holds that one page looks through for those of a status, which no index tells in the order of the list.
LOOKED_THROUGH: Final = 5_000

_LAST: Final = "ffffffff-ffff-ffff-ffff-ffffffffffff"
_FIRST: Final = "00000000-0000-0000-0000-000000000000"

_STATUS: Final = f"CASE WHEN h.status = 'open' AND h.expires_at <= {NOW} THEN 'expired' ELSE h.status END"


def _instant(column: str) -> str:
    return f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"


# What captured a hold is the record that changed it last.
_COLUMNS: Final = f"""
    h.id::text, h.account_id::text, h.amount, h.captured, {_STATUS}, {_instant("h.expires_at")},
    {_instant("h.created_at")}, h.description,
    CASE WHEN h.status = 'captured' THEN (SELECT j.id::text FROM journal AS j WHERE j.seq = h.seq) END"""

_ONE: Final = f"SELECT {_COLUMNS} FROM holds AS h WHERE h.id = %s"

_PAGE: Final = f"""
    SELECT {_COLUMNS} FROM holds AS h
    WHERE h.account_id = %s AND h.id >= %s AND h.id < %s{{term}} ORDER BY h.id DESC LIMIT %s"""

# The last one that a page may look at, if there are so many.
_LOWEST: Final = """
    SELECT h.id::text FROM holds AS h WHERE h.account_id = %s AND h.id < %s ORDER BY h.id DESC OFFSET %s LIMIT 1"""

_DUE: Final = f"""
    SELECT DISTINCT account_id::text
    FROM (SELECT account_id FROM holds WHERE status = 'open' AND expires_at <= {NOW}
          ORDER BY expires_at LIMIT %s) AS due"""


class KeptHold(msgspec.Struct, frozen=True):
    """A hold as it is now, with the id of the record that captured it."""

    hold: Hold
    transfer_id: str | None


class HoldPage(msgspec.Struct, frozen=True):
    """Some holds, and the id below which the list goes on; None at its end."""

    holds: list[KeptHold]
    following: str | None


async def find_hold(pool: Pool, hold_id: str) -> KeptHold | None:
    """Return a hold, or None."""
    rows = await pool.query(_ONE, (hold_id,))
    return _kept(rows[0]) if rows else None


async def read_holds(pool: Pool, account_id: str, status: HoldStatus | None, below: str | None, limit: int) -> HoldPage:
    """Return at most so many of an account's holds whose ids are below the given one, newest first.

    Fewer than that may be told while the list goes on: a page looks through a bounded number of them.
    """
    high, lowest = below or _LAST, None
    if status is not None:
        found = await pool.query(_LOWEST, (account_id, high, LOOKED_THROUGH - 1))
        lowest = found[0][0] if found else None
    # As a CASE it tells the planner nothing of how rare they are, so the list is walked by its index and never sorted.
    term = "" if status is None else f" AND CASE WHEN {_STATUS} = %s THEN true ELSE false END"
    given = () if status is None else (status,)
    rows = await pool.query(_PAGE.format(term=term), (account_id, lowest or _FIRST, high, *given, limit + 1))
    holds = [_kept(row) for row in rows[:limit]]
    return HoldPage(holds, holds[-1].hold.id if len(rows) > limit else lowest)


async def accounts_with_due_holds(pool: Pool, limit: int) -> list[str]:
    """Return the accounts of those holds that have been over for longest, so many holds at most."""
    return [account_id for (account_id,) in await pool.query(_DUE, (limit,))]


def _kept(row: Row) -> KeptHold:
    *fields, transfer_id = row
    return KeptHold(Hold(*fields), transfer_id)

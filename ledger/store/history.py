"""The transactions of an account in PostgreSQL, newest first: entries with what their records say of them."""

from datetime import datetime
from typing import Any, Final

import msgspec

from ledger.domain.accounts import Owner
from ledger.domain.money import asset_named, format_amount
from ledger.domain.transactions import Transaction
from ledger.store.pool import Pool
from ledger.store.versions import instant, last_before

# Transactions that one page looks through for those of a direction or a kind, which no index tells.
LOOKED_THROUGH: Final = 20_000

_NEWEST: Final = 2**63 - 1

# A record may hold far more than its description, so that alone is told; the whole body only where it holds a NUL, at
# which PostgreSQL's own reading of JSON fails. `description_in` reads it.
DESCRIPTION: Final = """CASE WHEN strpos(j.body, '\\u0000') = 0
                THEN json_build_object('description', j.body::json -> 'description')::text ELSE j.body END"""

_PAGE: Final = f"""
    SELECT t.version, t.id::text, t.type, j.kind, t.amount, t.balance,
           {DESCRIPTION},
           {instant('t."timestamp"')}, j.id::text
    FROM transactions AS t
    CROSS JOIN LATERAL (SELECT id, kind, body FROM journal WHERE journal.seq = t.seq OFFSET 0) AS j
    WHERE t.account_id = %s AND t.version > %s AND t.version <= %s{{terms}} ORDER BY t.version DESC LIMIT %s"""


class Wanted(msgspec.Struct, frozen=True):
    """Which transactions are asked for; None admits all. `since` is the first instant, `before` the first no more."""

    type: str | None = None
    kind: str | None = None
    since: datetime | None = None
    before: datetime | None = None


class Page(msgspec.Struct, frozen=True):
    """Some transactions, and the version below which the list goes on; None at its end."""

    transactions: list[Transaction]
    following: int | None


class _Described(msgspec.Struct):
    description: str | None = None


_decode_description = msgspec.json.Decoder(_Described).decode


def description_in(said: str) -> str | None:
    """Return the description in what the SQL of `DESCRIPTION` yields."""
    return _decode_description(said).description


async def read_transactions(pool: Pool, owner: Owner, wanted: Wanted, below: int | None, limit: int) -> Page:
    """Return at most so many of an account's transactions whose versions are below the given one.

    Fewer than that may be told while the list goes on: a page looks through a bounded number of them.
    """
    low, high = await _bounds(pool, owner.account_id, wanted, below)
    given = [(column, value) for column, value in (("t.type", wanted.type), ("j.kind", wanted.kind)) if value]
    lowest = max(low, high - LOOKED_THROUGH) if given else low
    terms = "".join(f" AND {column} = %s" for column, _ in given)
    rows = await pool.query(
        _PAGE.format(terms=terms), (owner.account_id, lowest, high, *(value for _, value in given), limit + 1)
    )
    following = lowest + 1 if lowest > low else None
    if len(rows) > limit:
        rows = rows[:limit]
        following = rows[-1][0]
    scale = asset_named(owner.asset).scale
    return Page([_transaction(scale, *row[1:]) for row in rows], following)


async def _bounds(pool: Pool, account_id: str, wanted: Wanted, below: int | None) -> tuple[int, int]:
    """Return the versions after the first of which, and up to the second, stands all that is wanted."""
    high = _NEWEST if below is None else below - 1
    if wanted.before is not None:
        high = min(high, await last_before(pool, account_id, wanted.before))
    elif below is None and (wanted.type or wanted.kind):
        ((high,),) = await pool.query(
            "SELECT coalesce(max(version), 0) FROM transactions WHERE account_id = %s", (account_id,)
        )
    low = 0 if wanted.since is None else await last_before(pool, account_id, wanted.since)
    return low, high


def _transaction(
    scale: int, id: str, type: str, kind: str, amount: int, balance: Any, said: str, timestamp: str, transfer_id: str
) -> Transaction:
    return Transaction(
        id=id,
        type=type,
        kind=kind,
        amount=format_amount(amount, scale),
        balance=format_amount(int(balance), scale),
        description=description_in(said),
        timestamp=timestamp,
        transfer_id=transfer_id,
    )

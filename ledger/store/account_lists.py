"""Accounts in PostgreSQL as they are told: one by its id, and lists in the order of ids, which is that of opening."""

from typing import Any, Final

import msgspec

from ledger.domain.account_commands import AccountView, account_view
from ledger.domain.accounts import Account
from ledger.store.accounts import HELD_NOW
from ledger.store.pool import Pool

# Accounts that one page looks through for those of a type, a status or a currency, which no index tells.
LOOKED_THROUGH: Final = 20_000

_LOWEST: Final = "00000000-0000-0000-0000-000000000000"
_HIGHEST: Final = "ffffffff-ffff-ffff-ffff-ffffffffffff"

_VIEW: Final = f"""
    SELECT a.name, to_char(a.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), a.id::text,
           a.user_id::text, a.asset, a.type, a.status, a.balance, {HELD_NOW}, a.credit_limit, a.version
    FROM accounts AS a WHERE """


class Wanted(msgspec.Struct, frozen=True):
    """Which accounts are asked for: one, or a user's, or all; None admits all."""

    account_id: str | None = None
    user_id: str | None = None
    account_type: str | None = None
    currency: str | None = None
    status: str | None = None


class Page(msgspec.Struct, frozen=True):
    """Some accounts, and the id after which the list goes on; None at its end."""

    accounts: list[AccountView]
    following: str | None


async def find_account(pool: Pool, account_id: str) -> AccountView | None:
    """Return what is told of an account as it is committed, or None."""
    rows = await pool.query(f"{_VIEW}a.id = %s", (account_id,))
    return _told(rows[0]) if rows else None


async def list_accounts(pool: Pool, wanted: Wanted, after: str | None, limit: int) -> Page:
    """Return at most so many of the accounts that are wanted and whose ids are above the given one.

    Fewer than that may be told while the list goes on: a page looks through a bounded number of them.
    """
    sought = _given({"a.type": wanted.account_type, "a.status": wanted.status, "left(a.asset, 3)": wanted.currency})
    last = await _last_looked_at(pool, wanted, after) if sought else None
    condition, order, parameters = _range(wanted, after, last)
    if sought:
        # A CASE, so that the planner does not guess how rare these are: then it might sort, not follow the index.
        condition += f" AND CASE WHEN {' AND '.join(sought)} THEN true END"
    rows = await pool.query(f"{_VIEW}{condition} ORDER BY {order} LIMIT %s", (*parameters, *sought.values(), limit + 1))
    accounts = [_told(row) for row in rows[:limit]]
    return Page(accounts, accounts[-1].id if len(rows) > limit else last)


async def _last_looked_at(pool: Pool, wanted: Wanted, after: str | None) -> str | None:
    """Return the id of the last account that a page looks at, or None where it may look at all that there are."""
    condition, order, parameters = _range(wanted, after, None)
    rows = await pool.query(
        f"SELECT a.id::text FROM accounts AS a WHERE {condition} ORDER BY {order} LIMIT 1 OFFSET %s",
        (*parameters, LOOKED_THROUGH - 1),
    )
    return rows[0][0] if rows else None


def _range(wanted: Wanted, after: str | None, last: str | None) -> tuple[str, str, list[str]]:
    """Return the condition, the order and the parameters of a stretch of the list, its filters aside."""
    low, high, user_id = after or _LOWEST, last or _HIGHEST, wanted.user_id
    if user_id is not None:
        # Compared as pairs, so that no other index than that of users' accounts gives the order.
        pair = "(a.user_id, a.id)"
        condition = f"a.user_id IS NOT NULL AND {pair} > (%s, %s) AND {pair} <= (%s, %s)"
        return condition, "a.user_id, a.id", [user_id, low, user_id, high]
    condition, parameters = "a.id > %s AND a.id <= %s", [low, high]
    if wanted.account_id is not None:
        condition, parameters = f"{condition} AND a.id = %s", [*parameters, wanted.account_id]
    return condition, "a.id", parameters


def _given(terms: dict[str, str | None]) -> dict[str, str]:
    return {f"{column} = %s": value for column, value in terms.items() if value is not None}


def _told(row: tuple[Any, ...]) -> AccountView:
    name, created_at, account_id, user_id, asset, account_type, status, balance, held, limit, version = row
    account = Account(account_id, user_id, asset, account_type, status, int(balance), int(held), limit, version)
    return account_view(account, name, created_at)

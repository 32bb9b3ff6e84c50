"""Accounts in PostgreSQL: opened here, read here; what the journal decides on is changed by the writer alone."""

from typing import Final

from ledger.domain.accounts import WORLD_TYPE, Account, Owner, world_id
from ledger.store.pool import Pool
from ledger.store.postgres import Session

# The instant that a batch would have if it were decided now. A SELECT, so that it is made once a statement.
NOW: Final = "(SELECT greatest(clock_timestamp(), (SELECT posted_at FROM journal ORDER BY seq DESC LIMIT 1)))"

# What is held of the account `a` now: holds whose time is up do not count, whether or not that has been written yet.
HELD_NOW: Final = f"""(CASE WHEN a.held = 0 THEN a.held ELSE a.held - coalesce(
    (SELECT sum(h.amount) FROM holds AS h
     WHERE h.account_id = a.id AND h.status = 'open' AND h.expires_at <= {NOW}), 0) END)"""

_COLUMNS: Final = f"""a.id::text, a.user_id::text, a.asset, a.type, a.status, a.balance::text, {HELD_NOW}::text,
    a.credit_limit, a.version"""


async def open_account(session: Session, owner: Owner, account_type: str, name: str | None = None) -> None:
    """Add an account, with the world of its asset if there is none yet, inside the caller's transaction."""
    await session.run(
        "INSERT INTO accounts (id, asset, type) VALUES (%s, %s, 'WORLD') ON CONFLICT (id) DO NOTHING",
        (world_id(owner.asset), owner.asset),
    )
    await session.run(
        "INSERT INTO accounts (id, user_id, name, asset, type) VALUES (%s, %s, %s, %s, %s)",
        (owner.account_id, owner.user_id, name, owner.asset, account_type),
    )


async def find_owner(pool: Pool, account_id: str) -> Owner | None:
    """Return what never changes of an account, or None."""
    return await _owner(pool, "id = %s", account_id)


async def find_first_account(pool: Pool, user_id: str) -> Owner | None:
    """Return a user's first account: ids are in the order of opening."""
    return await _owner(pool, "user_id = %s ORDER BY id LIMIT 1", user_id)


async def _owner(pool: Pool, condition: str, key: str) -> Owner | None:
    rows = await pool.query(f"SELECT id::text, user_id::text, asset, type FROM accounts WHERE {condition}", (key,))
    for account_id, user_id, asset, account_type in rows:
        return Owner(account_id, user_id, asset, account_type == WORLD_TYPE)
    return None


async def read_state(pool: Pool, account_id: str) -> tuple[Account, str] | None:
    """Return an account's committed state and the instant it was read at."""
    rows = await pool.query(
        f"""SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), {_COLUMNS}
            FROM accounts AS a WHERE a.id = %s""",
        (account_id,),
    )
    for instant, account_id, user_id, asset, account_type, status, balance, held, limit, version in rows:
        account = Account(account_id, user_id, asset, account_type, status, int(balance), int(held), limit, version)
        return account, instant
    return None


async def owners_of(pool: Pool, account_ids: set[str]) -> dict[str, Owner]:
    """Return what never changes of the given accounts."""
    rows = await pool.query(
        "SELECT id::text, user_id::text, asset, type FROM accounts WHERE id = ANY (%s::uuid[])", (list(account_ids),)
    )
    return {row[0]: Owner(row[0], row[1], row[2], row[3] == WORLD_TYPE) for row in rows}

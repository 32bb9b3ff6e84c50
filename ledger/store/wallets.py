"""Wallets in PostgreSQL: accounts of no user, and the tokens that act for accounts."""

from typing import Final

import msgspec

from ledger.domain.accounts import Account, Owner
from ledger.domain.errors import Refused
from ledger.domain.policy import Caller
from ledger.store.accounts import HELD_NOW, open_account
from ledger.store.pool import Pool
from ledger.store.postgres import Session
from ledger.store.tokens import add_token, hash_of

_LOCK: Final = "hashtextextended(%s, 0)"  # of one account: held until the transaction that gives it a token has ended

# What the caller was let in with, which may have stopped since in a way that was not heard of yet.
_IS_LOGGED_IN: Final = """
    SELECT FROM sessions AS s JOIN users AS u ON u.id = s.user_id
    WHERE s.id = %s AND s.revoked_at IS NULL AND u.status = 'ACTIVE' AND u.role = %s"""


class Wallet(msgspec.Struct, frozen=True):
    """An account as it is committed, with its name if it has one."""

    account: Account
    name: str | None


async def add_wallet(pool: Pool, owner: Owner, name: str, token: str) -> None:
    """Open an account with a token in one transaction."""

    async def work(session: Session) -> None:
        await session.run(f"SELECT pg_advisory_xact_lock({_LOCK})", (owner.account_id,))
        await open_account(session, owner, "CHECKING", name)
        await add_token(session, owner.account_id, token)

    await pool.transact(work)


async def replace_tokens(pool: Pool, account_id: str, token: str, caller: Caller) -> list[str]:
    """End all tokens of an account and give it a new one; return the hashes of those ended.

    Refused with `invalid_token` where the caller's own credential is among what has ended before, and with
    `account_inactive` where a token could not let anybody in, the account's user being deleted.
    """

    async def work(session: Session) -> list[str]:
        # A statement of its own: the next one must see what whoever had the lock before has committed.
        await session.run(f"SELECT pg_advisory_xact_lock({_LOCK})", (account_id,))
        rows = await session.run(
            """UPDATE account_tokens SET revoked_at = clock_timestamp()
               WHERE account_id = %s AND revoked_at IS NULL RETURNING encode(token_hash, 'hex')""",
            (account_id,),
        )
        ended = [token_hash for (token_hash,) in rows]
        if caller.kind == "account":
            is_let_in = caller.token_hash in ended
        else:
            is_let_in = bool(await session.run(_IS_LOGGED_IN, (caller.session_id, caller.role)))
        if not is_let_in:
            raise Refused("invalid_token")
        made = await session.run(
            """INSERT INTO account_tokens (token_hash, account_id)
               SELECT %s, a.id FROM accounts AS a LEFT JOIN users AS u ON u.id = a.user_id
               WHERE a.id = %s AND u.status IS DISTINCT FROM 'DELETED' RETURNING account_id""",
            (hash_of(token), account_id),
        )
        if not made:
            raise Refused("account_inactive", account_id=account_id)
        return ended

    return await pool.transact(work)


async def was_given(pool: Pool, account_id: str, token: str) -> bool | None:
    """Whether a token whose COMMIT was not answered was given; None while that transaction may still be under way."""
    # Tried, not awaited, and two statements: see `was_added` of users.
    ((has_ended,),) = await pool.query(f"SELECT pg_try_advisory_xact_lock({_LOCK})", (account_id,))
    if not has_ended:
        return None
    return bool(await pool.query("SELECT FROM account_tokens WHERE token_hash = %s", (hash_of(token),)))


async def ended_tokens(pool: Pool, account_id: str) -> list[str]:
    """Return the hashes of the tokens of an account that have ended, whenever that was."""
    rows = await pool.query(
        "SELECT encode(token_hash, 'hex') FROM account_tokens WHERE account_id = %s AND revoked_at IS NOT NULL",
        (account_id,),
    )
    return [token_hash for (token_hash,) in rows]


async def find_wallet(pool: Pool, account_id: str) -> Wallet | None:
    """Return an account's committed state and its name, or None."""
    rows = await pool.query(
        f"""SELECT a.name, a.balance, {HELD_NOW}, a.id::text, a.user_id::text, a.asset, a.type, a.status,
                   a.credit_limit, a.version
            FROM accounts AS a WHERE a.id = %s""",
        (account_id,),
    )
    for name, balance, held, found_id, user_id, asset, account_type, status, limit, version in rows:
        account = Account(found_id, user_id, asset, account_type, status, int(balance), int(held), limit, version)
        return Wallet(account, name)
    return None

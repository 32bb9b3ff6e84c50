"""Account tokens: opaque, shown once, kept as a hash."""

import secrets
from hashlib import sha256
from typing import Final

from ledger.domain.policy import Caller
from ledger.store.pool import Pool
from ledger.store.postgres import Session

CHANNEL: Final = "ledger_tokens"  # the payload names what has stopped, or has changed: token:HASH, session:ID, user:ID


def new_token() -> str:
    """Return a token that nobody can guess."""
    return secrets.token_urlsafe(32)


def hash_of(token: str) -> bytes:
    """Return what is kept of a token; it has 256 random bits, so a plain hash hides it."""
    return sha256(token.encode()).digest()


async def add_token(session: Session, account_id: str, token: str) -> None:
    """Make a token valid for an account, inside the caller's transaction."""
    await session.run(
        "INSERT INTO account_tokens (token_hash, account_id) VALUES (%s, %s)", (hash_of(token), account_id)
    )


async def find_callers(pool: Pool, hashes: list[bytes]) -> dict[bytes, Caller]:
    """Return whom the tokens stand for, of those that are valid: not revoked, and of no user who is not active."""
    rows = await pool.query(
        """SELECT t.token_hash, a.id::text, a.user_id::text
           FROM account_tokens AS t JOIN accounts AS a ON a.id = t.account_id LEFT JOIN users AS u ON u.id = a.user_id
           WHERE t.token_hash = ANY (%s::bytea[]) AND t.revoked_at IS NULL
                 AND (a.user_id IS NULL OR u.status = 'ACTIVE')""",
        (hashes,),
    )
    return {
        bytes(kept): Caller("account", account_id, user_id, token_hash=bytes(kept).hex())
        for kept, account_id, user_id in rows
    }

"""Account tokens: opaque, shown once, kept as a hash."""

import secrets
from hashlib import sha256
from typing import Final

from ledger.domain.policy import Caller
from ledger.store.pool import Pool
from ledger.store.postgres import Session

CHANNEL: Final = "ledger_tokens"  # the payload is the hash, in hex, of a token that has stopped


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


async def find_caller(pool: Pool, token_hash: bytes) -> Caller | None:
    """Return whom a token that is valid stands for."""
    rows = await pool.query(
        """SELECT a.id::text, a.user_id::text FROM account_tokens AS t JOIN accounts AS a ON a.id = t.account_id
           WHERE t.token_hash = %s AND t.revoked_at IS NULL""",
        (token_hash,),
    )
    return Caller("account", rows[0][0], rows[0][1]) if rows else None


async def still_valid(pool: Pool, hashes: list[bytes]) -> set[bytes]:
    """Return those of the tokens that have not been revoked."""
    rows = await pool.query(
        "SELECT token_hash FROM account_tokens WHERE token_hash = ANY (%s::bytea[]) AND revoked_at IS NULL", (hashes,)
    )
    return {bytes(row[0]) for row in rows}

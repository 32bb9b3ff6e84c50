"""Users in PostgreSQL."""

from typing import Final

from ledger.domain.accounts import Owner
from ledger.domain.errors import Refused
from ledger.store.accounts import open_account
from ledger.store.pool import Pool
from ledger.store.postgres import Session, StatementFailed
from ledger.store.tokens import add_token

_UNIQUE_VIOLATION: Final = "23505"


async def add_user(
    pool: Pool, user_id: str, name: str, email: str, password_hash: str, first: Owner, token: str
) -> None:
    """Make a user, the first account and its token in one transaction, or refuse with `email_already_exists`."""

    async def work(session: Session) -> None:
        await session.run(
            "INSERT INTO users (id, email, full_name, password_hash) VALUES (%s, %s, %s, %s)",
            (user_id, email, name, password_hash),
        )
        await open_account(session, first, "CHECKING")
        await add_token(session, first.account_id, token)

    try:
        await pool.transact(work)
    except StatementFailed as error:
        if error.sqlstate == _UNIQUE_VIOLATION and error.constraint == "users_email_taken":
            raise Refused("email_already_exists", field="email") from error
        raise


async def email_is_taken(pool: Pool, email: str) -> bool:
    """Whether a user who is not deleted has this address."""
    return bool(await pool.query("SELECT FROM users WHERE email = %s AND status <> 'DELETED'", (email,)))

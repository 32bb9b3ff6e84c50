"""Game users in PostgreSQL as they are looked up; what is booked for them is the journal's."""

from collections.abc import Iterable

from ledger.store.pool import Pool


async def find_game_account(pool: Pool, name: str) -> str | None:
    """Return the id of a game user's account, which never changes, or None."""
    rows = await pool.query("SELECT account_id::text FROM game_users WHERE name = %s", (name,))
    for (account_id,) in rows:
        return str(account_id)
    return None


async def known_names(pool: Pool, names: Iterable[str]) -> set[str]:
    """Return those of the names that are game users."""
    rows = await pool.query("SELECT name FROM game_users WHERE name = ANY (%s)", (list(names),))
    return {name for (name,) in rows}

"""Rows that records bring to further tables: each kind of row has one set-based statement over one JSON array."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from ledger.domain.commands import Sealed
from ledger.domain.deletion import DELETED_USERS, ENDED_SESSIONS, ENDED_TOKENS
from ledger.domain.game_users import ASSET, GAME_USERS
from ledger.domain.games import GAME_UNDONE
from ledger.domain.journal import canonical
from ledger.store.prepared import Prepared

# name of the write, as drafts use it -> a statement over %(rows)s::json, an array of the rows
STATEMENTS: Final[dict[str, str]] = {
    DELETED_USERS: """
        UPDATE users AS u SET status = 'DELETED', updated_at = gone.at
        FROM json_to_recordset(%(rows)s::json) AS gone (id uuid, at timestamptz) WHERE u.id = gone.id
    """,
    ENDED_SESSIONS: """
        WITH live AS (SELECT s.id, gone.at FROM json_to_recordset(%(rows)s::json) AS gone (id uuid, at timestamptz)
                      JOIN sessions AS s ON s.user_id = gone.id WHERE s.revoked_at IS NULL
                      ORDER BY s.id FOR UPDATE OF s)
        UPDATE sessions AS s SET revoked_at = live.at FROM live WHERE s.id = live.id
    """,
    ENDED_TOKENS: """
        UPDATE account_tokens AS t SET revoked_at = gone.at
        FROM json_to_recordset(%(rows)s::json) AS gone (id uuid, at timestamptz)
        JOIN accounts AS a ON a.user_id = gone.id
        WHERE t.account_id = a.id AND t.revoked_at IS NULL
    """,
    # A user may be told of more than once in a batch: the last row counts.
    GAME_USERS: f"""
        WITH told AS (SELECT DISTINCT ON (account_id) account_id, name, status
                      FROM json_to_recordset(%(rows)s::json)
                           AS fresh (account_id uuid, name text, status text, seq bigint)
                      ORDER BY account_id, seq DESC),
             opened AS (INSERT INTO accounts (id, name, asset, type)
                        SELECT account_id, name, '{ASSET}', 'CHECKING' FROM told ON CONFLICT (id) DO NOTHING)
        INSERT INTO game_users (account_id, name, status) SELECT account_id, name, status FROM told
        ON CONFLICT (account_id) DO UPDATE SET status = excluded.status
    """,
    GAME_UNDONE: """
        INSERT INTO game_undone (transaction_uuid, account_id, seq)
        SELECT transaction_uuid, account_id, seq
        FROM json_to_recordset(%(rows)s::json) AS fresh (transaction_uuid uuid, account_id uuid, seq bigint)
    """,
}


def further_rows(batch: Sequence[Sealed]) -> dict[str, str]:
    """Return the rows that a batch brings to further tables: name of the write -> JSON array."""
    rows: dict[str, list[Any]] = {}
    for sealed in batch:
        for name, row in sealed.writes:
            rows.setdefault(name, []).append(row)
    return {name: canonical(items).decode() for name, items in rows.items()}


@lru_cache
def statement(name: str) -> Prepared:
    """Return the statement of a write; its parameter bears the write's name."""
    return Prepared(f"write_{name}", STATEMENTS[name].replace("%(rows)s", f"%({name})s"))

"""Rows that records bring to further tables: each kind of row has one set-based statement over one JSON array."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from ledger.domain.account_commands import ACCOUNT_NAMES, OPENED_ACCOUNTS
from ledger.domain.commands import Sealed
from ledger.domain.deletion import DELETED_USERS, ENDED_SESSIONS, ENDED_TOKENS
from ledger.domain.game_users import ASSET, GAME_USERS
from ledger.domain.games import GAME_UNDONE
from ledger.domain.holds import EXPIRED_HOLDS, HOLDS
from ledger.domain.journal import canonical
from ledger.domain.payment_commands import PAYMENTS
from ledger.domain.periods import BACKDATED, PERIODS
from ledger.domain.reversals import REVERSED
from ledger.store.prepared import Prepared

# name of the write, as drafts use it -> a statement over %(rows)s::json, an array of the rows
STATEMENTS: Final[dict[str, str]] = {
    OPENED_ACCOUNTS: """
        WITH fresh AS (SELECT * FROM json_to_recordset(%(rows)s::json)
                       AS fresh (id uuid, user_id uuid, name text, asset text, type text, world uuid, at timestamptz)),
             worlds AS (INSERT INTO accounts (id, asset, type) SELECT DISTINCT world, asset, 'WORLD' FROM fresh
                        ON CONFLICT (id) DO NOTHING)
        INSERT INTO accounts (id, user_id, name, asset, type, created_at)
        SELECT id, user_id, name, asset, type, at FROM fresh
    """,
    # An account may be named more than once in a batch: the last row counts.
    ACCOUNT_NAMES: """
        UPDATE accounts AS a SET name = told.name
        FROM (SELECT DISTINCT ON (id) id, name FROM json_to_recordset(%(rows)s::json)
              AS fresh (id uuid, name text, seq bigint) ORDER BY id, seq DESC) AS told
        WHERE a.id = told.id
    """,
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
    # A hold may be told of more than once in a batch: the last row counts.
    HOLDS: """
        INSERT INTO holds (id, account_id, amount, captured, status, expires_at, created_at, description, seq)
        SELECT DISTINCT ON (id) id, account_id, amount, captured, status, expires_at, created_at, description, seq
        FROM json_to_recordset(%(rows)s::json)
             AS fresh (id uuid, account_id uuid, amount bigint, captured bigint, status text, expires_at timestamptz,
                       created_at timestamptz, description text, seq bigint)
        ORDER BY id, seq DESC
        ON CONFLICT (id) DO UPDATE SET captured = excluded.captured, status = excluded.status, seq = excluded.seq
    """,
    EXPIRED_HOLDS: """
        UPDATE holds AS h SET status = 'expired', seq = gone.seq
        FROM json_to_recordset(%(rows)s::json) AS gone (id uuid, seq bigint) WHERE h.id = gone.id
    """,
    BACKDATED: """
        INSERT INTO backdated_entries (account_id, effective_at, version, amount, posted_at)
        SELECT account_id, effective_at, version, amount, posted_at
        FROM json_to_recordset(%(rows)s::json)
             AS fresh (account_id uuid, effective_at timestamptz, version bigint, amount bigint, posted_at timestamptz)
    """,
    PERIODS: """
        INSERT INTO closed_periods (until, seq)
        SELECT until, seq FROM json_to_recordset(%(rows)s::json) AS fresh (until timestamptz, seq bigint)
    """,
    PAYMENTS: """
        UPDATE payments AS p
        SET status = done.status, posted_at = done.posted_at, failure_reason = done.failure_reason,
            transfer_id = done.transfer_id, updated_at = done.updated_at, seq = done.seq, paid_in_day = done.paid_in_day
        FROM json_to_recordset(%(rows)s::json)
             AS done (id uuid, status text, posted_at timestamptz, failure_reason text, transfer_id uuid,
                      updated_at timestamptz, seq bigint, paid_in_day numeric)
        WHERE p.id = done.id
    """,
    # A transfer may be reversed in parts more than once in a batch: the last row counts.
    REVERSED: """
        INSERT INTO reversed_transfers (transfer_id, amount, seq)
        SELECT DISTINCT ON (transfer_id) transfer_id, amount, seq
        FROM json_to_recordset(%(rows)s::json) AS fresh (transfer_id uuid, amount numeric, seq bigint)
        ORDER BY transfer_id, seq DESC
        ON CONFLICT (transfer_id) DO UPDATE SET amount = excluded.amount, seq = excluded.seq
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

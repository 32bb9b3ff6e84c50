"""What a batch is decided on: each fact is one scalar SELECT over its keys, all of them read in one statement."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from ledger.domain.commands import ACCOUNTS, Command
from ledger.domain.deletion import ACCOUNTS_OF_USERS, USERS, Member
from ledger.domain.game_users import GAME_USERS, GAMES, GameUser
from ledger.domain.games import GAME_TRANSACTIONS, GAME_UNDONE, Booked, Undone
from ledger.domain.held import AccountWithHolds, Counted, Hold
from ledger.domain.holds import HOLDS, MOST_OPEN, OPEN_HOLDS
from ledger.domain.payment_commands import ALIKE, PAYMENTS, SPENT, Kept, Spent
from ledger.domain.payments import Twin
from ledger.domain.periods import PERIODS, Closed
from ledger.domain.reversals import REVERSED, Reversed


class FactSource(msgspec.Struct, frozen=True):
    """How a fact is read: SQL over `%(keys)s` (an array, in text) that yields a JSON array, and what its rows are.

    A row is told by its `id`, under which rules find it in `book.facts`.
    """

    sql: str
    decode: Any


class _AccountRow(AccountWithHolds, array_like=True):
    """An account as its row is handed over."""


# Those of an account's holds that may be over by the batch's instant, which is read in the same statement. The bound is
# a SELECT, so that it is made once and the index goes up to it.
_DUE: Final = """SELECT string_agg('["' || h.id || '",' || h.amount || ',"' || to_char(h.expires_at AT TIME ZONE 'UTC',
                   'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') || '"]', ',')
            FROM holds AS h WHERE h.account_id = a.id AND h.status = 'open'
            AND h.expires_at <= (SELECT greatest(clock_timestamp(), head.posted_at) + interval '5 s')"""

_ACCOUNTS: Final = f"""
        SELECT '[' || string_agg('["' || a.id || coalesce('","' || a.user_id || '","', '",null,"') || a.asset || '","'
                   || a.type || '","' || a.status || '",' || a.balance || ',' || a.held || ',' || a.credit_limit || ','
                   || a.version || CASE WHEN a.held = 0 THEN ']' ELSE coalesce(',[' || ({_DUE}) || ']]', ']') END,
                   ',') || ']'
        FROM unnest(%(keys)s::uuid[]) AS keys (id) JOIN accounts AS a ON a."""

_encode: Final = msgspec.json.Encoder().encode
_decode_accounts: Final = msgspec.json.Decoder(list[_AccountRow]).decode

SOURCES: Final[dict[str, FactSource]] = {
    ACCOUNTS: FactSource(f"{_ACCOUNTS}id = keys.id", _decode_accounts),
    ACCOUNTS_OF_USERS: FactSource(f"{_ACCOUNTS}user_id = keys.id", _decode_accounts),
    USERS: FactSource(
        """
        SELECT json_agg(json_build_array(u.id, u.status))::text
        FROM unnest(%(keys)s::uuid[]) AS keys (id) JOIN users AS u ON u.id = keys.id
        """,
        msgspec.json.Decoder(list[Member]).decode,
    ),
    GAME_USERS: FactSource(
        """
        SELECT json_agg(json_build_array(g.account_id, g.status))::text
        FROM unnest(%(keys)s::uuid[]) AS keys (id) JOIN game_users AS g ON g.account_id = keys.id
        """,
        msgspec.json.Decoder(list[GameUser]).decode,
    ),
    GAME_TRANSACTIONS: FactSource(
        f"""
        SELECT '[' || string_agg('["' || j.key || '",' || j.body || ']', ',') || ']'
        FROM unnest(%(keys)s::text[]) AS keys (id) JOIN journal AS j ON j.scope = '{GAMES}' AND j.key = keys.id
        """,
        msgspec.json.Decoder(list[Booked]).decode,
    ),
    GAME_UNDONE: FactSource(
        """
        SELECT json_agg(json_build_array(keys.id))::text
        FROM unnest(%(keys)s::text[]) AS keys (id)
        JOIN game_undone AS g ON g.transaction_uuid = split_part(keys.id, ':', 1)::uuid
                             AND g.account_id = split_part(keys.id, ':', 2)::uuid
        """,
        msgspec.json.Decoder(list[Undone]).decode,
    ),
    OPEN_HOLDS: FactSource(
        f"""
        SELECT json_agg(json_build_array(keys.id, (SELECT count(*) FROM (
            SELECT FROM holds AS h WHERE h.account_id = keys.id AND h.status = 'open' LIMIT {MOST_OPEN}) AS counted))
        )::text
        FROM unnest(%(keys)s::uuid[]) AS keys (id)
        """,
        msgspec.json.Decoder(list[Counted]).decode,
    ),
    HOLDS: FactSource(
        """
        SELECT json_agg(json_build_array(h.id, h.account_id, h.amount, h.captured, h.status,
                   to_char(h.expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                   to_char(h.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), h.description))::text
        FROM unnest(%(keys)s::uuid[]) AS keys (id) JOIN holds AS h ON h.id = keys.id
        """,
        msgspec.json.Decoder(list[Hold]).decode,
    ),
    PERIODS: FactSource(
        """
        SELECT json_agg(json_build_array(keys.id, to_char(c.until AT TIME ZONE 'UTC',
                                                          'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')))::text
        FROM unnest(%(keys)s::text[]) AS keys (id)
        CROSS JOIN LATERAL (SELECT until FROM closed_periods ORDER BY until DESC LIMIT 1) AS c
        """,
        msgspec.json.Decoder(list[Closed]).decode,
    ),
    REVERSED: FactSource(
        """
        SELECT json_agg(json_build_array(r.transfer_id, r.amount::text))::text
        FROM unnest(%(keys)s::uuid[]) AS keys (id) JOIN reversed_transfers AS r ON r.transfer_id = keys.id
        """,
        msgspec.json.Decoder(list[Reversed]).decode,
    ),
    PAYMENTS: FactSource(
        """
        SELECT json_agg(json_build_array(p.id, p.status, p.transfer_id))::text
        FROM unnest(%(keys)s::uuid[]) AS keys (id) JOIN payments AS p ON p.id = keys.id
        """,
        msgspec.json.Decoder(list[Kept]).decode,
    ),
    # The last payment tells what was paid in its day: no batch is of an earlier one.
    SPENT: FactSource(
        """
        SELECT json_agg(json_build_array(keys.id, json_build_object(
            to_char(last.posted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD'), last.paid_in_day)))::text
        FROM unnest(%(keys)s::uuid[]) AS keys (id) CROSS JOIN LATERAL (
            SELECT p.posted_at, p.paid_in_day FROM payments AS p
            WHERE p.account_id = keys.id AND p.status = 'COMPLETED' AND p.direction = 'DEBIT'
            ORDER BY p.seq DESC LIMIT 1) AS last
        """,
        msgspec.json.Decoder(list[Spent]).decode,
    ),
    ALIKE: FactSource(
        """
        SELECT json_agg(json_build_array(keys.id, twin.id, to_char(twin.posted_at AT TIME ZONE 'UTC',
                                                                   'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')))::text
        FROM unnest(%(keys)s::uuid[]) AS keys (id) JOIN payments AS mine ON mine.id = keys.id
        CROSS JOIN LATERAL (
            SELECT p.id, p.posted_at FROM payments AS p
            WHERE p.user_id = mine.user_id AND p.amount = mine.amount AND p.direction = mine.direction
                  AND p.description = mine.description AND p.status = 'COMPLETED'
            ORDER BY p.posted_at DESC LIMIT 1) AS twin
        """,
        msgspec.json.Decoder(list[Twin]).decode,
    ),
}


# Of the accounts, only those that are not known already are read where the head has the hash that these were left by.
# Text becomes an array after the choice is made.
LEFT_BY: Final = "left_by"
OTHER_ACCOUNTS: Final = "other_accounts"
_KEYS: Final = {
    ACCOUNTS: f"""(CASE WHEN head.hash = %({LEFT_BY})s::bytea THEN %({OTHER_ACCOUNTS})s::text
                            ELSE %({ACCOUNTS})s::text END)"""
}


def gather(commands: Sequence[Command]) -> dict[str, list[str]]:
    """Return the keys that the commands need of each fact, each key once, the facts in the order of their names."""
    wanted: dict[str, dict[str, None]] = {}
    for command in commands:
        for name, keys in command.needs():
            known = wanted.get(name)
            if known is None:
                known = wanted[name] = {}
            for key in keys:
                known[key] = None
    return {name: list(wanted[name]) for name in sorted(wanted)}


def array(values: Iterable[str]) -> str:
    """Return an array literal of values that need no quoting: ids and numbers."""
    return "{" + ",".join(values) + "}"


def numbers(values: Sequence[int]) -> str:
    """Return an array literal of numbers, at a tenth of what it takes to make a text of each."""
    return f"{{{_encode(values)[1:-1].decode()}}}"


def columns(wanted: Iterable[str]) -> str:
    """Return the rest of a select list that reads the wanted facts, each over the parameter of its own name.

    It stands in a statement that reads the journal's `head`.
    """
    return "".join(f", ({SOURCES[name].sql})".replace("%(keys)s", _KEYS.get(name, f"%({name})s")) for name in wanted)


def decoded(wanted: dict[str, list[str]], values: Sequence[str | None]) -> dict[str, dict[str, Any]]:
    """Return the facts that the select list gave: name of the fact -> id -> row."""
    return {
        name: {} if value is None else {row.id: row for row in SOURCES[name].decode(value)}
        for name, value in zip(wanted, values, strict=True)
    }

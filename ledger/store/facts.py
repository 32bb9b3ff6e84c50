"""What a batch is decided on: each fact is one scalar SELECT over its keys, all of them read in one statement."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from ledger.domain.accounts import Account
from ledger.domain.commands import ACCOUNTS, Command
from ledger.domain.deletion import ACCOUNTS_OF_USERS, USERS, Member
from ledger.domain.game_users import GAME_USERS, GAMES, GameUser
from ledger.domain.games import GAME_TRANSACTIONS, GAME_UNDONE, Booked, Undone


class FactSource(msgspec.Struct, frozen=True):
    """How a fact is read: SQL over `%(keys)s` (an array, in text) that yields a JSON array, and what its rows are.

    A row is told by its `id`, under which rules find it in `book.facts`.
    """

    sql: str
    decode: Any


class _AccountRow(Account, array_like=True):
    """An account as its row is handed over."""


_ACCOUNTS: Final = """
        SELECT '[' || string_agg('["' || a.id || coalesce('","' || a.user_id || '","', '",null,"') || a.asset || '","'
                   || a.type || '","' || a.status || '",' || a.balance || ',' || a.held || ',' || a.credit_limit || ','
                   || a.version || ']', ',') || ']'
        FROM unnest(%(keys)s::uuid[]) AS keys (id) JOIN accounts AS a ON a."""

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

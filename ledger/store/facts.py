"""What a batch is decided on: each fact is one scalar SELECT over its keys, all of them read in one statement."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from ledger.domain.accounts import Account
from ledger.domain.commands import ACCOUNTS, Command


class FactSource(msgspec.Struct, frozen=True):
    """How a fact is read: SQL over `%(keys)s` (an array, in text) that yields a JSON array, and what its rows are.

    A row is told by its `id`, under which rules find it in `book.facts`.
    """

    sql: str
    decode: Any


class _AccountRow(Account, array_like=True):
    """An account as its row is handed over."""


SOURCES: Final[dict[str, FactSource]] = {
    ACCOUNTS: FactSource(
        """
        SELECT '[' || string_agg('["' || a.id || coalesce('","' || a.user_id || '","', '",null,"') || a.asset || '","'
                   || a.type || '","' || a.status || '",' || a.balance || ',' || a.held || ',' || a.credit_limit || ','
                   || a.version || ']', ',') || ']'
        FROM unnest(%(keys)s::uuid[]) AS keys (id) JOIN accounts AS a ON a.id = keys.id
        """,
        msgspec.json.Decoder(list[_AccountRow]).decode,
    ),
}


def gather(commands: Sequence[Command]) -> dict[str, list[str]]:
    """Return the keys that the commands need of each fact, each key once."""
    wanted: dict[str, dict[str, None]] = {}
    for command in commands:
        for name, keys in command.needs():
            known = wanted.get(name)
            if known is None:
                known = wanted[name] = {}
            for key in keys:
                known[key] = None
    return {name: list(keys) for name, keys in wanted.items()}


def array(values: Iterable[str]) -> str:
    """Return an array literal of values that need no quoting: ids and numbers."""
    return "{" + ",".join(values) + "}"


def columns(wanted: Iterable[str]) -> str:
    """Return the rest of a select list that reads the wanted facts, each over the parameter of its own name."""
    return "".join(f", ({SOURCES[name].sql})".replace("%(keys)s", f"%({name})s") for name in wanted)


def decoded(wanted: dict[str, list[str]], values: Sequence[str | None]) -> dict[str, dict[str, Any]]:
    """Return the facts that the select list gave: name of the fact -> id -> row."""
    return {
        name: {} if value is None else {row.id: row for row in SOURCES[name].decode(value)}
        for name, value in zip(wanted, values, strict=True)
    }

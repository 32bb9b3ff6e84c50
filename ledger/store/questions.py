"""How the facts of a batch are asked for in one statement, and what is known of them without asking."""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from ledger.domain.accounts import Account
from ledger.domain.book import Book
from ledger.domain.commands import ACCOUNTS, Command
from ledger.domain.journal import GENESIS, Head, Record, read_body
from ledger.store.facts import LEFT_BY, OTHER_ACCOUNTS, array, columns, decoded, gather
from ledger.store.postgres import Row
from ledger.store.prepared import Prepared
from ledger.store.recent_accounts import RecentAccounts

# A statement of its own after the lock, so that its snapshot, and its clock, are younger than the lock.
_FACTS: Final = """
SELECT head.seq, head.hash,
       to_char(greatest(clock_timestamp(), head.posted_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
       (SELECT json_agg(j.body)::text
        FROM (SELECT unnest(%(key_scopes)s::uuid[]) AS scope, unnest(string_to_array(%(keys)s, E'\\n')) AS key) AS keys
        JOIN journal AS j ON j.scope = keys.scope AND j.key = keys.key){columns}
FROM (SELECT) AS one
LEFT JOIN LATERAL (SELECT seq, hash, posted_at FROM journal ORDER BY seq DESC LIMIT 1) AS head ON true
"""


class Question(NamedTuple):
    """How the facts of some commands are asked for: accounts are read if they are not among those known.

    All of them are, where the head has not the hash that the known ones were left by.
    """

    commands: Sequence[Command]
    wanted: dict[str, list[str]]
    left_by: bytes
    known: dict[str, Account]

    @property
    def is_answered(self) -> bool:
        """Whether all is known but whether the keys are free, if the head has that hash."""
        return bool(self.left_by) and len(self.wanted) == 1 and len(self.known) == len(self.wanted.get(ACCOUNTS, ()))

    @property
    def facts(self) -> Prepared:
        """What asks for it."""
        return _facts(tuple(self.wanted))

    def parameters(self) -> dict[str, str]:
        """Return what goes with that."""
        return {
            **keys_of(self.commands),
            **{name: array(keys) for name, keys in self.wanted.items()},
            LEFT_BY: f"\\x{self.left_by.hex()}",
            OTHER_ACCOUNTS: array(name for name in self.wanted.get(ACCOUNTS, ()) if name not in self.known),
        }

    def read(self, row: Row) -> Book:
        """Return the book that the answer makes; its accounts with holds are those that were read so."""
        seq, digest, instant, known, *values = row
        facts = decoded(self.wanted, values)
        head = Head(seq or 0, bytes(digest) if digest is not None else GENESIS)
        accounts = facts.pop(ACCOUNTS, {})
        if head.hash == self.left_by:
            accounts = self.known | accounts
        return Book(head, instant, accounts, _known(known), facts)


def question_of(commands: Sequence[Command], recent: RecentAccounts) -> Question:
    """Return what is to be asked for some commands."""
    wanted = gather(commands)
    return Question(commands, wanted, recent.left_by, recent.known(wanted.get(ACCOUNTS, ())))


def keys_of(commands: Sequence[Command]) -> dict[str, str]:
    """Return the parameters that name the keys of commands: keys are printable, so a newline may part them."""
    keyed = [command for command in commands if command.key is not None]
    return {
        "key_scopes": array(command.scope or "" for command in keyed),
        "keys": "\n".join(command.key or "" for command in keyed),
    }


def _known(rows: str | None) -> dict[tuple[str | None, str | None], Record]:
    if rows is None:
        return {}
    records = map(read_body, msgspec.json.decode(rows, type=list[str]))
    return {(record.scope, record.key): record for record in records}


@lru_cache
def _facts(names: tuple[str, ...]) -> Prepared:
    name = blake2b(" ".join(names).encode(), digest_size=8).hexdigest()  # identifiers are short
    return Prepared(f"facts_{name}", _FACTS.replace("{columns}", columns(names)))

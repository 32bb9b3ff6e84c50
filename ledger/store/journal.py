"""The journal in PostgreSQL as its writer uses it: lock and read facts, append a batch, find out what became of one."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec
from twisted.internet.defer import Deferred, ensureDeferred

from ledger.domain.accounts import Account
from ledger.domain.book import Book
from ledger.domain.commands import ACCOUNTS, Command, Sealed
from ledger.domain.errors import ConfigurationError
from ledger.domain.journal import GENESIS, Head, Record, read_body
from ledger.store.facts import LEFT_BY, OTHER_ACCOUNTS, array, columns, decoded, gather
from ledger.store.journal_rows import APPEND, APPEND_ENTRIES, UPDATE_ACCOUNTS, rows, states
from ledger.store.postgres import Session, StatementFailed
from ledger.store.prepared import Preparations, Prepared
from ledger.store.recent_accounts import RecentAccounts
from ledger.store.writes import STATEMENTS, further_rows, statement

CHANNEL: Final = "ledger_journal"
_LOCK: Final = 0x4C45444745520001  # "LEDGER" and a number: the order of batches

_SETTINGS: Final[dict[str, str | int]] = {
    "synchronous_commit": "on",
    "idle_in_transaction_session_timeout": 5_000,
    "lock_timeout": 8_000,
    "statement_timeout": 25_000,
    # Every read of the writer is by index; a table that was never analysed must not talk the planner out of it.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",  # and it must not look for a better plan with every batch
}

_ANNOUNCE: Final = f"SELECT pg_notify('{CHANNEL}', %(head)s); COMMIT"
_BEGIN: Final = f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock({_LOCK}); "

_LOCK_NOT_AVAILABLE: Final = "55P03"
_EVICT: Final = f"""
SELECT pg_terminate_backend(held.pid) FROM pg_locks AS held JOIN pg_stat_activity AS backend USING (pid)
WHERE held.locktype = 'advisory' AND held.granted AND held.database = (SELECT oid FROM pg_database
      WHERE datname = current_database()) AND (held.classid::bigint << 32) + held.objid::bigint = {_LOCK}
      AND backend.xact_start < clock_timestamp() - interval '8 seconds'
"""

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


class _Question(NamedTuple):
    """How the facts of some commands are asked for: accounts are read if they are not among those known.

    All of them are, where the head has not the hash that the known ones were left by.
    """

    commands: Sequence[Command]
    facts_of: Prepared
    wanted: dict[str, list[str]]
    left_by: bytes
    accounts: dict[str, Account]
    sql: bytes


class JournalWriter:
    """The writer's connection: one transaction at a time, under the lock that orders the batches of all processes."""

    def __init__(self, reactor: Any, url: str) -> None:
        self._reactor = reactor
        self._url = url
        self.session = Session(reactor)
        self._prepared = Preparations(self.session)
        self._part: Deferred[Any] | None = None
        self._recent = RecentAccounts()
        self._with_holds: set[str] = set()  # the accounts that were read so
        self._ahead: _Question | None = None

    async def open(self) -> None:
        """Connect; raises `ConfigurationError` where a commit would not be durable."""
        self._forget()
        self.session = Session(self._reactor)
        await self.session.open(self._url, **_SETTINGS)
        ((fsync, full_page_writes, standby),) = await self.session.run(
            "SELECT current_setting('fsync'), current_setting('full_page_writes'), pg_is_in_recovery()"
        )
        if fsync != "on" or full_page_writes != "on":
            raise ConfigurationError("--database: the server runs with fsync or full_page_writes off")
        if standby:
            raise ConfigurationError("--database: the server is a standby; name the primary")
        self._prepared = Preparations(self.session)
        # All at once: later, a part of a batch may be under way on this connection.
        await self._prepared.have((APPEND, APPEND_ENTRIES, UPDATE_ACCOUNTS, *map(statement, STATEMENTS)))

    def look_ahead(self, commands: Sequence[Command]) -> None:
        """Make ready to read the facts of these commands, while the database is busy."""
        with suppress(Exception):  # it will show again when the facts are read
            self._ahead = self._question(commands)

    def _question(self, commands: Sequence[Command]) -> "_Question":
        wanted = gather(commands)
        facts_of = _facts(tuple(wanted))
        keyed = [command for command in commands if command.key is not None]
        parameters = {
            "key_scopes": array(command.scope or "" for command in keyed),
            "keys": "\n".join(command.key or "" for command in keyed),
            **{name: array(keys) for name, keys in wanted.items()},
        }
        accounts = wanted.get(ACCOUNTS, ())
        known = self._recent.known(accounts)
        parameters[LEFT_BY] = f"\\x{self._recent.left_by.hex()}"
        parameters[OTHER_ACCOUNTS] = array(name for name in accounts if name not in known)
        sql = self.session.render(_BEGIN + facts_of.execute, parameters)
        return _Question(commands, facts_of, wanted, self._recent.left_by, known, sql)

    async def read_facts(self, commands: Sequence[Command]) -> Book:
        """Begin a transaction, wait for the lock, and read all that the commands are decided on."""
        question, self._ahead = self._ahead, None
        if question is None or question.commands is not commands:
            question = self._question(commands)
        await self._prepared.have((question.facts_of,))
        try:
            rows = await self.session.run(question.sql)
        except StatementFailed as error:
            if error.sqlstate == _LOCK_NOT_AVAILABLE:
                await self._evict_stalled()
            raise
        seq, digest, instant, known, *values = rows[0]
        facts = decoded(question.wanted, values)
        head = Head(seq or 0, bytes(digest) if digest is not None else GENESIS)
        accounts = facts.pop(ACCOUNTS, {})
        self._with_holds = {account.id for account in accounts.values() if account.held}
        if head.hash == question.left_by:
            accounts |= question.accounts
        self._recent.lend(head.hash)
        return Book(head, instant, accounts, _known(known), facts)

    async def _evict_stalled(self) -> None:
        """End the backend of a process that has stopped while holding the lock, with its facts still unread."""
        await self.roll_back()
        await self.session.run(_EVICT)

    async def append_part(self, book: Book, batch: Sequence[Sealed]) -> None:
        """Send the first records of a batch on their way; what comes of it shows when more are sent."""
        rendered = self._rendered(book, batch, last=False)
        await self._part_done()
        self._part = ensureDeferred(self.session.run(rendered))

    async def append(self, book: Book, batch: Sequence[Sealed]) -> None:
        """Keep the (other) records of a batch and the state it led to, announce it, and commit."""
        rendered = self._rendered(book, batch, last=True)
        # Before it is committed, for whoever looks ahead; if it fails, all is forgotten.
        self._recent.follow(book.head.hash, book.accounts.values(), self._with_holds)
        await self._part_done()
        await self.session.run(rendered)

    async def roll_back(self) -> None:
        """End the transaction without a trace."""
        self._forget()
        with suppress(StatementFailed):
            await self._part_done()
        await self.session.run("ROLLBACK")

    def _forget(self) -> None:
        self._recent.forget()
        self._ahead = None

    def _rendered(self, book: Book, batch: Sequence[Sealed], *, last: bool) -> bytes:
        """Return the statements that keep some records, and for the last ones of a batch all that ends it."""
        try:
            statements, parameters = rows(book, batch) if batch else ([], {})
            further = further_rows(batch)
            statements += map(statement, further)
            parameters |= further
            if last and book.touched:
                statements.append(UPDATE_ACCOUNTS)
                parameters |= states(book)
            sql = "".join(f"{prepared.execute}; " for prepared in statements)
            if last:
                sql += _ANNOUNCE
                parameters["head"] = str(book.head.seq)
            return self.session.render(sql, parameters)
        except (KeyError, TypeError) as error:  # a kind that writes what cannot be written: nothing was sent yet
            raise StatementFailed("XX000", f"a record cannot be rendered: {error!r}") from error

    async def _part_done(self) -> None:
        part, self._part = self._part, None
        if part is not None:
            await part

    async def kept(self, ids: Iterable[str]) -> set[str]:
        """Return those of the records that are in the journal, once every batch under way has ended.

        A backend that died in its COMMIT holds the lock until that is done or undone, so the answer is final.
        """
        await self.session.run(_BEGIN)
        rows = await self.session.run("SELECT id::text FROM journal WHERE id = ANY (%s::uuid[])", (array(ids),))
        await self.roll_back()
        return {row[0] for row in rows}

    def close(self) -> None:
        """Close the connection."""
        if self._part is not None:
            self._part.addErrback(lambda _: None)  # nobody asks any more
            self._part = None
        self.session.close()


def _known(rows: str | None) -> dict[tuple[str | None, str | None], Record]:
    if rows is None:
        return {}
    records = map(read_body, msgspec.json.decode(rows, type=list[str]))
    return {(record.scope, record.key): record for record in records}


@lru_cache
def _facts(names: tuple[str, ...]) -> Prepared:
    name = blake2b(" ".join(names).encode(), digest_size=8).hexdigest()  # identifiers are short
    return Prepared(f"facts_{name}", _FACTS.replace("{columns}", columns(names)))

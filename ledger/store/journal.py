"""The journal in PostgreSQL as its writer uses it: lock and read facts, append a batch, find out what became of one."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec.structs import astuple
from twisted.internet.defer import Deferred, ensureDeferred

from ledger.domain.commands import ACCOUNTS, Book, Command, Sealed
from ledger.domain.errors import ConfigurationError
from ledger.domain.journal import GENESIS, Head, Record, entry_ids, read_body
from ledger.store.facts import array, columns, decoded, gather
from ledger.store.postgres import Session, StatementFailed
from ledger.store.prepared import Preparations, Prepared
from ledger.store.writes import further_rows, statement

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
        FROM unnest(%(key_scopes)s::uuid[], string_to_array(%(keys)s, E'\\n')) AS keys (scope, key)
        JOIN journal AS j ON j.scope = keys.scope AND j.key = keys.key){columns}
FROM (SELECT) AS one
LEFT JOIN LATERAL (SELECT seq, hash, posted_at FROM journal ORDER BY seq DESC LIMIT 1) AS head ON true
"""

# Columns are unnested in the select list: unlike in FROM, nothing is copied into a store on the way.
# Bodies and keys hold no raw newline (JSON escapes it; keys are printable ASCII), so a newline may part them.
_APPEND: Final = Prepared(
    "append_records",
    """
INSERT INTO journal (seq, id, kind, scope, key, reverses, posted_at, effective_at, body, hash)
SELECT seq, id, kind, scope, nullif(key, ''), reverses, %(instant)s::timestamptz,
       coalesce(effective_at, %(instant)s::timestamptz), body, decode(hash, 'hex')
FROM (SELECT unnest(%(seq)s::bigint[]) AS seq, unnest(%(id)s::uuid[]) AS id, unnest(%(kind)s::text[]) AS kind,
             unnest(%(scope)s::uuid[]) AS scope, unnest(string_to_array(%(key)s, E'\\n')) AS key,
             unnest(%(reverses)s::uuid[]) AS reverses, unnest(%(effective)s::timestamptz[]) AS effective_at,
             unnest(string_to_array(%(body)s, E'\\n')) AS body, unnest(%(hash)s::text[]) AS hash) AS fresh
""",
)

_APPEND_ENTRIES: Final = Prepared(
    "append_entries",
    """
INSERT INTO transactions (id, account_id, seq, amount, type, balance, held, version, "timestamp")
SELECT id, (%(entry_accounts)s::uuid[])[place], seq, abs(amount), CASE WHEN amount < 0 THEN 'debit' ELSE 'credit' END,
       balance, held, version, %(instant)s::timestamptz
FROM (SELECT unnest(%(entry_id)s::uuid[]) AS id, unnest(%(entry_place)s::int[]) AS place,
             unnest(%(entry_seq)s::bigint[]) AS seq, unnest(%(entry_amount)s::bigint[]) AS amount,
             unnest(%(entry_balance)s::numeric[]) AS balance, unnest(%(entry_held)s::numeric[]) AS held,
             unnest(%(entry_version)s::bigint[]) AS version) AS fresh
""",
)

_UPDATE_ACCOUNTS: Final = Prepared(
    "update_accounts",
    """
UPDATE accounts AS a
SET status = fresh.status, balance = fresh.balance, held = fresh.held, credit_limit = fresh.credit_limit,
    version = fresh.version
FROM unnest(%(account)s::uuid[], %(status)s::text[], %(balance)s::numeric[], %(held)s::numeric[],
            %(credit_limit)s::bigint[], %(version)s::bigint[])
     AS fresh (id, status, balance, held, credit_limit, version)
WHERE a.id = fresh.id
""",
)


class JournalWriter:
    """The writer's connection: one transaction at a time, under the lock that orders the batches of all processes."""

    def __init__(self, reactor: Any, url: str) -> None:
        self._reactor = reactor
        self._url = url
        self.session = Session(reactor)
        self._prepared = Preparations(self.session)
        self._part: Deferred[Any] | None = None

    async def open(self) -> None:
        """Connect; raises `ConfigurationError` where a commit would not be durable."""
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
        await self._prepared.have((_APPEND, _APPEND_ENTRIES, _UPDATE_ACCOUNTS))

    async def read_facts(self, commands: Sequence[Command]) -> Book:
        """Begin a transaction, wait for the lock, and read all that the commands are decided on."""
        wanted = gather(commands)
        facts_of = _facts(tuple(wanted))
        await self._prepared.have((facts_of,))
        keyed = [command for command in commands if command.key is not None]
        parameters = {
            "key_scopes": array(command.scope or "" for command in keyed),
            "keys": "\n".join(command.key or "" for command in keyed),
            **{name: array(keys) for name, keys in wanted.items()},
        }
        try:
            rows = await self.session.run(_BEGIN + facts_of.execute, parameters)
        except StatementFailed as error:
            if error.sqlstate == _LOCK_NOT_AVAILABLE:
                await self._evict_stalled()
            raise
        seq, digest, instant, known, *values = rows[0]
        facts = decoded(wanted, values)
        head = Head(seq or 0, bytes(digest) if digest is not None else GENESIS)
        return Book(head, instant, facts.pop(ACCOUNTS, {}), _known(known), facts)

    async def _evict_stalled(self) -> None:
        """End the backend of a process that has stopped while holding the lock, with its facts still unread."""
        await self.roll_back()
        await self.session.run(_EVICT)

    async def append_part(self, book: Book, batch: Sequence[Sealed]) -> None:
        """Send the first records of a batch on their way; what comes of it shows when more are sent."""
        sql, parameters = await self._inserts(book, batch)
        rendered = self.session.render(sql, parameters)
        await self._part_done()
        self._part = ensureDeferred(self.session.run(rendered))

    async def append(self, book: Book, batch: Sequence[Sealed]) -> None:
        """Keep the (other) records of a batch and the state it led to, announce it, and commit."""
        sql, parameters = await self._inserts(book, batch)
        if book.touched:
            sql += f"{_UPDATE_ACCOUNTS.execute}; "
            parameters |= _states(book)
        parameters["head"] = str(book.head.seq)
        rendered = self.session.render(sql + _ANNOUNCE, parameters)
        await self._part_done()
        await self.session.run(rendered)

    async def roll_back(self) -> None:
        """End the transaction without a trace."""
        with suppress(StatementFailed):
            await self._part_done()
        await self.session.run("ROLLBACK")

    async def _inserts(self, book: Book, batch: Sequence[Sealed]) -> tuple[str, dict[str, Any]]:
        """Return the statements, and their parameters, that insert the rows of some records."""
        if not batch:
            return "", {}
        statements, parameters = _rows(book, batch)
        further = further_rows(batch)
        writes = [statement(name) for name in further]
        await self._prepared.have(writes)
        return "".join(f"{prepared.execute}; " for prepared in (*statements, *writes)), {**parameters, **further}

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


_seq, _id, _kind = attrgetter("seq"), attrgetter("id"), attrgetter("kind")
_reverses, _effective_at = attrgetter("reverses"), attrgetter("effective_at")
_body, _hash = attrgetter("body"), attrgetter("hash")


@lru_cache
def _facts(names: tuple[str, ...]) -> Prepared:
    return Prepared("facts_" + "_".join(names), _FACTS.replace("{columns}", columns(names)))


def _rows(book: Book, batch: Sequence[Sealed]) -> tuple[list[Prepared], dict[str, Any]]:
    """Return the statements, and their parameters, that keep records and their entries."""
    records = [sealed.record for sealed in batch]
    parameters: dict[str, Any] = {
        "instant": book.instant,
        "seq": array(map(str, map(_seq, records))),
        "id": array(map(_id, records)),
        "kind": array(map(_kind, records)),
        "scope": array([record.scope or "NULL" for record in records]),
        "key": "\n".join([record.key or "" for record in records]),
        "reverses": _mostly_null(map(_reverses, records)),
        "effective": _mostly_null(map(_effective_at, records)),
        "body": b"\n".join(map(_body, batch)).decode(),
        "hash": array([b"".join(map(_hash, batch)).hex(",", 32)]),
    }
    statements = [_APPEND]
    entries = [entry for record in records for entry in record.entries]
    if entries:
        statements.append(_APPEND_ENTRIES)
        accounts, amounts, balances, held, _, versions = zip(*map(astuple, entries), strict=True)
        # An id is told once, and then by its place: most of what is sent would be ids, the world's above all.
        places = {account: str(place) for place, account in enumerate(dict.fromkeys(accounts), 1)}
        parameters |= {
            "entry_id": array([name for record in records for name in entry_ids(record)]),
            "entry_accounts": array(places),
            "entry_place": array(map(places.__getitem__, accounts)),
            "entry_seq": array([str(record.seq) for record in records for _ in record.entries]),
            "entry_amount": array(map(str, amounts)),
            "entry_balance": array(map(str, balances)),
            "entry_held": array(map(str, held)),
            "entry_version": array(map(str, versions)),
        }
    return statements, parameters


def _mostly_null(values: Iterable[str | None]) -> str:
    """Return an array literal; one that would hold nothing but nulls is empty, which `unnest` fills up with them."""
    texts = [value or "NULL" for value in values]
    return array(texts) if any(text != "NULL" for text in texts) else "{}"


def _states(book: Book) -> dict[str, str]:
    touched = book.touched.values()
    return {
        "account": array(a.id for a in touched),
        "status": array(a.status for a in touched),
        "balance": array(str(a.balance) for a in touched),
        "held": array(str(a.held) for a in touched),
        "credit_limit": array(str(a.credit_limit) for a in touched),
        "version": array(str(a.version) for a in touched),
    }

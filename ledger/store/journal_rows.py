"""What a batch brings to the tables: its records and entries, and the state that it led accounts to."""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, Final, TypeVar

from msgspec.structs import astuple

from ledger.domain.book import Book
from ledger.domain.commands import Sealed
from ledger.domain.journal import Record, entry_ids
from ledger.store.facts import array, numbers
from ledger.store.prepared import Prepared

# Columns are unnested in the select list: unlike in FROM, nothing is copied into a store on the way.
# Bodies and keys hold no raw newline (JSON escapes it; keys are printable ASCII), so a newline may part them.
APPEND: Final = Prepared(
    "append_records",
    """
INSERT INTO journal (seq, id, kind, scope, key, reverses, posted_at, effective_at, body, hash)
SELECT %(seq)s::bigint + place, id, (%(kinds)s::text[])[coalesce(kind, 1)], (%(scopes)s::uuid[])[coalesce(scope, 1)],
       nullif(key, ''),
       (%(reverses)s::uuid[])[place], %(instant)s::timestamptz,
       coalesce((%(effective)s::timestamptz[])[place], %(instant)s::timestamptz), body,
       substring(%(hash)s::bytea FROM 32 * place - 31 FOR 32)
FROM (SELECT generate_series(1, %(count)s::int) AS place, unnest(%(id)s::uuid[]) AS id,
             unnest(%(kind)s::int[]) AS kind, unnest(%(scope)s::int[]) AS scope,
             unnest(string_to_array(%(key)s, E'\\n')) AS key,
             unnest(string_to_array(%(body)s, E'\\n')) AS body) AS fresh
""",
)

APPEND_ENTRIES: Final = Prepared(
    "append_entries",
    """
INSERT INTO transactions (id, account_id, seq, amount, type, balance, held, version, "timestamp")
SELECT id, (%(entry_accounts)s::uuid[])[coalesce(account, 1)],
       coalesce(seq, %(seq)s::bigint + 1 + place % %(count)s::int), abs(amount),
       CASE WHEN amount < 0 THEN 'debit' ELSE 'credit' END, balance, coalesce(held, 0), version,
       %(instant)s::timestamptz
FROM (SELECT generate_series(0, %(entries)s::int - 1) AS place, unnest(%(entry_id)s::uuid[]) AS id,
             unnest(%(entry_account)s::int[]) AS account,
             unnest(%(entry_seq)s::bigint[]) AS seq, unnest(%(entry_amount)s::bigint[]) AS amount,
             unnest(%(entry_balance)s::numeric[]) AS balance, unnest(%(entry_held)s::numeric[]) AS held,
             unnest(%(entry_version)s::bigint[]) AS version) AS fresh
""",
)

UPDATE_ACCOUNTS: Final = Prepared(
    "update_accounts",
    """
UPDATE accounts AS a
SET status = (%(statuses)s::text[])[coalesce(fresh.status, 1)], balance = fresh.balance, held = coalesce(fresh.held, 0),
    credit_limit = coalesce(fresh.credit_limit, 0), version = fresh.version
FROM (SELECT unnest(%(account)s::uuid[]) AS id, unnest(%(status)s::int[]) AS status,
             unnest(%(balance)s::numeric[]) AS balance, unnest(%(held)s::numeric[]) AS held,
             unnest(%(credit_limit)s::bigint[]) AS credit_limit, unnest(%(version)s::bigint[]) AS version) AS fresh
WHERE a.id = fresh.id
""",
)

T = TypeVar("T")

_seq, _id, _kind = attrgetter("seq"), attrgetter("id"), attrgetter("kind")
_reverses, _effective_at = attrgetter("reverses"), attrgetter("effective_at")
_body, _hash = attrgetter("body"), attrgetter("hash")


def rows(book: Book, batch: Sequence[Sealed]) -> tuple[list[Prepared], dict[str, Any]]:
    """Return the statements, and their parameters, that keep records and their entries."""
    records = [sealed.record for sealed in batch]
    kinds, kind = _told_once(list(map(_kind, records)))
    scopes, scope = _told_once([record.scope or "NULL" for record in records])
    parameters: dict[str, Any] = {
        "instant": book.instant,
        "seq": records[0].seq - 1,
        "count": len(records),
        "id": array(map(_id, records)),
        "kinds": kinds,
        "kind": kind,
        "scopes": scopes,
        "scope": scope,
        "key": "\n".join([record.key or "" for record in records]),
        "reverses": _mostly_null(map(_reverses, records)),
        "effective": _mostly_null(map(_effective_at, records)),
        "body": b"\n".join(map(_body, batch)),
        "hash": "\\x" + b"".join(map(_hash, batch)).hex(),
    }
    statements = [APPEND]
    entries = _sides_apart([entry for record in records for entry in record.entries])
    if entries:
        statements.append(APPEND_ENTRIES)
        accounts, amounts, balances, held, _, versions = zip(*map(astuple, entries), strict=True)
        # Most of what is sent would be ids, the world's above all.
        distinct, places = _told_once(accounts)
        parameters |= {
            "entries": len(entries),
            "entry_id": array(_sides_apart(entry_ids(records))),
            "entry_accounts": distinct,
            "entry_account": places,
            "entry_seq": _seqs(records),
            "entry_amount": numbers(amounts),
            "entry_balance": numbers(balances),
            "entry_held": _mostly_zero(held),
            "entry_version": numbers(versions),
        }
    return statements, parameters


def _seqs(records: Sequence[Record]) -> str:
    """Return an array literal of the entries' records; empty where each has two, for then they can be counted."""
    if all(len(record.entries) == 2 for record in records):
        return "{}"
    return numbers(_sides_apart([record.seq for record in records for _ in record.entries]))


def _mostly_null(values: Iterable[str | None]) -> str:
    """Return an array literal; one that would hold nothing but nulls is empty, which `unnest` fills up with them."""
    texts = [value or "NULL" for value in values]
    return array(texts) if any(text != "NULL" for text in texts) else "{}"


def _mostly_zero(values: Sequence[int]) -> str:
    """Return an array literal; one that would hold nothing but zeros is empty, and nulls stand for them."""
    return numbers(values) if any(values) else "{}"


def _told_once(values: Sequence[str]) -> tuple[str, str]:
    """Return array literals: of the values, each once, and of their places in it; empty where all are the first."""
    places = {value: place for place, value in enumerate(dict.fromkeys(values), 1)}
    return array(places), numbers(list(map(places.__getitem__, values))) if len(places) > 1 else "{}"


def _sides_apart(values: list[T]) -> list[T]:
    """Return the same values, every other one first: rows of one account, the world's above all, then stand together.

    That spares their index the way from its root to the page where the row before has just been put.
    """
    return values[::2] + values[1::2]


def states(book: Book) -> dict[str, str]:
    """Return the parameters that bring the accounts to where the batch left them."""
    touched = book.touched.values()
    statuses, status = _told_once([a.status for a in touched])
    return {
        "account": array(book.touched),
        "statuses": statuses,
        "status": status,
        "balance": numbers([a.balance for a in touched]),
        "held": _mostly_zero([a.held for a in touched]),
        "credit_limit": _mostly_zero([a.credit_limit for a in touched]),
        "version": numbers([a.version for a in touched]),
    }

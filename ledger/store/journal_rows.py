"""What a batch brings to the tables: its records and entries, and the state that it led accounts to."""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, Final

from msgspec.structs import astuple

from ledger.domain.commands import Book, Sealed
from ledger.domain.journal import entry_ids
from ledger.store.facts import array
from ledger.store.prepared import Prepared

# Columns are unnested in the select list: unlike in FROM, nothing is copied into a store on the way.
# Bodies and keys hold no raw newline (JSON escapes it; keys are printable ASCII), so a newline may part them.
APPEND: Final = Prepared(
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

APPEND_ENTRIES: Final = Prepared(
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

UPDATE_ACCOUNTS: Final = Prepared(
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

_seq, _id, _kind = attrgetter("seq"), attrgetter("id"), attrgetter("kind")
_reverses, _effective_at = attrgetter("reverses"), attrgetter("effective_at")
_body, _hash = attrgetter("body"), attrgetter("hash")


def rows(book: Book, batch: Sequence[Sealed]) -> tuple[list[Prepared], dict[str, Any]]:
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
    statements = [APPEND]
    entries = [entry for record in records for entry in record.entries]
    if entries:
        statements.append(APPEND_ENTRIES)
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


def states(book: Book) -> dict[str, str]:
    """Return the parameters that bring the accounts to where the batch left them."""
    touched = book.touched.values()
    return {
        "account": array(a.id for a in touched),
        "status": array(a.status for a in touched),
        "balance": array(str(a.balance) for a in touched),
        "held": array(str(a.held) for a in touched),
        "credit_limit": array(str(a.credit_limit) for a in touched),
        "version": array(str(a.version) for a in touched),
    }

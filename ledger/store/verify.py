"""`verify` in PostgreSQL: hands the whole journal to the audit, in slices that hold no snapshot for long."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec
from twisted.internet.task import deferLater

from ledger.domain.audit import Audit
from ledger.domain.audit_rows import Finding, KeptRecord
from ledger.store.pool import Pool
from ledger.store.verify_rows import instant, readable, tables_of
from ledger.store.verify_shelves import ACCOUNTS, SHELVES, Shelf

_RECORDS: Final = 250
_BYTES: Final = 131_072  # of the bodies of records that are looked up together
_IN_ONE_GO: Final = 50  # records that are checked between two rests
_LONGEST_REST: Final = 1.0
_ACCOUNTS: Final = 500  # rows of any table


Rest = Callable[[], Awaitable[None]]


class Verdict(msgspec.Struct, frozen=True):
    """What an audit of the whole journal came to."""

    ok: bool
    head: int
    checked: int
    first_failure: Finding | None = None


async def _no_rest() -> None:
    """Go on at once."""


def resting(clock: Any) -> Rest:
    """Return a rest that is as long as the work since the last one, so that half of the machine is left to others."""
    since = clock.seconds()

    async def rest() -> None:
        nonlocal since
        await deferLater(clock, min(clock.seconds() - since, _LONGEST_REST))
        since = clock.seconds()

    return rest


async def verify(pool: Pool, rest: Rest = _no_rest) -> Verdict:
    """Audit the whole journal, resting between slices; commits that come meanwhile may be left to the next time."""
    ((head,),) = await pool.query("SELECT coalesce(max(seq), 0) FROM journal")
    audit = Audit()
    finding = await _journal(pool, audit, head, rest) or await _accounts(pool, audit, rest) or await _strays(pool)
    for shelf in SHELVES:
        finding = finding or await _rows(pool, audit, shelf, rest)
    return Verdict(finding is None, max(head, audit.head.seq), audit.head.seq, finding)


async def _journal(pool: Pool, audit: Audit, head: int, rest: Rest = _no_rest) -> Finding | None:
    """Walk on from where the audit is up to the given head."""
    while (last := audit.head.seq) < head:
        rows = await pool.query(
            f"""SELECT seq, id::text, kind, scope::text, key, reverses::text, {instant("posted_at")},
                       {instant("effective_at")}, body, hash
                FROM journal WHERE seq > %s AND seq <= %s ORDER BY seq LIMIT %s""",
            (last, head, _RECORDS),
        )
        if not rows:
            return Finding(f"journal {last + 1}", f"is missing, the journal goes on to {head}", last + 1)
        for kept in _light([KeptRecord(*row)._replace(hash=bytes(row[9])) for row in rows]):
            finding = await _records(pool, audit, kept, rest)
            if finding is not None:
                return finding
    return None


async def _records(pool: Pool, audit: Audit, kept: Sequence[KeptRecord], rest: Rest) -> Finding | None:
    tables = await tables_of(pool, kept, [record for row in kept if (record := readable(row.body)) is not None])
    uses = await _uses_of_keys(pool, kept)
    for number, row in enumerate(kept, 1):
        finding = audit.record(row, tables, uses.get((row.scope, row.key), 0))
        if finding is not None:
            return finding
        if number % _IN_ONE_GO == 0 or number == len(kept):
            await rest()
    return None


def _light(rows: Sequence[KeptRecord]) -> Iterator[Sequence[KeptRecord]]:
    """Part rows where their bodies would be too much to look at in one turn of the reactor."""
    start = size = 0
    for index, row in enumerate(rows):
        size += len(row.body)
        if size > _BYTES and index > start:
            yield rows[start:index]
            start, size = index, len(row.body)
    yield rows[start:]


async def _uses_of_keys(pool: Pool, rows: Iterable[KeptRecord]) -> dict[tuple[str | None, str | None], int]:
    keyed = [row for row in rows if row.key is not None]
    found = await pool.query(
        """SELECT j.scope::text, j.key, count(*) FROM unnest(%s::uuid[], %s::text[]) AS used (scope, key)
           JOIN journal AS j USING (scope, key) GROUP BY 1, 2""",
        ([row.scope for row in keyed], [row.key for row in keyed]),
    )
    times: dict[tuple[str | None, str | None], int] = {}
    for row in keyed:
        times[row.scope, row.key] = times.get((row.scope, row.key), 0) + 1
    # A key that stands twice among the rows at hand joins twice.
    return {(scope, key): count // times[scope, key] for scope, key, count in found}


async def _accounts(pool: Pool, audit: Audit, rest: Rest = _no_rest) -> Finding | None:
    # The walk has found every version up to the account's, each being there once; so nothing has to be counted.
    return await _rows(pool, audit, ACCOUNTS, rest)


async def _rows(pool: Pool, audit: Audit, shelf: Shelf, rest: Rest) -> Finding | None:
    """Check all rows of a table, slice by slice."""
    last = shelf.start
    while True:
        rows = await pool.query(shelf.sql, (*last, _ACCOUNTS))
        if not rows:
            return None
        finding = await _journal(pool, audit, rows[0][-1], rest) if shelf.walks_on else None
        if finding is not None:
            return finding
        for row in rows:
            finding = shelf.check(audit, row)
            if finding is not None:
                return finding
        if len(rows) < _ACCOUNTS:
            return None
        last = rows[-1][: len(shelf.start)]
        await rest()


async def _strays(pool: Pool) -> Finding | None:
    """Find entries of accounts that do not exist, hopping from account to account along the index."""
    last = "00000000-0000-0000-0000-000000000000"
    while True:
        rows = await pool.query(
            """WITH RECURSIVE named (id) AS (
                   (SELECT account_id FROM transactions WHERE account_id > %s ORDER BY account_id LIMIT 1)
                   UNION ALL
                   SELECT (SELECT t.account_id FROM transactions AS t WHERE t.account_id > named.id
                           ORDER BY t.account_id LIMIT 1)
                   FROM named WHERE named.id IS NOT NULL)
               SELECT named.id::text, accounts.id IS NULL FROM named LEFT JOIN accounts ON accounts.id = named.id
               WHERE named.id IS NOT NULL LIMIT %s""",
            (last, _ACCOUNTS),
        )
        for account_id, is_stray in rows:
            if is_stray:
                return Finding(f"transactions {account_id}", "belongs to an account that does not exist")
        if len(rows) < _ACCOUNTS:
            return None
        last = rows[-1][0]

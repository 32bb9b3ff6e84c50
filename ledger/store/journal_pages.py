"""The journal in PostgreSQL as auditors read it: records in their order, with their hashes."""

from typing import Final

import msgspec

from ledger.domain.journal import Record, read_body
from ledger.store.accounts import owners_of
from ledger.store.pool import Pool

_MOST: Final = 2 << 20  # bytes of bodies in a page, unless the first alone has more

_PAGE: Final = """
    SELECT seq, hash, body
    FROM (SELECT seq, hash, body, octet_length(body) AS size, sum(octet_length(body)) OVER (ORDER BY seq) AS total
          FROM journal WHERE seq > %s ORDER BY seq LIMIT %s) AS next
    WHERE total - size < %s ORDER BY seq"""


class Kept(msgspec.Struct, frozen=True):
    """A record as it is kept."""

    record: Record
    hash: bytes
    body: str


class JournalPage(msgspec.Struct, frozen=True):
    """Some records, the assets of the accounts that they name, and whether the journal goes on."""

    kept: list[Kept]
    assets: dict[str, str]
    has_more: bool


async def read_journal(pool: Pool, since: int, limit: int) -> JournalPage:
    """Return at most so many of the records that follow `since`, fewer where they are large."""
    rows = await pool.query(_PAGE, (since, limit, _MOST))
    kept = [Kept(read_body(body), bytes(digest), body) for _, digest, body in rows]
    last = rows[-1][0] if rows else since
    ((has_more,),) = await pool.query("SELECT coalesce(max(seq), 0) > %s FROM journal", (last,))
    named = {entry.account for one in kept for entry in one.record.entries}
    owners = await owners_of(pool, named) if named else {}
    return JournalPage(kept, {name: owner.asset for name, owner in owners.items()}, bool(has_more))

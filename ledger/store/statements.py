"""Statements of an account in PostgreSQL: what counts within a time, in the order in which it counts, in slices."""

from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from ledger.domain.accounts import Owner
from ledger.domain.errors import Refused
from ledger.domain.money import asset_named, format_amount
from ledger.store.accounts import NOW
from ledger.store.history import DESCRIPTION, description_in
from ledger.store.pool import Pool
from ledger.store.postgres import Row
from ledger.store.versions import halving, instant

SLICE: Final = 200

# All of one snapshot, up to whose last version the statement knows what was booked; a time without its end takes in
# what was booked at this very instant.
_BEGIN: Final = f"""
    WITH RECURSIVE asked AS (
        SELECT account_id, before, coalesce(since, least(before, opened_at)) AS since
        FROM (SELECT account_id, since, coalesce(before, {NOW} + interval '1 microsecond') AS before,
                     (SELECT created_at FROM accounts WHERE id = account_id) AS opened_at
              FROM (SELECT %s::uuid AS account_id, %s::timestamptz AS since, %s::timestamptz AS before) AS given
              OFFSET 0) AS said),
    {halving("opening", "(SELECT account_id FROM asked)", "< (SELECT since FROM asked)")},
    {halving("closing", "(SELECT account_id FROM asked)", "< (SELECT before FROM asked)")},
    bounds (place, edge, version) AS (
        SELECT 1, (SELECT since FROM asked), (SELECT low FROM opening WHERE high - low = 1)
        UNION ALL SELECT 2, (SELECT before FROM asked), (SELECT low FROM closing WHERE high - low = 1))
    SELECT place, edge, {instant("edge")}, bounds.version,
           (SELECT coalesce(max(t.version), 0) FROM transactions AS t WHERE t.account_id = asked.account_id),
           coalesce((SELECT t.balance FROM transactions AS t
                     WHERE t.account_id = asked.account_id AND t.version = bounds.version), 0)
           + coalesce((SELECT sum(b.amount) FROM backdated_entries AS b
                       WHERE b.account_id = asked.account_id AND b.effective_at < edge AND b.posted_at >= edge), 0)
    FROM bounds CROSS JOIN asked"""

_COLUMNS: Final = f"""
    {instant("j.effective_at")}, t.version, t.id::text, j.id::text, j.kind, t.type, t.amount, {DESCRIPTION},
    {instant('t."timestamp"')}"""
_RECORD: Final = """
    CROSS JOIN LATERAL (SELECT id, kind, body, effective_at FROM journal WHERE journal.seq = t.seq OFFSET 0) AS j"""

_AT_ONCE: Final = f"""
    SELECT {_COLUMNS} FROM transactions AS t {_RECORD}
    WHERE t.account_id = %s AND t.version > %s AND t.version <= %s AND j.effective_at = t."timestamp"
    ORDER BY t.version LIMIT %s"""

_BACKDATED: Final = f"""
    SELECT b.effective_at, {_COLUMNS} FROM backdated_entries AS b
    CROSS JOIN LATERAL (SELECT * FROM transactions
                        WHERE account_id = b.account_id AND version = b.version OFFSET 0) AS t {_RECORD}
    WHERE b.account_id = %s AND (b.effective_at, b.version) > (%s, %s) AND b.effective_at < %s AND b.version <= %s
    ORDER BY b.effective_at, b.version LIMIT %s"""


class Line(msgspec.Struct, frozen=True):
    """One movement of money, with the balance after it in the order in which movements count."""

    transaction_id: str
    transfer_id: str
    kind: str
    type: str
    amount: str
    balance: str
    description: str | None
    effective_at: str
    posted_at: str


class _Booked:
    """The entries that count from when they were booked, by version."""

    def __init__(self, pool: Pool, account_id: str, low: int, high: int) -> None:
        self._pool, self._account_id, self._low, self._high = pool, account_id, low, high
        self.rows: deque[Row] = deque()

    async def fill(self) -> bool:
        """Whether there is a row; reads on where there would be none."""
        while not self.rows and self._low < self._high:
            following = min(self._low + SLICE, self._high)
            self.rows.extend(await self._pool.query(_AT_ONCE, (self._account_id, self._low, following, SLICE)))
            self._low = following
        return bool(self.rows)


class _Backdated:
    """The entries that count from earlier, by the instants from which they do."""

    def __init__(self, pool: Pool, account_id: str, since: datetime, before: datetime, last: int) -> None:
        self._pool, self._account_id, self._before, self._last = pool, account_id, before, last
        self._place: tuple[datetime, int] | None = (since, 0)
        self.rows: deque[Row] = deque()

    async def fill(self) -> bool:
        """Whether there is a row; reads on where there would be none."""
        if not self.rows and self._place is not None:
            parameters = (self._account_id, *self._place, self._before, self._last, SLICE)
            found = await self._pool.query(_BACKDATED, parameters)
            self._place = (found[-1][0], found[-1][2]) if len(found) == SLICE else None
            self.rows.extend(row[1:] for row in found)
        return bool(self.rows)


class Statement:
    """A statement that has begun: it tells what was known then, however long its reading takes."""

    def __init__(self, pool: Pool, owner: Owner, bounds: Sequence[Row]) -> None:
        (_, since, self.since, low, last, opening), (_, before, self.before, high, _, closing) = bounds
        self.owner = owner
        self.opening = int(opening)
        self.closing = int(closing)
        self._balance = self.opening
        self._scale = asset_named(owner.asset).scale
        self._booked = _Booked(pool, owner.account_id, low, high)
        self._backdated = _Backdated(pool, owner.account_id, since, before, last)

    def money(self, amount: int) -> str:
        """Return an amount as the account's asset has it."""
        return format_amount(amount, self._scale)

    async def lines(self) -> list[Line]:
        """Return the next lines, a slice at most of each kind; none at the end, where all must have added up."""
        both = [await self._booked.fill(), await self._backdated.fill()]
        booked, backdated = self._booked.rows, self._backdated.rows
        lines: list[Line] = []
        if all(both):
            while booked and backdated:
                lines.append(self._line((booked if booked[0] < backdated[0] else backdated).popleft()))
        else:
            rows = booked or backdated
            lines = [self._line(row) for row in rows]
            rows.clear()
        if not lines and self._balance != self.closing:
            raise RuntimeError(f"the statement of {self.owner.account_id} does not add up")
        return lines

    def _line(self, row: Any) -> Line:
        effective_at, _, transaction_id, transfer_id, kind, side, amount, said, posted_at = row
        self._balance += amount if side == "credit" else -amount
        return Line(
            transaction_id,
            transfer_id,
            kind,
            side,
            format_amount(amount, self._scale),
            format_amount(self._balance, self._scale),
            description_in(said),
            effective_at,
            posted_at,
        )


async def begin_statement(pool: Pool, owner: Owner, since: datetime | None, before: datetime | None) -> Statement:
    """Begin a statement of what counts from an instant on, and before another; the account's opening, and now."""
    bounds = sorted(await pool.query(_BEGIN, (owner.account_id, since, before)))
    if bounds[0][1] > bounds[1][1]:
        raise Refused("invalid_datetime_format", "The time ends before it begins", field="from")
    return Statement(pool, owner, bounds)

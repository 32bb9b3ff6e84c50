"""The balance of an account at an instant in PostgreSQL: what counted then, as far as it was known at another."""

from datetime import datetime
from typing import Final

import msgspec

from ledger.domain.errors import Refused
from ledger.store.accounts import NOW
from ledger.store.pool import Pool
from ledger.store.versions import halving, instant

# What was booked by the earlier of the two instants counts in that order, whatever it counted from: entries are never
# booked before they count. Added to it are those that counted by `at`, and were booked after that.
_BALANCE_AT: Final = f"""
    WITH RECURSIVE asked AS (
        SELECT account_id, now, coalesce(at, now) AS at, coalesce(known_at, now) AS known_at
        FROM (SELECT %s::uuid AS account_id, %s::timestamptz AS at, %s::timestamptz AS known_at, {NOW} AS now
              OFFSET 0) AS said),
    {halving("search", "(SELECT account_id FROM asked)", "<= (SELECT least(at, known_at) FROM asked)")}
    SELECT at > now, known_at > now, {instant("at")}, {instant("known_at")},
           coalesce((SELECT t.balance FROM transactions AS t
                     WHERE t.account_id = asked.account_id
                       AND t.version = (SELECT low FROM search WHERE high - low = 1)), 0)
           + coalesce((SELECT sum(b.amount) FROM backdated_entries AS b
                       WHERE b.account_id = asked.account_id AND b.effective_at <= asked.at
                         AND b.posted_at > asked.at AND b.posted_at <= asked.known_at), 0)
    FROM asked"""


class BalanceAt(msgspec.Struct, frozen=True):
    """What an account held at an instant, as far as it was known at another."""

    balance: int
    at: str
    known_at: str


async def read_balance_at(pool: Pool, account_id: str, at: datetime | None, known_at: datetime | None) -> BalanceAt:
    """Return an account's balance at an instant, itself included, or refuse one that is to come; None means now."""
    rows = await pool.query(_BALANCE_AT, (account_id, at, known_at))
    ((*are_to_come, at_text, known_at_text, balance),) = rows
    for field, is_to_come in zip(("at", "known_at"), are_to_come, strict=True):
        if is_to_come:
            raise Refused("invalid_datetime_format", "The instant lies in the future", field=field)
    return BalanceAt(int(balance), at_text, known_at_text)

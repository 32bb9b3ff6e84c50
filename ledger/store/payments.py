"""Payments in PostgreSQL: made here, read here; what ends them is written by the writer alone."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from ledger.domain.accounts import Account
from ledger.domain.money import MAX_AMOUNT
from ledger.domain.payment_commands import key_of
from ledger.domain.payments import Nature, Payment, Standing, Twin
from ledger.store.accounts import HELD_NOW, NOW
from ledger.store.pool import Pool
from ledger.store.postgres import Row, Session

Order = Sequence[tuple[str, bool]]  # fields to sort by, each with whether it descends

SORTS: Final = ("inserted_at", "posted_at", "amount", "status")
NEWEST_FIRST: Final = (("inserted_at", True),)
_FARTHEST: Final = 2**63 - 1
_LOCK: Final = "hashtextextended('ledger/payment/' || %s, 0)"  # of one payment: held until it is made


def _instant(column: str) -> str:
    return f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"


# PROCESSING is no state of its own: a job whose lease runs is at work on it.
_STATUS: Final = f"""CASE WHEN p.status = 'PENDING' AND EXISTS (
        SELECT FROM jobs AS j WHERE j.unique_key = '{key_of("")}' || p.id AND j.state = 'executing'
               AND j.leased_until > clock_timestamp()) THEN 'PROCESSING' ELSE p.status END"""

# In the order of the fields of `_Row`.
_COLUMNS: Final = f"""p.id::text AS id, p.user_id::text AS user_id, p.account_id::text AS account_id,
    (SELECT a.asset FROM accounts AS a WHERE a.id = p.account_id) AS asset, p.amount AS amount,
    p.direction AS direction, p.payment_type AS payment_type, p.description AS description,
    {_instant("p.inserted_at")} AS inserted_at, {_instant("p.updated_at")} AS updated_at, {_STATUS} AS status,
    {_instant("p.posted_at")} AS posted_at, p.failure_reason AS failure_reason, p.transfer_id::text AS transfer_id"""

_NAMES: Final = (
    *("id", "user_id", "account_id", "asset", "amount", "direction", "payment_type", "description"),
    *("inserted_at", "updated_at", "status", "posted_at", "failure_reason", "transfer_id"),
)

# All that a payment is judged on, as it is committed at one instant.
_STANDING: Final = f"""
    SELECT {_instant("now.at")}, a.id::text, a.user_id::text, a.asset, a.type, a.status, a.balance::text,
           {HELD_NOW}::text, a.credit_limit, a.version,
           coalesce((SELECT p.paid_in_day FROM (
                SELECT p.posted_at, p.paid_in_day FROM payments AS p
                WHERE p.account_id = a.id AND p.status = 'COMPLETED' AND p.direction = 'DEBIT'
                ORDER BY p.seq DESC LIMIT 1) AS p
            WHERE p.posted_at >= date_trunc('day', now.at, 'UTC')), 0)::text,
           twin.id, twin.posted_at
    FROM (SELECT {NOW} AS at OFFSET 0) AS now CROSS JOIN accounts AS a
    LEFT JOIN LATERAL (
        SELECT p.id::text AS id, {_instant("p.posted_at")} AS posted_at FROM payments AS p
        WHERE p.user_id = %s AND p.amount = %s AND p.direction = %s AND p.description = %s
              AND p.status = 'COMPLETED' AND p.id IS DISTINCT FROM %s
        ORDER BY p.posted_at DESC LIMIT 1) AS twin ON true
    WHERE a.id = %s"""

_decode_page = msgspec.json.Decoder(list[Payment]).decode


class PaymentFilter(msgspec.Struct, frozen=True):
    """Which payments are asked for; None admits all. `since` is the first instant, `before` the first no more."""

    direction: str | None = None
    status: str | None = None
    payment_type: str | None = None
    since: datetime | None = None
    before: datetime | None = None


class AccountsHeld(msgspec.Struct, frozen=True):
    """How many accounts a user has, by status, and how much they hold, by asset."""

    statuses: dict[str, int]
    balances: dict[str, int]


class PaymentStore:
    """The payments of the database."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(self, payment_id: str, nature: Nature) -> Payment:
        """Make a payment, which is pending."""

        async def work(session: Session) -> Payment:
            rows = await session.run(
                f"""SELECT pg_advisory_xact_lock({_LOCK});
                    INSERT INTO payments AS p (id, user_id, account_id, amount, direction, payment_type, description,
                                          inserted_at, updated_at)
                    SELECT %s, %s, %s, %s, %s, %s, %s, clock.at, clock.at
                    FROM (SELECT clock_timestamp() AS at OFFSET 0) AS clock
                    RETURNING {_COLUMNS}""",
                (
                    *(payment_id, payment_id, nature.user_id, nature.account_id, nature.amount),
                    *(nature.direction, nature.payment_type, nature.description),
                ),
            )
            return _payment(rows[0])

        return await self._pool.transact(work)

    async def was_added(self, payment_id: str) -> bool | None:
        """Whether a payment whose COMMIT was not answered was made; None while that is still under way."""
        ((has_ended,),) = await self._pool.query(f"SELECT pg_try_advisory_xact_lock({_LOCK})", (payment_id,))
        return await self.find(payment_id) is not None if has_ended else None

    async def find(self, payment_id: str) -> Payment | None:
        """Return a payment, or None."""
        rows = await self._pool.query(f"SELECT {_COLUMNS} FROM payments AS p WHERE p.id = %s", (payment_id,))
        return _payment(rows[0]) if rows else None

    async def page(
        self, user_id: str, wanted: PaymentFilter, order: Order, limit: int, offset: int
    ) -> tuple[list[Payment], int]:
        """Return a stretch of a user's payments, in an order, and how many there are in all, at one moment."""
        condition, parameters = _condition(user_id, wanted)
        # The id breaks ties, in the direction that the index has it in.
        fields = [*order, ("id", bool(order) and order[-1][1])]
        by = ", ".join(f"p.{name} {'DESC' if descends else 'ASC'}" for name, descends in fields)
        ((total, found),) = await self._pool.query(
            f"""SELECT (SELECT count(*) FROM payments AS p WHERE {condition}), (SELECT json_agg(page)::text FROM (
                    SELECT {_COLUMNS} FROM payments AS p WHERE {condition}
                    ORDER BY {by} LIMIT %s OFFSET %s) AS page)""",
            (*parameters, *parameters, limit, min(offset, _FARTHEST)),
        )
        return _decode_page(found or "[]"), total

    async def standing(self, nature: Nature, payment_id: str | None = None) -> Standing | None:
        """Return what a payment would be judged on now, or None where there is no such account."""
        rows = await self._pool.query(
            _STANDING,
            (
                *(nature.user_id, min(nature.amount, MAX_AMOUNT), nature.direction, nature.description),
                *(payment_id, nature.account_id),
            ),
        )
        for row in rows:
            instant, account_id, user_id, asset, account_type, status, balance, held, limit, version, spent, *twin = row
            account = Account(account_id, user_id, asset, account_type, status, int(balance), int(held), limit, version)
            found = None if twin[0] is None else Twin(payment_id or "", twin[0], twin[1])
            return Standing(account, int(spent), found, instant)
        return None

    async def accounts_held(self, user_id: str) -> AccountsHeld | None:
        """Return how many accounts a user has and how much they hold, or None where there is no such user."""
        rows: list[tuple[Any, ...]] = await self._pool.query(
            """SELECT a.status, a.asset, count(a.id), coalesce(sum(a.balance), 0)::text
               FROM users AS u LEFT JOIN accounts AS a ON a.user_id = u.id
               WHERE u.id = %s GROUP BY a.status, a.asset""",
            (user_id,),
        )
        if not rows:
            return None
        held = AccountsHeld({}, {})
        for status, asset, many, balance in rows:
            if many:
                held.statuses[status] = held.statuses.get(status, 0) + many
                held.balances[asset] = held.balances.get(asset, 0) + int(balance)
        return held


def _payment(row: Row) -> Payment:
    return Payment(**dict(zip(_NAMES, row, strict=True)))


def _condition(user_id: str, wanted: PaymentFilter) -> tuple[str, list[Any]]:
    terms = [
        ("p.user_id = %s", user_id),
        ("p.direction = %s", wanted.direction),
        ("p.payment_type = %s", wanted.payment_type),
        (f"{_STATUS} = %s", wanted.status),
        ("p.inserted_at >= %s", wanted.since),
        ("p.inserted_at < %s", wanted.before),
    ]
    given = [(term, value) for term, value in terms if value is not None]
    return " AND ".join(term for term, _ in given), [value for _, value in given]

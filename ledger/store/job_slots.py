"""The slots of periodic jobs: by the database's clock, each taken by one process, whichever comes first."""

from __future__ import annotations

from typing import Final

import msgspec

from ledger.domain.jobs import NewJob
from ledger.store.job_desk import add
from ledger.store.jobs import WAITING
from ledger.store.pool import Pool
from ledger.store.postgres import Session

_FORGOTTEN: Final = 100  # jobs at most that are removed for one that is queued

_NOW: Final = """
SELECT to_timestamp(began), (began + %s - now)::float8,
       EXISTS (SELECT FROM job_slots AS kept WHERE kept.name = %s AND kept.slot >= to_timestamp(began))
FROM (SELECT extract(epoch FROM clock_timestamp())::float8 AS now) AS clock,
     LATERAL (SELECT floor((now - %s) / %s) * %s + %s AS began) AS slot
"""

_TAKE: Final = """
INSERT INTO job_slots AS kept (name, slot) VALUES (%s, %s)
ON CONFLICT (name) DO UPDATE SET slot = excluded.slot WHERE kept.slot < excluded.slot RETURNING 1
"""

_WAITS: Final = f"SELECT EXISTS (SELECT FROM jobs WHERE unique_key = %s AND {WAITING})"

_FORGET: Final = """
DELETE FROM jobs WHERE id = ANY (ARRAY(
    SELECT id FROM jobs WHERE unique_key = %s AND state IN ('completed', 'cancelled', 'dead')
           AND inserted_at < clock_timestamp() - make_interval(secs => %s)
    ORDER BY inserted_at LIMIT %s FOR UPDATE SKIP LOCKED))
RETURNING 1
"""


class Slot(msgspec.Struct, frozen=True):
    """The slot that it is now: when it began, in how many seconds the next begins, and whether somebody has it."""

    began: object
    left: float
    is_taken: bool


async def slot_now(pool: Pool, name: str, every: float, offset: float) -> Slot:
    """Return the slot that it is now for a periodic job; it only reads, so that it may be asked often."""
    ((began, left, is_taken),) = await pool.query(_NOW, (every, name, offset, every, every, offset))
    return Slot(began, left, is_taken)


async def take(pool: Pool, name: str, slot: Slot, job: NewJob, kept: float | None = None) -> bool:
    """Queue a job for a slot, and return True, unless somebody has taken it.

    While the last one with the job's key still waits, that one does for this slot too. Those that ended and are older
    than `kept` seconds make room.
    """

    async def work(session: Session) -> bool:
        won = await session.run(_TAKE, (name, slot.began))
        if won:
            if kept is not None:
                await session.run(_FORGET, (job.unique_key, kept, _FORGOTTEN))
            ((waits,),) = await session.run(_WAITS, (job.unique_key,))
            if not waits:
                await add(session, [job])
        return bool(won)

    return await pool.transact(work)

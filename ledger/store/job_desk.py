"""Jobs in PostgreSQL as everybody but workers meets them: queued, looked at, retried, cancelled, counted, pruned."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ledger.domain.jobs import STATES, Job, NewJob
from ledger.store.jobs import ERRORS_KEPT, WAITING
from ledger.store.pool import Pool
from ledger.store.postgres import Row, Session

_INSTANT: Final = """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
_COLUMNS: Final = (
    "jobs.id::text, jobs.queue, jobs.worker, jobs.args, jobs.state, jobs.priority, jobs.attempt, jobs.max_attempts,"
    f" {_INSTANT.format('jobs.scheduled_at')}, {_INSTANT.format('jobs.attempted_at')},"
    f" {_INSTANT.format('jobs.completed_at')}, jobs.errors"
)
_LOCK_ID: Final = "hashtextextended('ledger/job/' || %s, 0)"
_COUNTS: Final = "state NOT IN ('cancelled', 'dead')"  # jobs that another with their key is not queued beside

# The locks are statements of their own, in one order: what follows sees all that those who held them have committed.
_LOCK_KEYS: Final = """
SELECT pg_advisory_xact_lock(hashtextextended('ledger/job/key/' || key, 0))
FROM (SELECT unnest(%s::text[]) AS key ORDER BY key) AS keys
"""

_INSERT: Final = f"""
INSERT INTO jobs (id, queue, worker, args, state, priority, max_attempts, timeout, scheduled_at, unique_key, unique_for)
SELECT id, queue, worker, args, CASE WHEN delay > 0 THEN 'scheduled' ELSE 'available' END, priority, max_attempts,
       timeout, clock_timestamp() + make_interval(secs => delay), unique_key, unique_for
FROM jsonb_to_recordset(%s::jsonb)
     AS fresh (id uuid, queue text, worker text, args jsonb, priority smallint, max_attempts integer, timeout float8,
               delay float8, unique_key text, unique_for float8)
WHERE unique_key IS NULL
      OR NOT EXISTS (SELECT FROM jobs AS twin WHERE twin.unique_key = fresh.unique_key AND twin.{_COUNTS}
                     AND twin.inserted_at > clock_timestamp() - make_interval(secs => fresh.unique_for))
RETURNING {_COLUMNS}
"""

_NEWEST_OF_KEYS: Final = f"""
SELECT keys.key, {_COLUMNS}
FROM unnest(%s::text[]) AS keys (key) CROSS JOIN LATERAL (
    SELECT * FROM jobs AS twin WHERE twin.unique_key = keys.key {{which}}
    ORDER BY twin.inserted_at DESC LIMIT 1) AS jobs
"""

# State by state and queue by queue, each by index; which queues there are is found by leaps through the same index.
_LIST: Final = f"""
WITH RECURSIVE places (state, queue) AS (
    SELECT wanted.state, (SELECT min(queue) FROM jobs WHERE state = wanted.state)
    FROM unnest(%(states)s::text[]) AS wanted (state)
    UNION ALL
    SELECT places.state, (SELECT min(queue) FROM jobs WHERE state = places.state AND queue > places.queue)
    FROM places WHERE places.queue IS NOT NULL)
SELECT {_COLUMNS}
FROM (SELECT state, queue FROM places
      WHERE queue IS NOT NULL AND (%(queue)s::text IS NULL OR queue = %(queue)s)) AS place
CROSS JOIN LATERAL (
    SELECT * FROM jobs AS one WHERE one.state = place.state AND one.queue = place.queue
           AND (%(after)s::uuid IS NULL OR one.id < %(after)s::uuid)
    ORDER BY one.id DESC LIMIT %(limit)s) AS jobs
ORDER BY jobs.id DESC LIMIT %(limit)s
"""


class JobFilter(msgspec.Struct, frozen=True):
    """Which jobs are asked for; what is None admits all."""

    queue: str | None = None
    state: str | None = None


class Queued(msgspec.Struct, frozen=True):
    """A job as it stands in its queue; not new where one with the same key stood there already."""

    job: Job
    is_new: bool


async def add(session: Session, jobs: Sequence[NewJob]) -> list[Queued]:
    """Queue jobs in the open transaction, in order; of those with one key in one window just one, by whomever."""
    first_of_key: dict[str, str] = {}
    for job in jobs:
        if job.unique_key is not None:
            first_of_key.setdefault(job.unique_key, job.id)
    waiting = [job for job in jobs if job.unique_key is None or first_of_key[job.unique_key] == job.id]
    made: dict[str, Job] = {}
    twins: dict[str, Job] = {}
    if first_of_key:
        await session.run(_LOCK_KEYS, (list(first_of_key),))
    while waiting:
        rows = await session.run(_INSERT, (msgspec.json.encode(waiting).decode(),))
        made |= {job.id: job for job in map(_job, rows)}
        keys = [job.unique_key for job in jobs if job.id not in made]
        if keys:
            found = await session.run(_NEWEST_OF_KEYS.format(which=f"AND twin.{_COUNTS}"), (keys,))
            twins |= {key: _job(row) for key, *row in found}
        # A twin may have been cancelled, or have died, since it stood in the way.
        waiting = [job for job in waiting if job.id not in made and job.unique_key not in twins]
    return [
        Queued(made[job.id], True) if job.id in made else Queued(twins[job.unique_key or ""], False) for job in jobs
    ]


async def queue(pool: Pool, jobs: Sequence[NewJob]) -> list[Queued]:
    """Queue jobs in a transaction of their own, whose outcome can be asked for by the first one's id."""

    async def work(session: Session) -> list[Queued]:
        await session.run(f"SELECT pg_advisory_xact_lock({_LOCK_ID})", (jobs[0].id,))
        return await add(session, jobs)

    return await pool.transact(work)


async def has_ended(pool: Pool, job_id: str) -> bool:
    """Whether a transaction that queued this job first, and whose COMMIT was not answered, has come to its end."""
    ((ended,),) = await pool.query(f"SELECT pg_try_advisory_xact_lock({_LOCK_ID})", (job_id,))
    return bool(ended)


async def find(pool: Pool, job_id: str) -> Job | None:
    """Return a job, or None."""
    rows = await pool.query(f"SELECT {_COLUMNS} FROM jobs WHERE id = %s", (job_id,))
    return _job(rows[0]) if rows else None


async def newest_of_key(pool: Pool, key: str) -> Job | None:
    """Return the job that was queued last with a key, whatever has become of it, or None."""
    rows = await pool.query(_NEWEST_OF_KEYS.format(which=""), ([key],))
    return _job(rows[0][1:]) if rows else None


async def read(pool: Pool, wanted: JobFilter, after: str | None, limit: int) -> list[Job]:
    """Return at most so many jobs, newest first, those after the job with this id."""
    states = list(STATES) if wanted.state is None else [wanted.state]
    parameters: Any = {"states": states, "queue": wanted.queue, "after": after, "limit": limit}
    return [_job(row) for row in await pool.query(_LIST, parameters)]


async def counts(pool: Pool) -> dict[str, dict[str, int]]:
    """Return how many jobs there are in each queue and state."""
    told: dict[str, dict[str, int]] = {}
    for queue_name, state, many in await pool.query("SELECT queue, state, count(*) FROM jobs GROUP BY queue, state"):
        told.setdefault(queue_name, {})[state] = many
    return told


async def retry(pool: Pool, job_id: str) -> Job | None:
    """Make a job due now, one that has ended unfinished with all its attempts anew; None where its state forbids it."""
    rows = await _committed(
        pool,
        f"""UPDATE jobs SET state = 'available', scheduled_at = clock_timestamp(), completed_at = NULL,
                attempt = CASE WHEN state IN ('cancelled', 'dead') THEN 0 ELSE attempt END,
                final = CASE WHEN state IN ('cancelled', 'dead') THEN NULL ELSE final END
            WHERE id = %s AND state IN ('available', 'scheduled', 'retryable', 'cancelled', 'dead')
            RETURNING {_COLUMNS}""",
        job_id,
    )
    return _job(rows[0]) if rows else None


async def cancel(pool: Pool, job_id: str) -> Job | None:
    """End a job; a run that is under way no longer counts. None where its state forbids it."""
    rows = await _committed(
        pool,
        f"""UPDATE jobs SET state = 'cancelled', completed_at = clock_timestamp(), leased_until = NULL,
                fence = fence + 1
            WHERE id = %s AND ({WAITING} OR state = 'executing')
            RETURNING {_COLUMNS}""",
        job_id,
    )
    return _job(rows[0]) if rows else None


async def forget(pool: Pool, states: Sequence[str], days: float, most: int) -> int:
    """Delete at most so many jobs that ended so, longer ago than that; returns how many went."""
    rows = await pool.query(
        """DELETE FROM jobs WHERE id = ANY (ARRAY(
               SELECT old.id FROM unnest(%s::text[]) AS ended (state) CROSS JOIN LATERAL (
                   SELECT id FROM jobs WHERE jobs.state = ended.state
                          AND jobs.state IN ('completed', 'cancelled', 'dead')
                          AND completed_at < now() - make_interval(secs => %s)
                   ORDER BY completed_at LIMIT %s FOR UPDATE SKIP LOCKED) AS old LIMIT %s))
           RETURNING 1""",
        (list(states), days * 86_400, most, most),
    )
    return len(rows)


async def bury_unknown(pool: Pool, workers: Sequence[str], days: float, most: int) -> int:
    """End jobs that have been due for so long, and whose worker is none of these; returns how many."""
    rows = await pool.query(
        f"""UPDATE jobs SET state = 'dead', completed_at = clock_timestamp(),
                errors = CASE WHEN jsonb_array_length(errors) >= {ERRORS_KEPT} THEN errors - 0 ELSE errors END
                         || jsonb_build_object('attempt', attempt, 'reason', 'configuration_error',
                                'message', 'No server knows its worker', 'at', {_INSTANT.format("clock_timestamp()")})
            WHERE id = ANY (ARRAY(
                SELECT id FROM jobs WHERE {WAITING} AND worker <> ALL (%s::text[])
                       AND scheduled_at < now() - make_interval(secs => %s)
                LIMIT %s FOR UPDATE SKIP LOCKED))
            RETURNING 1""",
        (list(workers), days * 86_400, most),
    )
    return len(rows)


async def _committed(pool: Pool, statement: str, *parameters: Any) -> list[Row]:
    """Run a statement in a transaction, so that a client hears it when its outcome is not known."""
    return await pool.transact(lambda session: session.run(statement, parameters))


def _job(row: Row | Sequence[Any]) -> Job:
    return Job(*row)

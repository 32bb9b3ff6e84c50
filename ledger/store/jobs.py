"""Jobs in PostgreSQL as workers meet them: claimed, kept by renewing the lease, and settled, all in batches."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from ledger.domain.jobs import LOWEST, Claimed, Step, Trouble
from ledger.store.pool import Pool
from ledger.store.postgres import Row

CHANNEL: Final = "ledger_jobs"
ERRORS_KEPT: Final = 10
LEASE: Final = 30.0

WAITING: Final = "state IN ('available', 'scheduled', 'retryable')"

# One priority after the other, each by index up to what is due: the subquery stands alone, so that it is run once.
_CLAIM: Final = f"""
UPDATE jobs SET state = 'executing', attempt = attempt + 1, fence = fence + 1, attempted_at = clock_timestamp(),
                leased_until = clock_timestamp() + make_interval(secs => %(lease)s)
WHERE id = ANY (ARRAY(
    SELECT due.id FROM generate_series(0, {LOWEST}) AS level (priority) CROSS JOIN LATERAL (
        SELECT id FROM jobs
        WHERE queue = %(queue)s AND priority = level.priority AND {WAITING} AND scheduled_at <= statement_timestamp()
              AND worker = ANY (%(workers)s::text[])
        ORDER BY scheduled_at, id LIMIT %(most)s FOR UPDATE SKIP LOCKED) AS due
    LIMIT %(most)s))
RETURNING id::text, queue, worker, args::text, priority, attempt, max_attempts, timeout, fence, final::text,
          extract(epoch FROM scheduled_at)::float8
"""

_DUE: Final = f"""
SELECT queues.name, min(extract(epoch FROM due.scheduled_at - clock_timestamp()))::float8
FROM unnest(%(queues)s::text[]) AS queues (name) CROSS JOIN generate_series(0, {LOWEST}) AS level (priority)
CROSS JOIN LATERAL (
    SELECT scheduled_at FROM jobs
    WHERE queue = queues.name AND priority = level.priority AND {WAITING} AND worker = ANY (%(workers)s::text[])
    ORDER BY scheduled_at, id LIMIT 1) AS due
GROUP BY queues.name
"""

_RENEW: Final = """
UPDATE jobs SET leased_until = clock_timestamp() + make_interval(secs => %(lease)s)
FROM unnest(%(ids)s::uuid[], %(fences)s::bigint[]) AS held (id, fence)
WHERE jobs.id = held.id AND jobs.fence = held.fence AND jobs.state = 'executing'
RETURNING jobs.id::text
"""

# What an error is appended to never grows beyond its bound: the oldest goes.
_WITH_ERROR: Final = f"""
    (CASE WHEN jsonb_array_length(errors) >= {ERRORS_KEPT} THEN errors - 0 ELSE errors END) || jsonb_build_object(
        'attempt', jobs.attempt, 'reason', {{reason}}, 'message', {{message}},
        'at', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))"""

_SETTLE: Final = f"""
UPDATE jobs SET
    state = step.state,
    attempt = jobs.attempt - step.uncounted::integer,
    scheduled_at = CASE WHEN step.delay IS NULL THEN jobs.scheduled_at
                        ELSE clock_timestamp() + make_interval(secs => step.delay) END,
    leased_until = CASE WHEN step.state = 'executing' THEN jobs.leased_until END,
    completed_at = CASE WHEN step.state IN ('completed', 'cancelled', 'dead') THEN clock_timestamp() END,
    final = coalesce(step.final, jobs.final),
    errors = CASE WHEN step.trouble IS NULL THEN errors
                  ELSE {_WITH_ERROR.format(reason="trouble ->> 'reason'", message="trouble ->> 'message'")} END
FROM jsonb_to_recordset(%(steps)s::jsonb)
     AS step (id uuid, fence bigint, state text, delay float8, trouble jsonb, final jsonb, uncounted boolean)
WHERE jobs.id = step.id AND jobs.fence = step.fence AND jobs.state = 'executing'
RETURNING jobs.id::text
"""

_RESCUE: Final = f"""
UPDATE jobs SET state = 'available', leased_until = NULL, errors = {
    _WITH_ERROR.format(reason="'timeout'", message="'Its worker was lost'")
}
WHERE id = ANY (ARRAY(SELECT id FROM jobs WHERE state = 'executing' AND leased_until < statement_timestamp()
                      ORDER BY leased_until LIMIT %(most)s FOR UPDATE SKIP LOCKED))
RETURNING id
"""


class _Settled(msgspec.Struct, frozen=True):
    id: str
    fence: int
    state: str
    delay: float | None
    trouble: Trouble | None
    final: Trouble | None
    uncounted: bool


class JobStore:
    """The jobs of the database for one process, which knows these workers and takes no others' jobs."""

    def __init__(self, pool: Pool, workers: Iterable[str], lease: float = LEASE) -> None:
        self._pool = pool
        self._workers = sorted(workers)
        self.lease = lease

    async def claim(self, queue: str, most: int) -> list[Claimed]:
        """Take at most so many jobs that are due, the most urgent ones, in their order; each is ours for one lease."""
        found = await self._query(_CLAIM, queue=queue, workers=self._workers, most=most, lease=self.lease)
        found.sort(key=lambda row: (row[4], row[10], row[0]))
        return [_claimed(row) for row in found]

    async def due(self, queues: Sequence[str]) -> dict[str, float]:
        """Return in how many seconds the next job of each queue is due, where one waits; 0 or less if it is by now."""
        return dict(await self._query(_DUE, queues=list(queues), workers=self._workers))

    async def renew(self, jobs: Sequence[Claimed]) -> set[str]:
        """Begin the leases of jobs anew, and return the ids of those that are still ours."""
        ids, fences = [job.id for job in jobs], [job.fence for job in jobs]
        return {row[0] for row in await self._query(_RENEW, ids=ids, fences=fences, lease=self.lease)}

    async def settle(self, steps: Sequence[tuple[Claimed, Step]]) -> set[str]:
        """Write what becomes of jobs, of those that are still ours; returns the ids of these."""
        rows = [
            _Settled(job.id, job.fence, step.state, step.delay, step.trouble, step.final, step.uncounted)
            for job, step in steps
        ]
        return {row[0] for row in await self._query(_SETTLE, steps=msgspec.json.encode(rows).decode())}

    async def rescue(self, most: int) -> int:
        """Make jobs whose lease has run out available again, at most so many, and return how many."""
        return len(await self._query(_RESCUE, most=most))

    async def _query(self, sql: str, **parameters: Any) -> list[Row]:
        return await self._pool.query(sql, parameters)  # type: ignore[arg-type]


def _claimed(row: Row) -> Claimed:
    identifier, queue, worker, args, priority, attempt, max_attempts, timeout, fence, final, _ = row
    return Claimed(
        identifier,
        queue,
        worker,
        msgspec.json.decode(args),
        priority,
        attempt,
        max_attempts,
        timeout,
        fence,
        None if final is None else msgspec.json.decode(final, type=Trouble),
    )

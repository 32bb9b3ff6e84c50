"""Jobs as admins see to them: listed, retried, cancelled, counted, pruned."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from ledger.domain.errors import Refused
from ledger.domain.jobs import STATES
from ledger.services.chores import JobPruning
from ledger.services.ids import new_id
from ledger.store import job_desk as store
from ledger.store.job_desk import JobFilter
from ledger.store.pool import Pool
from ledger.store.postgres import Session
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import on_reactor, pause, refusal_of, until
from tests.postgres.labour import QUEUES, Hand, Site, site_of

PAYMENTS = Hand("pay", "payments")


def fill(site: Site, many: int = 210) -> None:
    """Put jobs of every state into two queues, in the order of their ids."""
    site.sql(
        f"""INSERT INTO jobs (id, queue, worker, state, max_attempts, timeout, leased_until, completed_at)
            SELECT lpad(n::text, 32, '0')::uuid, CASE WHEN n %% 3 = 0 THEN 'payments' ELSE 'default' END, 'work', state,
                   4, 1, CASE state WHEN 'executing' THEN now() + interval '1 h' END,
                   CASE WHEN state IN ('completed', 'cancelled', 'dead') THEN now() END
            FROM (SELECT n, (ARRAY{list(STATES)})[n %% {len(STATES)} + 1] AS state
                  FROM generate_series(1, {many}) AS n) AS made WHERE %s""",
        True,
    )


@pytest.mark.parametrize("queue", [None, "payments", "default", "none"])
@pytest.mark.parametrize("state", [None, "dead", "available"])
@on_reactor
async def test_lists(database_url: str, database_server: DatabaseServer, queue: str | None, state: str | None) -> None:
    async with site_of(database_url, database_server, Hand()) as site:
        fill(site)
        seen: list[int] = []
        after = None
        while found := await site.desk.read(JobFilter(queue, state), after, 13):
            seen += [int(job.id.replace("-", "")) for job in found]
            after = found[-1].id
        assert seen == [
            n
            for n in range(210, 0, -1)
            if queue in (None, "default" if n % 3 else "payments") and state in (None, STATES[n % 7])
        ]


@on_reactor
async def test_counts_and_pruning(database_url: str, database_server: DatabaseServer) -> None:
    async with site_of(database_url, database_server, Hand()) as site:
        fill(site)
        site.breakers.to("bank")
        told = await site.desk.stats()
        assert list(told.queues) == list(QUEUES)
        assert told.queues["payments"] == dict.fromkeys(STATES, 10)
        assert told.queues["default"] == dict.fromkeys(STATES, 20)
        assert told.queues["banking"] == dict.fromkeys(STATES, 0)
        assert [(one.name, one.state) for one in told.breakers] == [("bank", "closed")]
        pruning = JobPruning(site.pool, site.workers)
        await pruning.prune()
        assert sum(site.states().values()) == 210
        site.sql("UPDATE jobs SET completed_at = now() - interval '8 days' WHERE completed_at IS NOT NULL")
        await pruning.prune()
        assert set(site.states()) == {*STATES} - {"completed", "cancelled"}
        site.sql("UPDATE jobs SET completed_at = now() - interval '31 days' WHERE completed_at IS NOT NULL")
        assert await store.forget(site.pool, ["dead"], 30, 20) == 20
        await pruning.prune()
        assert set(site.states()) == {"available", "scheduled", "executing", "retryable"}


@on_reactor
async def test_jobs_that_nobody_knows_are_dead_after_a_day(database_url: str, database_server: DatabaseServer) -> None:
    async with site_of(database_url, database_server, Hand(), Hand("gone")) as site:
        await site.put(2, "gone")
        await site.put(1)
        other = Site(database_url, database_server, Hand())
        site.sql("UPDATE jobs SET scheduled_at = now() - interval '23 hours'")
        await JobPruning(site.pool, other.workers).prune()
        assert site.states() == {"available": 3}
        site.sql("UPDATE jobs SET scheduled_at = now() - interval '25 hours'")
        await JobPruning(site.pool, other.workers).prune()
        assert site.states() == {"available": 1, "dead": 2}
        (job, *_) = await site.desk.read(JobFilter(state="dead"), None, 1)
        (error,) = job.errors
        assert (error["reason"], error["message"]) == ("configuration_error", "No server knows its worker")


@on_reactor
async def test_what_may_be_retried_and_cancelled(database_url: str, database_server: DatabaseServer) -> None:
    async with site_of(database_url, database_server, Hand()) as site:
        (job_id,) = await site.put(1)
        site.sql(
            "UPDATE jobs SET attempt = 3, final = '{}', fence = 7, state = 'dead', completed_at = now(),"
            " scheduled_at = now() - interval '1 day'"
        )
        retried = await site.desk.retry(job_id)
        assert (retried.state, retried.attempt, retried.completed_at) == ("available", 0, None)
        assert site.sql("SELECT final, fence, scheduled_at > now() - interval '1 min' FROM jobs") == [(None, 7, True)]
        site.sql("UPDATE jobs SET state = 'retryable', attempt = 2, scheduled_at = now() + interval '1 hour'")
        assert (await site.desk.retry(job_id)).attempt == 2
        site.sql("UPDATE jobs SET state = 'executing', leased_until = now() + interval '1 hour'")
        refused = await refusal_of(site.desk.retry(job_id))
        assert (refused.reason, refused.details) == ("already_processed", {"state": "executing"})
        assert (await site.desk.cancel(job_id)).state == "cancelled"
        assert site.sql("SELECT fence, leased_until FROM jobs") == [(8, None)]
        assert (await refusal_of(site.desk.cancel(job_id))).reason == "already_processed"
        assert (await site.desk.retry(job_id)).state == "available"
        assert (await refusal_of(site.desk.find(new_id()))).reason == "job_not_found"
        assert (await refusal_of(site.desk.cancel(new_id()))).reason == "job_not_found"


@on_reactor
async def test_a_cancelled_run_no_longer_counts(database_url: str, database_server: DatabaseServer) -> None:
    hand, gate = Hand(), Deferred[None]()
    hand.act = lambda _: gate
    async with site_of(database_url, database_server, hand) as site, site.process() as jobs:
        (job_id,) = await site.put(1)
        await until(lambda: hand.runs)
        await site.desk.cancel(job_id)
        gate.errback(Refused("database_error"))
        await until(lambda: jobs.queues["default"].running == 0)
        await pause(0.2)
        assert (await site.desk.find(job_id)).state == "cancelled"
        assert hand.runs == [0]


@pytest.mark.parametrize("was_made", [True, False])
@on_reactor
async def test_a_commit_in_doubt_is_settled(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch, was_made: bool
) -> None:
    async with site_of(database_url, database_server, Hand()) as site:
        queue = store.queue

        async def lose(pool: Pool, jobs: Any) -> Any:
            if was_made:
                await queue(pool, jobs)
            raise Refused("service_unavailable", outcome="unknown")

        monkeypatch.setattr(store, "queue", lose)
        queued = Deferred.fromCoroutine(site.desk.enqueue("work", {"n": 1}, unique_key="k", unique_for=9.0))
        if was_made:
            assert (await queued).is_new
        else:
            assert (await refusal_of(queued)).details["outcome"] == "not_done"
        assert site.sql("SELECT count(*) FROM jobs") == [(int(was_made),)]


@on_reactor
async def test_a_twin_that_ends_just_when_it_is_asked_for_makes_room(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with site_of(database_url, database_server, Hand()) as site:
        how: Any = {"unique_key": "k", "unique_for": 60.0}
        first = await site.desk.enqueue("work", {}, **how)

        async def work(session: Session) -> list[store.Queued]:
            run = session.run

            async def interfere(statement: str, parameters: Any = ()) -> Any:
                rows = await run(statement, parameters)
                if "INSERT INTO jobs" in statement and site.states() == {"available": 1}:
                    site.sql("UPDATE jobs SET state = 'cancelled', completed_at = now()")
                return rows

            session.run = interfere  # type: ignore[assignment,method-assign]
            try:
                return await store.add(session, [site.desk.new("work", {}, **how)])
            finally:
                del session.run

        (second,) = await site.pool.transact(work)
        assert second.is_new
        assert second.job.id != first.job.id
        assert site.states() == {"available": 1, "cancelled": 1}


@on_reactor
async def test_what_cannot_be_queued(database_url: str, database_server: DatabaseServer) -> None:
    async with site_of(database_url, database_server, Hand()) as site:
        for how in ({"priority": 10}, {"priority": -1}, {"delay": -1.0}, {"delay": 1e9}):
            with pytest.raises(Refused):
                site.desk.new("work", {}, **how)
        with pytest.raises(KeyError):
            site.desk.new("nobody", {})
        with pytest.raises(ValueError, match="together"):
            site.desk.new("work", {}, unique_key="k")

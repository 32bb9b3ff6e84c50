"""Jobs that are given up: their workers are told, before anybody else is, and never run them again."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from ledger.domain.errors import Refused
from ledger.store.jobs import JobStore
from tests.cleanliness import LoggedErrors
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import on_reactor, pause, until
from tests.postgres.labour import Mourner, Site, failing, site_of

BROKE = failing(Refused("insufficient_funds"))


def kept(site: Site) -> tuple[str, bool]:
    """The state of the one job, and whether its end is decided."""
    ((state, is_final),) = site.sql("SELECT state, final IS NOT NULL FROM jobs")
    return state, is_final


@on_reactor
async def test_the_worker_is_told_before_the_job_is_dead(database_url: str, database_server: DatabaseServer) -> None:
    mourner, gate = Mourner(), Deferred[None]()
    mourner.act, mourner.mourn = BROKE, lambda _: gate
    async with site_of(database_url, database_server, mourner) as site, site.process():
        await site.put(1)
        await until(lambda: mourner.mourned)
        assert kept(site) == ("executing", True)
        gate.callback(None)
        await until(lambda: kept(site) == ("dead", True))
        assert mourner.mourned == [(0, "insufficient_funds")]
        assert mourner.runs == [0]


@on_reactor
async def test_it_is_told_again_until_it_has_understood_and_the_job_is_not_run(
    database_url: str, database_server: DatabaseServer, logged_errors: LoggedErrors
) -> None:
    mourner = Mourner()
    mourner.act = BROKE

    def mourn(_: object) -> None:
        if len(mourner.mourned) == 1:
            raise LookupError
        if len(mourner.mourned) == 2:
            raise Refused("service_unavailable")

    mourner.mourn = mourn
    async with site_of(database_url, database_server, mourner) as site, site.process():
        (job_id,) = await site.put(1)
        for told in (1, 2):
            await until(lambda: len(mourner.mourned) == told and kept(site) == ("retryable", True))  # noqa: B023
            await site.desk.retry(job_id)
        await until(lambda: kept(site) == ("dead", True))
        assert mourner.mourned == [(0, "insufficient_funds")] * 3
        assert mourner.runs == [0]
        assert len(logged_errors(LookupError)) == 1
        reasons = [error["reason"] for error in (await site.desk.find(job_id)).errors]
        assert reasons == ["internal_server_error", "service_unavailable", "insufficient_funds"]


@on_reactor
async def test_a_process_that_dies_in_between_leaves_it_to_the_next(
    database_url: str, database_server: DatabaseServer
) -> None:
    first, second = Mourner(), Mourner()
    first.act, first.mourn = BROKE, lambda _: never
    never = Deferred[None]()
    async with site_of(database_url, database_server, first) as site:
        async with site.process(patience=0.1):
            await site.put(1)
            await until(lambda: first.mourned)
        assert kept(site) == ("available", True)
        async with site.process(second):
            await until(lambda: kept(site) == ("dead", True))
        assert second.mourned == [(0, "insufficient_funds")]
        assert second.runs == []
        never.callback(None)


@on_reactor
async def test_who_has_lost_the_job_does_not_give_it_up(database_url: str, database_server: DatabaseServer) -> None:
    slow, gate = Mourner(), Deferred[None]()
    slow.act = lambda _: gate
    async with site_of(database_url, database_server, slow) as site, site.process() as jobs:
        await site.put(1)
        await until(lambda: slow.runs)
        site.sql("UPDATE jobs SET leased_until = now() - interval '1 s'")
        other = JobStore(site.pool, ["work"])
        await other.rescue(10)
        await other.claim("default", 1)
        gate.errback(Refused("insufficient_funds"))
        await until(lambda: jobs.queues["default"].running == 0)
        assert slow.mourned == []
        assert kept(site) == ("executing", False)


@pytest.mark.parametrize("attempts", [1, 3])
@on_reactor
async def test_a_job_that_kills_its_processes_ends(
    database_url: str, database_server: DatabaseServer, attempts: int
) -> None:
    mourner = Mourner(max_attempts=attempts)
    async with site_of(database_url, database_server, mourner) as site:
        (job_id,) = await site.put(1)
        doomed = JobStore(site.pool, ["work"], lease=0.01)
        for _ in range(attempts):
            assert len(await doomed.claim("default", 1)) == 1
            await pause(0.05)
            assert await doomed.rescue(10) == 1
        async with site.process():
            await until(lambda: kept(site) == ("dead", True))
        assert mourner.runs == []
        assert mourner.mourned == [(0, "internal_server_error")]
        assert (await site.desk.find(job_id)).errors[-1]["message"].startswith(f"It was begun {attempts} times")
        # An admin may try once more.
        assert (await site.desk.retry(job_id)).attempt == 0
        async with site.process():
            await until(lambda: kept(site)[0] == "completed")
        assert mourner.runs == [0]

"""Periodic jobs over a real database: queued once a slot by whichever process comes first, and never piled up."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults

from ledger.services.chores import own_table, own_workers
from ledger.services.cron import Cron, Recurring
from ledger.services.hold_sweeper import HoldSweeper
from ledger.services.ids import new_id
from ledger.services.job_desk import JobDesk
from ledger.services.outbound import Breakers
from ledger.store import job_slots
from ledger.store.pool import Pool
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, pause, reactor, until
from tests.postgres.labour import Hand, Site, failing, site_of
from tests.postgres.test_holds import accounts, done, hold


def crons(site: Site, many: int, *table: Recurring) -> list[Cron]:
    """So many processes' worth of cron."""
    return [Cron(site.pool, table, site.desk.new, reactor) for _ in range(many)]


@on_reactor
async def test_a_periodic_job_is_queued_once_a_slot(database_url: str, database_server: DatabaseServer) -> None:
    async with site_of(database_url, database_server, Hand(), Hand("nightly")) as site:
        table = (Recurring("often", 1.0, "work", {"n": 7}), Recurring("at 03:00", 86_400.0, "nightly", at=10_800.0))
        children = crons(site, 3, *table)
        async with site.process():
            for child in children:
                await child.start()
            await until(lambda: site.sql("SELECT count(*) FROM jobs WHERE worker = 'work'")[0][0] >= 4)
            for child in children:
                await child.stop()
        rows = site.sql(
            "SELECT extract(epoch FROM inserted_at)::float8, args FROM jobs WHERE worker = 'work' ORDER BY 1"
        )
        slots = [int(at) for at, _ in rows]
        assert slots == list(range(slots[0], slots[0] + len(slots)))
        assert all(at % 1 < 0.5 for at, _ in rows[1:])
        assert rows[0][1] == {"n": 7}
        assert site.sql("SELECT count(*) FROM jobs WHERE worker = 'nightly'") == [(1,)]
        ((at, past),) = site.sql(
            "SELECT (slot AT TIME ZONE 'UTC')::time, now() - slot FROM job_slots WHERE name LIKE 'at%%'"
        )
        assert (at.hour, at.minute) == (3, 0)
        assert 0 <= past.total_seconds() < 86_400


def history(site: Site) -> list[tuple[str, str]]:
    """The periodic jobs that are there, in order: what each is and its state."""
    return site.sql("SELECT worker, state FROM jobs ORDER BY id")


@on_reactor
async def test_periodic_jobs_do_not_pile_up(database_url: str, database_server: DatabaseServer) -> None:
    """Where nobody runs them, one waits; of those that ended, only what is younger than that is kept."""
    async with site_of(database_url, database_server, Hand()) as site:
        for _ in range(3):
            await turn(site, "often", kept=60.0)
        assert history(site) == [("work", "available")]
        site.sql("UPDATE jobs SET state = 'executing', leased_until = now()")  # its process may be gone: another one
        await turn(site, "often", kept=60.0)
        assert history(site) == [("work", "executing"), ("work", "available")]
        ended = "state = 'completed', completed_at = now(), leased_until = NULL"
        for state in ("completed", "dead"):
            site.sql(f"UPDATE jobs SET {ended.replace('completed', state, 1)} WHERE state <> 'completed'")
            await turn(site, "often", kept=60.0)
        assert [state for _, state in history(site)] == ["completed", "completed", "dead", "available"]
        await turn(site, "other")
        site.sql(f"UPDATE jobs SET {ended}, inserted_at = now() - interval '61 s'")
        await turn(site, "often", kept=60.0)
        assert [state for _, state in history(site)] == ["completed", "available"]  # the other one is kept


async def turn(site: Site, name: str, kept: float | None = None) -> None:
    """Let a slot of a periodic job begin, and cron look at it once."""
    site.sql("DELETE FROM job_slots")
    (child,) = crons(site, 1, Recurring(name, 60.0, "work", kept=kept))
    await child.start()
    await until(lambda: site.sql("SELECT count(*) FROM job_slots") == [(1,)])
    await child.stop()


@on_reactor
async def test_a_job_with_nothing_to_do_is_not_queued(database_url: str, database_server: DatabaseServer) -> None:
    """And it is asked about every slot, however long the slots of others are; nothing is written meanwhile."""
    async with site_of(database_url, database_server, Hand(), Hand("rare")) as site:
        asked: list[float] = []

        async def wanted() -> bool:
            asked.append(reactor.seconds())
            return len(asked) > 3

        often, rare = Recurring("often", 1.0, "work", wanted=wanted), Recurring("rare", 3600.0, "rare")
        (child,) = crons(site, 1, rare, often)
        await child.start()
        await until(lambda: len(asked) == 3)
        assert history(site) == [("rare", "available")]
        assert site.sql("SELECT name FROM job_slots") == [("rare",)]
        ((rare_written_by,),) = site.sql("SELECT xmin::text FROM job_slots")
        await until(lambda: len(history(site)) == 2)
        await child.stop()
        assert site.sql("SELECT xmin::text FROM job_slots WHERE name = 'rare'") == [(rare_written_by,)]
        assert history(site) == [("rare", "available"), ("work", "available")]
        assert 0.7 < (asked[3] - asked[0]) / 3 < 1.3


@on_reactor
async def test_holds_that_are_over_are_swept_by_one_job(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house, AsyncExitStack() as stack:
        mine = await accounts(house, 5, 10)
        for _ in range(3):
            sweeper = HoldSweeper(house.pool, house.writer.submit, new_id)
            site = await stack.enter_async_context(site_of(database_url, database_server))
            site.workers = own_workers(site.pool, never, sweeper.sweep)
            desk = JobDesk(site.pool, site.workers, [], site.breakers, new_id, reactor)
            await stack.enter_async_context(site.process(queues={"holds": 1}))
            cron = Cron(site.pool, [own_table(site.pool)[-1]], desk.new, reactor)
            await cron.start()
            stack.push_async_callback(cron.stop)
        await pause(1.2)
        assert site.states() == {}
        await done(house, *(hold(account_id, 10, 1) for account_id in mine))
        late = "SELECT count(*), max(extract(epoch FROM clock_timestamp() - expires_at)) FROM holds"
        await until(lambda: house.sql(f"{late} WHERE status = 'expired'")[0][0] == 5)
        assert house.sql(f"{late} WHERE status = 'expired'")[0][1] < 2.5
        assert house.sql("SELECT count(*) FROM journal WHERE kind = 'expiry'") == [(5,)]
        await until(lambda: site.states() == {"completed": 1})
        await pause(1.2)
        assert site.states() == {"completed": 1}
        await house.check_clean()


async def never() -> None:
    """What is not called."""
    raise AssertionError


@on_reactor
async def test_a_slot_that_nobody_was_there_for_is_made_up_for_once(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with site_of(database_url, database_server, Hand()) as site:
        site.sql("INSERT INTO job_slots VALUES ('hourly', date_trunc('hour', now()) - interval '5 hours')")
        slot = await job_slots.slot_now(site.pool, "hourly", 3600.0, 0.0)
        assert not slot.is_taken
        assert 0 < slot.left <= 3600
        key: Any = {"unique_key": "k", "unique_for": 0.001}
        told = await gatherResults(
            [
                Deferred.fromCoroutine(job_slots.take(site.pool, "hourly", slot, site.desk.new("work", {}, **key)))
                for _ in range(5)
            ]
        )
        assert sorted(told) == [False] * 4 + [True]
        assert (await job_slots.slot_now(site.pool, "hourly", 3600.0, 0.0)).is_taken
        assert site.states() == {"available": 1}


@on_reactor
async def test_cron_goes_on_when_the_database_is_back(database_url: str, database_server: DatabaseServer) -> None:
    async with site_of(database_url, database_server, Hand()) as site:
        pool = Pool(reactor, database_url, 1)
        desk = JobDesk(pool, site.workers, [], Breakers(reactor, random.random), new_id, reactor)
        child = Cron(pool, [Recurring("often", 60.0, "work")], desk.new, reactor)
        await child.start()
        await pause(0.2)
        pool.open()
        await until(lambda: site.states() == {"available": 1})
        await child.stop()
        pool.close()


def test_names_of_periodic_jobs_are_unique() -> None:
    with pytest.raises(ValueError, match="one name"):
        Cron(None, [Recurring("a", 1, "x"), Recurring("a", 2, "y")], failing(ValueError()), None)  # type: ignore[arg-type]

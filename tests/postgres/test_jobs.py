"""Jobs over a real database: in order, in time, once; held by leases, and handed on when their process is gone."""

from __future__ import annotations

import subprocess
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults

from ledger.domain.errors import Refused
from ledger.domain.jobs import DONE, Cancel, Snooze
from ledger.store.jobs import JobStore
from tests.cleanliness import LoggedErrors
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import on_reactor, pause, reactor, until
from tests.postgres.labour import Hand, Site, failing, site_of

ROOT = Path(__file__).parents[2]
NEVER = failing(Refused("insufficient_funds", account_id="1"))


def errors_of(site: Site) -> list[Any]:
    """What is said of the one job's failures, without the times."""
    ((errors,),) = site.sql("SELECT errors FROM jobs")
    assert all(error.pop("at").endswith("Z") for error in errors)
    return list(errors)


async def ended(site: Site, many: int = 1, seconds: float = 20.0) -> dict[str, int]:
    """Return how many jobs are in each state once so many have ended."""

    def over() -> bool:
        return sum(site.states().get(state, 0) for state in ("completed", "cancelled", "dead")) >= many

    await until(over, seconds)
    return site.states()


@on_reactor
async def test_the_most_urgent_first_and_else_in_order(database_url: str, database_server: DatabaseServer) -> None:
    hand = Hand()
    async with site_of(database_url, database_server, hand) as site:
        priorities = [n * 7 % 10 for n in range(60)]
        jobs = [site.desk.new("work", {"n": n}, priority=level) for n, level in enumerate(priorities)]
        await site.put_at_once(*jobs)
        async with site.process():
            await ended(site, 60)
        assert hand.runs == sorted(range(60), key=lambda n: (priorities[n], n))


@on_reactor
async def test_what_is_urgent_passes_what_waits_in_several_processes(
    database_url: str, database_server: DatabaseServer
) -> None:
    hand = Hand()
    gate: list[Deferred[None]] = []

    def hold(_: Any) -> Deferred[None]:
        if len(gate) < 3:
            gate.append(Deferred())
            return gate[-1]
        return pause_of(0.06)  # too long for any to be claimed ahead

    hand.act = hold
    async with site_of(database_url, database_server, hand) as site, AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(site.process())
        await site.put(3)
        await until(lambda: len(gate) == 3)
        await site.put_at_once(*(site.desk.new("work", {"n": 100 + n}, priority=9) for n in range(20)))
        await site.put_at_once(*(site.desk.new("work", {"n": 200 + n}, priority=0) for n in range(20)))
        await pause(0.2)
        for held in gate:
            held.callback(None)
        await ended(site, 43)
        # Three processes: each may be about to begin one of the others when the last urgent one is taken.
        assert set(hand.runs[3:20]) <= set(range(200, 220))
        assert sorted(hand.runs) == [0, 1, 2, *range(100, 120), *range(200, 220)]


@on_reactor
async def test_one_job_of_a_key_however_many_ask_at_once(database_url: str, database_server: DatabaseServer) -> None:
    async with site_of(database_url, database_server, Hand()) as site:
        how: Any = {"unique_key": "payment:7", "unique_for": 60.0}
        asked = [Deferred.fromCoroutine(site.desk.enqueue("work", {"n": n}, **how)) for n in range(60)]
        told = await gatherResults(asked)
        assert [one.is_new for one in told].count(True) == 1
        assert len({one.job.id for one in told}) == 1
        newest = await site.desk.newest_of("payment:7")
        assert newest is not None
        assert newest.id == told[0].job.id
        # Many keys in many transactions, each in another order: nobody waits for ever, and each is there once.
        batches = [
            [site.desk.new("work", {}, unique_key=f"k{(n * step) % 53}", unique_for=60.0) for n in range(1, 53)]
            for step in (1, 2, 3, 5, 7, 11)
        ]
        many = await gatherResults([Deferred.fromCoroutine(site.desk.enqueue_all(batch)) for batch in batches])
        assert sum(one.is_new for batch in many for one in batch) == 52
        assert site.sql("SELECT count(*) FROM jobs") == [(53,)]
        twins = [site.desk.new("work", {}, unique_key="new", unique_for=9.0) for _ in range(2)]
        assert [one.is_new for one in await site.desk.enqueue_all(twins)] == [True, False]


@on_reactor
async def test_a_key_is_free_again_after_its_window_or_an_end_without_success(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with site_of(database_url, database_server, Hand()) as site:
        how: Any = {"unique_key": "k", "unique_for": 60.0}
        first = await site.desk.enqueue("work", {}, **how)
        site.sql("UPDATE jobs SET inserted_at = now() - interval '59 s'")
        assert not (await site.desk.enqueue("work", {}, **how)).is_new
        site.sql("UPDATE jobs SET inserted_at = now() - interval '61 s'")
        second = await site.desk.enqueue("work", {}, **how)
        assert second.is_new
        assert second.job.id != first.job.id
        await site.desk.cancel(second.job.id)
        assert (await site.desk.enqueue("work", {}, **how)).is_new


@pytest.mark.parametrize("hears", [True, False], ids=["told", "looking"])
@on_reactor
async def test_a_delayed_job_begins_in_time(database_url: str, database_server: DatabaseServer, hears: bool) -> None:
    hand = Hand()
    async with site_of(database_url, database_server, hand) as site, site.process(hears=hears):
        await pause(0.3)
        queued_at = reactor.seconds()
        queued = await site.desk.enqueue("work", {"n": 1}, delay=1.6)
        assert queued.job.state == "scheduled"
        await ended(site)
        late = hand.began[0] - queued_at - 1.6
        assert 0 <= late < 0.2


@on_reactor
async def test_without_notifications_jobs_are_found_by_looking(
    database_url: str, database_server: DatabaseServer
) -> None:
    hand = Hand()
    async with site_of(database_url, database_server, hand) as site, site.process(hears=False):
        await pause(0.1)
        asked_at = reactor.seconds()
        await site.put(5)
        await ended(site, 5)
        assert sorted(hand.runs) == list(range(5))
        assert reactor.seconds() - asked_at < 10


@on_reactor
async def test_a_notification_wakes_at_once_and_again_after_the_connection_was_lost(
    database_url: str, database_server: DatabaseServer
) -> None:
    hand = Hand()
    async with site_of(database_url, database_server, hand) as site, site.process():
        for n in range(3):
            await pause(0.2)
            killed = site.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query IN ('SELECT 1', 'NOTIFY ledger_probe')"
            )
            assert killed == [(True,)]
            await site.put(1)
            await ended(site, n + 1)
        assert len(hand.runs) == 3


@on_reactor
async def test_who_has_lost_a_lease_cannot_end_the_job(database_url: str, database_server: DatabaseServer) -> None:
    async with site_of(database_url, database_server, Hand()) as site:
        await site.put(1)
        slow, quick = (JobStore(site.pool, ["work"], lease) for lease in (0.05, 30.0))
        (mine,) = await slow.claim("default", 5)
        assert await quick.claim("default", 5) == []
        assert await slow.renew([mine]) == {mine.id}
        await pause(0.1)
        assert await quick.rescue(10) == 1
        assert await slow.settle([(mine, DONE)]) == set()
        assert await slow.renew([mine]) == set()
        (theirs,) = await quick.claim("default", 5)
        assert (theirs.id, theirs.attempt, theirs.fence) == (mine.id, 2, mine.fence + 1)
        assert await slow.settle([(mine, DONE)]) == set()
        assert site.states() == {"executing": 1}
        assert await quick.settle([(theirs, DONE)]) == {mine.id}
        assert await quick.settle([(theirs, DONE)]) == set()
        assert site.states() == {"completed": 1}
        assert errors_of(site) == [{"attempt": 1, "reason": "timeout", "message": "Its worker was lost"}]


@on_reactor
async def test_a_lease_is_renewed_for_as_long_as_the_work_takes(
    database_url: str, database_server: DatabaseServer
) -> None:
    hand, gate = Hand(), Deferred[None]()
    hand.act = lambda _: gate
    async with site_of(database_url, database_server, hand) as site:
        async with site.process(lease=0.6), site.process(lease=0.6):
            await site.put(1)
            await until(lambda: hand.runs)
            await pause(2.5)
            gate.callback(None)
            assert await ended(site) == {"completed": 1}
        assert hand.runs == [0]


@on_reactor
async def test_a_killed_process_loses_its_jobs_to_others(database_url: str, database_server: DatabaseServer) -> None:
    hand = Hand()
    async with site_of(database_url, database_server, hand) as site:
        command = [sys.executable, "-m", "tests.postgres.labourer", database_url, "2"]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        try:
            await site.put(1)
            await until(lambda: site.states() == {"executing": 1}, 30)
            async with site.process():
                await pause(3)
                assert hand.runs == []  # the other one lives, and renews its lease
                child.kill()
                child.wait()
                killed_at = reactor.seconds()
                assert await ended(site) == {"completed": 1}
                assert reactor.seconds() - killed_at < 10
        finally:
            child.kill()
            output, _ = child.communicate()
        assert (output, hand.runs) == (b"0\n", [0])


@on_reactor
async def test_a_stop_waits_for_what_runs_and_gives_back_the_rest(
    database_url: str, database_server: DatabaseServer
) -> None:
    hand, gates = Hand(queue="payments"), [Deferred[None](), Deferred[None]()]
    hand.act = lambda n: gates[n]
    async with site_of(database_url, database_server, hand) as site:
        async with site.process(patience=1.0) as jobs:
            await site.put(5)
            await until(lambda: len(hand.runs) == 2)
            stopping = Deferred.fromCoroutine(jobs.stop())
            await pause(0.2)
            assert not stopping.called
            gates[0].callback(None)
            await stopping
        rows = site.sql("SELECT (args ->> 'n')::int, state, attempt FROM jobs ORDER BY 1")
        assert rows == [(0, "completed", 1), (1, "available", 1), *((n, "available", 0) for n in (2, 3, 4))]
        gates[1].callback(None)  # too late: it is not ours any more
        hand.act = lambda _: None
        async with site.process():
            assert await ended(site, 5) == {"completed": 5}
        assert sorted(hand.runs) == [0, 1, 1, 2, 3, 4]


@on_reactor
async def test_a_stop_does_not_wait_for_a_silent_database(database_url: str, database_server: DatabaseServer) -> None:
    hand, gate = Hand(), Deferred[None]()
    hand.act = lambda _: gate
    async with site_of(database_url, database_server, hand) as site:
        async with site.process(patience=20.0, answers=lambda: False):
            await site.put(1)
            await until(lambda: hand.runs)
            asked_at = reactor.seconds()
        assert reactor.seconds() - asked_at < 10
        assert site.states() == {"executing": 1}  # its lease will run out
        gate.callback(None)


@on_reactor
async def test_jobs_claimed_ahead_of_a_slow_one_are_given_back(
    database_url: str, database_server: DatabaseServer
) -> None:
    hand, gate = Hand(), Deferred[None]()
    hand.act = lambda n: gate if n == 150 else None
    async with site_of(database_url, database_server, hand) as site, site.process():
        await site.put_at_once(*(site.desk.new("work", {"n": n}) for n in range(400)))
        await until(lambda: 150 in hand.runs)
        other = Hand()
        async with site.process(other):
            await ended(site, 399)
        gate.callback(None)
        assert await ended(site, 400) == {"completed": 400}
        assert sorted(hand.runs + other.runs) == list(range(400))
        assert site.sql("SELECT max(attempt) FROM jobs") == [(1,)]


@on_reactor
async def test_what_dies_with_the_connection_is_written_on_another(
    database_url: str, database_server: DatabaseServer
) -> None:
    hand = Hand(queue="payments")
    hand.act = lambda _: pause_of(0.002)
    async with site_of(database_url, database_server, hand) as site, site.process():
        await site.put(600)
        while sum(site.states().get(state, 0) for state in ("completed", "dead")) < 600:
            with suppress(Exception):
                site.sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%%jobs SET%%'"
                )
            site.sql(
                "UPDATE jobs SET leased_until = now()"
                " WHERE state = 'executing' AND attempted_at < now() - interval '2 s'"
            )
            await pause(0.1)
        assert set(site.states()) == {"completed"}
        assert set(hand.runs) == set(range(600))


def pause_of(seconds: float) -> Deferred[None]:
    """A while."""
    return Deferred.fromCoroutine(pause(seconds))


@on_reactor
async def test_a_worker_that_is_not_known_leaves_the_job_to_others(
    database_url: str, database_server: DatabaseServer
) -> None:
    old, new = Hand("old"), Hand("new")
    async with site_of(database_url, database_server, old, new) as site:
        async with site.process(old):
            await site.put(3, "new", priority=0)
            await site.put(1, "old", priority=9)
            await until(lambda: old.runs == [0])
            assert site.sql("SELECT state, count(*) FROM jobs WHERE worker = 'new' GROUP BY 1") == [("available", 3)]
            async with site.process(new):
                await ended(site, 4)
        assert new.runs == [0, 1, 2]


OUTCOMES: list[tuple[Exception, str, int, str, str]] = [
    (Refused("insufficient_funds", account_id="1"), "dead", 1, "insufficient_funds", "The available balance does not"),
    (Refused("account_not_found"), "dead", 1, "account_not_found", "The account does not exist"),
    (Refused("already_processed"), "dead", 1, "already_processed", "This has been done already"),
    (Refused("missing_fields"), "dead", 1, "missing_fields", "A required field is missing or empty"),
    (Refused("database_error", "What\0ever \ud800"), "dead", 3, "database_error", "Whatever ?"),
    (Refused("bank_api_error"), "dead", 4, "bank_api_error", "The bank did not answer properly"),
    (ValueError("the password is secret"), "dead", 3, "internal_server_error", "ValueError"),
    (Cancel("nothing to do"), "cancelled", 1, "cancelled", "nothing to do"),
]


@pytest.mark.parametrize(
    ("outcome", "state", "attempts", "reason", "message"), OUTCOMES, ids=lambda value: str(value)[:20]
)
@on_reactor
async def test_what_an_outcome_leads_to(
    database_url: str,
    database_server: DatabaseServer,
    outcome: Exception,
    state: str,
    attempts: int,
    reason: str,
    message: str,
    logged_errors: LoggedErrors,
) -> None:
    hand = Hand()
    hand.act = failing(outcome)
    async with site_of(database_url, database_server, hand) as site, site.process():
        (job_id,) = await site.put(1)
        for attempt in range(1, attempts):
            await until(lambda: site.sql("SELECT state, attempt FROM jobs") == [("retryable", attempt)])  # noqa: B023
            ((left,),) = site.sql("SELECT extract(epoch FROM scheduled_at - now()) FROM jobs")
            assert 0 < left < 6.1
            await site.desk.retry(job_id)  # need not be waited for
        assert await ended(site) == {state: 1}
        errors = errors_of(site)
        assert [error["attempt"] for error in errors] == list(range(1, attempts + 1))
        assert {error["reason"] for error in errors} == {reason}
        assert all(error["message"].startswith(message) for error in errors)
        assert "secret" not in str(errors)
        assert len(hand.runs) == attempts
        assert len(logged_errors(ValueError)) == (attempts if isinstance(outcome, ValueError) else 0)


@on_reactor
async def test_retries_come_by_themselves(database_url: str, database_server: DatabaseServer) -> None:
    hand = Hand()
    fails = iter([Refused("database_error"), Snooze(0.3), Refused("database_error")])

    def act(_: Any) -> None:
        for error in fails:
            raise error

    hand.act = act
    async with site_of(database_url, database_server, hand) as site, site.process(hears=False):
        await site.put(1)
        assert await ended(site) == {"completed": 1}
        assert site.sql("SELECT attempt FROM jobs") == [(3,)]  # what was put off does not count
        gaps = [later - earlier for earlier, later in zip(hand.began, hand.began[1:], strict=False)]
        for gap, least in zip(gaps, (0.5, 0.3, 1.0), strict=True):
            assert least <= gap < least * 1.5 + 0.5


@on_reactor
async def test_a_job_that_takes_too_long_is_tried_again(database_url: str, database_server: DatabaseServer) -> None:
    hand, first = Hand(timeout=0.2), Deferred[None]()
    hand.act = lambda _: first if len(hand.runs) == 1 else None
    async with site_of(database_url, database_server, hand) as site, site.process():
        await site.put(1)
        assert await ended(site) == {"completed": 1}
        assert errors_of(site) == [{"attempt": 1, "reason": "timeout", "message": "It took longer than 0.2 s"}]
        assert not first.called  # it is left alone, not cancelled
        first.callback(None)


@on_reactor
async def test_errors_are_bounded(database_url: str, database_server: DatabaseServer) -> None:
    hand = Hand(max_attempts=1)
    hand.act = NEVER
    async with site_of(database_url, database_server, hand) as site, site.process():
        (job_id,) = await site.put(1)
        for run in range(1, 14):
            await until(lambda: len(hand.runs) == run and site.states() == {"dead": 1})  # noqa: B023
            if run < 13:
                await site.desk.retry(job_id)
        assert len(errors_of(site)) == 10

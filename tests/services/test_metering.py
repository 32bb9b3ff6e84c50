# mypy: disable-error-code="untyped-decorator"
"""What is told of the server's parts, after each has done something that is known."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from prometheus_client.core import Metric
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ledger.domain.errors import Refused, unavailable
from ledger.pubsub.sse import Stream
from ledger.services.child import ChildStatus
from ledger.services.job_counts import EVERY, PATIENCE, STALE, JobCounts
from ledger.services.job_desk import JobStats
from ledger.services.lanes import Lanes
from ledger.services.metering import (
    Reading,
    breaker_metrics,
    job_metrics,
    live_metrics,
    pool_metrics,
    server_metrics,
    service_metrics,
    writer_metrics,
)
from ledger.services.outbound import Breakers
from ledger.services.process_meter import ProcessMeter
from ledger.services.reactor_lag import EVERY as BEAT
from ledger.services.reactor_lag import ReactorLag
from ledger.services.tally import INFINITY, Tally
from ledger.store.pool import Pool
from ledger.store.postgres import ConnectionLost
from ledger.version import VERSION
from tests.cleanliness import LoggedErrors
from tests.pubsub.world import World
from tests.scraping import Scrape, scraped
from tests.services.test_writer import KEPT, Desk


def refused(failure: Failure) -> None:
    """Take a refusal for what it is."""
    failure.trap(Refused)  # type: ignore[no-untyped-call]


def of_writer(desk: Desk) -> Scrape:
    """What is told of a writer."""
    scrape = scraped(writer_metrics(desk.writer.meter))
    scrape.check_histograms()
    return scrape


def test_a_tally_counts_each_value_once_and_in_the_right_place() -> None:
    tally = Tally((1, 5))
    for value in (0, 1, 1.5, 5, 6, 1e9):
        tally.add(value)
    assert list(tally.cumulated()) == [(1, 2), (5, 4), (INFINITY, 6)]
    assert (tally.count, tally.total) == (6, 13.5 + 1e9)


class TestWriter:
    """Batches, replies, and what waits."""

    def test_batches_and_replies(self) -> None:
        desk = Desk(batch=10)
        desk.send(*(desk.credit(who) for who in range(3)))
        desk.turn()
        slow: Deferred[None] = Deferred()
        desk.store.fails("append", slow)
        desk.send(*(desk.credit(0) for _ in range(7)), desk.credit(1, 10**9, kind="debit"))
        desk.turn()
        desk.turn(0.5)
        slow.callback(None)
        desk.turn()
        scrape = of_writer(desk)
        name = "ledger_writer_batch_commands"
        assert [scrape(f"{name}_bucket", le=le) for le in ("2.0", "5.0", "10.0", "+Inf")] == [0, 1, 2, 2]
        assert (scrape(f"{name}_count"), scrape(f"{name}_sum")) == (2, 11)
        seconds = "ledger_writer_batch_duration_seconds"
        assert scrape(f"{seconds}_bucket", le="0.001") == 1
        assert scrape(f"{seconds}_sum") == pytest.approx(0.5)
        assert scrape("ledger_writer_records_total") == len(desk.store.sealed) == 10
        assert scrape("ledger_writer_replies_total") == 11
        assert scrape("ledger_writer_replies_waiting") == 0
        assert scrape("ledger_writer_away") == 0

    def test_what_waits(self) -> None:
        desk = Desk()
        busy: Deferred[None] = Deferred()
        desk.store.fails("read_facts", busy)
        desk.send(desk.credit(2))
        desk.turn()
        desk.send(*(desk.credit(0) for _ in range(5)), *(desk.credit(1) for _ in range(2)))
        desk.writer.submit_bundle([desk.credit(0), desk.credit(1)])
        desk.writer.submit_bundle([desk.credit(0)] * 3)
        scrape = of_writer(desk)
        told = ("lanes", "lane_commands", "lane_commands_deepest", "bundles", "bundle_commands")
        assert [scrape(f"ledger_writer_{name}") for name in told] == [2, 7, 5, 2, 5]
        busy.callback(None)
        desk.turn()
        assert [of_writer(desk)(f"ledger_writer_{name}") for name in told] == [0, 0, 0, 0, 0]

    def test_replies_that_wait(self) -> None:
        desk = Desk()
        scrapes: list[Scrape] = []
        for _ in range(100):
            desk.writer.submit(desk.credit(0)).addCallback(lambda _: scrapes.append(of_writer(desk)))
        desk.turn()
        for place, waiting in ((31, 68), (32, 67), (99, 0)):
            assert scrapes[place]("ledger_writer_replies_waiting") == waiting
            assert scrapes[place]("ledger_writer_replies_total") == place + 1

    def test_who_is_turned_away(self) -> None:
        desk = Desk(lanes=Lanes(per_lane=2))
        desk.send(*(desk.credit(0) for _ in range(5)))
        assert of_writer(desk)("ledger_writer_turned_away_total") == 3
        desk.turn()
        for _ in range(262):
            desk.writer.submit_bundle([desk.credit(0)]).addErrback(refused)
        assert of_writer(desk)("ledger_writer_turned_away_total") == 3 + 6
        desk.turn()

    def test_connections_that_broke(self) -> None:
        desk = Desk()
        desk.store.fails("read_facts", ConnectionLost("gone"))
        desk.send(desk.credit(0))
        desk.turn()
        assert of_writer(desk)("ledger_writer_connection_losses_total") == 1
        desk.store.fails("append", KEPT)
        desk.send(desk.credit(0))
        desk.turn(1.0)
        assert of_writer(desk)("ledger_writer_connection_losses_total") == 2
        desk.store.down = True
        desk.store.fails("read_facts", ConnectionLost("gone"))
        desk.send(desk.credit(0))
        desk.turn()
        assert of_writer(desk)("ledger_writer_away") == 1
        desk.store.down = False
        desk.turn(5.0)
        assert of_writer(desk)("ledger_writer_away") == 0


def test_the_pool() -> None:
    class Used(Pool):
        usage = (4, 1, 7)

    scrape = scraped(pool_metrics(Used(Clock(), "", 5), 5))
    assert [scrape(f"ledger_pool_{name}") for name in ("size", "open", "in_use", "waiting")] == [5, 4, 3, 7]


class TestLive:
    """The journal's head, its publishing, and who follows."""

    def test_the_feed(self) -> None:
        world = World()
        assert set(scraped(live_metrics(world.feed, world.sockets)).families) == {
            "ledger_live_connections",
            "ledger_live_subscriptions",
        }
        world.start()
        world.commit("alice1")
        world.feed.head_moved(4)
        world.settle()
        scrape = scraped(live_metrics(world.feed, world.sockets))
        told = ("journal_head", "feed_published", "feed_lag_records")
        assert [scrape(f"ledger_{name}") for name in told] == [4, 1, 3]

    def test_connections_and_subscriptions(self) -> None:
        world = World()
        world.start()
        request: Any = _Request()
        connections: list[Any] = [Stream(world.context, request), object(), object()]
        for connection in connections:
            world.sockets.add(connection, known=True)
        heard: list[object] = []
        everything = world.hub.subscribe("balance_updated", heard.append)
        world.hub.subscribe("balance_updated", heard.append)
        everything.cancel()
        everything.cancel()
        scrape = scraped(live_metrics(world.feed, world.sockets))
        assert scrape("ledger_live_connections", kind="websocket") == 2
        assert scrape("ledger_live_connections", kind="sse") == 1
        assert scrape("ledger_live_subscriptions") == 1


class _Request:
    def notifyFinish(self) -> Deferred[None]:
        return Deferred()


def test_the_service_tree() -> None:
    children = [ChildStatus("writer", "running", 2, "OSError", 0.0), ChildStatus("feed", "backing_off", 0, None, 0.0)]
    scrape = scraped(service_metrics(children))
    for child in children:
        assert scrape("ledger_service_state", service=child.name, state=child.state) == 1
        assert sum(scrape.values("ledger_service_state", service=child.name)) == 1
        assert len(scrape.values("ledger_service_state", service=child.name)) == 6
        assert scrape("ledger_service_restarts_total", service=child.name) == child.restarts


def test_breakers() -> None:
    clock = Clock()
    breakers = Breakers(clock, lambda: 0.0)
    assert scraped(breaker_metrics(breakers.statuses())).values("ledger_breaker_state") == []
    bank = breakers.to("bank")

    async def fail() -> None:
        raise OSError

    for _ in range(5):
        ensureDeferred(bank.call(fail)).addErrback(refused)
    scrape = scraped(breaker_metrics(breakers.statuses()))
    assert scrape("ledger_breaker_state", service="bank", state="open") == 1
    assert sum(scrape.values("ledger_breaker_state", service="bank")) == 1
    assert scrape("ledger_breaker_failures", service="bank") == 5
    clock.advance(30)
    scrape = scraped(breaker_metrics(breakers.statuses()))
    assert scrape("ledger_breaker_state", service="bank", state="half_open") == 1


def test_jobs() -> None:
    class Busy:
        slots, running, done = 3, 2, 40

    queues: Any = {"banking": Busy}
    scrape = scraped(job_metrics({"banking": {"available": 7, "dead": 1}}, queues))
    assert scrape("ledger_jobs", queue="banking", state="available") == 7
    assert scrape("ledger_jobs", queue="banking", state="dead") == 1
    assert scrape("ledger_job_slots", queue="banking") == 3
    assert scrape("ledger_jobs_running", queue="banking") == 2
    assert scrape("ledger_jobs_run_total", queue="banking") == 40
    assert "ledger_jobs" not in scraped(job_metrics(None, queues)).families


class Counting:
    """Counts jobs when the test says so."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.asked: list[Deferred[JobStats]] = []
        self.counts = JobCounts(self.count, self.clock)

    async def count(self) -> JobStats:
        self.asked.append(Deferred())
        return await self.asked[-1]

    def renew(self) -> Deferred[None]:
        """Ask for the counts."""
        return Deferred.fromCoroutine(self.counts.renew())

    def tell(self, many: int) -> None:
        """Answer the last question."""
        self.asked[-1].callback(JobStats({"default": {"available": many}}, []))


class TestJobCounts:
    """Counting what only the database knows."""

    def test_many_who_ask_are_one_question_every_few_seconds(self) -> None:
        counting = Counting()
        assert counting.counts.queues is None
        first, second = counting.renew(), counting.renew()
        assert not first.called
        assert not second.called
        counting.tell(1)
        assert first.called
        assert second.called
        assert counting.counts.queues == {"default": {"available": 1}}
        counting.clock.advance(EVERY - 0.1)
        assert counting.renew().called
        assert len(counting.asked) == 1
        counting.clock.advance(0.1)
        third = counting.renew()
        counting.tell(2)
        assert third.called
        assert counting.counts.queues == {"default": {"available": 2}}

    def test_a_slow_count_is_not_waited_for_but_comes_in_handy(self) -> None:
        counting = Counting()
        waiting = counting.renew()
        counting.clock.advance(PATIENCE)
        assert waiting.called
        assert counting.counts.queues is None
        again = counting.renew()
        assert len(counting.asked) == 1
        counting.tell(3)
        assert again.called
        assert counting.counts.queues == {"default": {"available": 3}}
        assert not counting.clock.getDelayedCalls()

    def test_what_is_too_old_is_forgotten(self, logged_errors: LoggedErrors) -> None:
        counting = Counting()
        counting.renew()
        counting.tell(1)
        for trouble in (unavailable(), RuntimeError("a bug")):
            counting.clock.advance(EVERY)
            asked = counting.renew()
            counting.asked[-1].errback(trouble)
            assert asked.called
            assert counting.counts.queues == {"default": {"available": 1}}
        assert len(logged_errors(RuntimeError)) == 1
        counting.clock.advance(STALE)
        assert counting.counts.queues is None


def test_how_late_the_reactor_is() -> None:
    clock = Clock()
    lag = ReactorLag(clock)
    Deferred.fromCoroutine(lag.start())
    for late in (0.0, 0.0, 0.03, 2.0):
        clock.advance(BEAT + late)
    scrape = scraped(server_metrics(lag.seconds))
    scrape.check_histograms()
    name = "ledger_reactor_lag_seconds"
    assert [scrape(f"{name}_bucket", le=le) for le in ("0.001", "0.025", "0.05", "1.0", "5.0")] == [2, 2, 3, 3, 4]
    assert scrape(f"{name}_sum") == pytest.approx(2.03)
    assert scrape("ledger_info", version=VERSION) == 1
    Deferred.fromCoroutine(lag.stop())
    Deferred.fromCoroutine(lag.stop())
    assert not clock.getDelayedCalls()


def test_a_clock_that_is_set_back_is_no_lag() -> None:
    clock = Clock()
    lag = ReactorLag(clock)
    Deferred.fromCoroutine(lag.start())
    (call,) = clock.getDelayedCalls()
    call.func(*call.args)  # before its time
    assert (lag.seconds.count, lag.seconds.total) == (1, 0.0)


@pytest_twisted.ensureDeferred
async def test_the_process() -> None:
    meter = ProcessMeter(reactor)
    before = scraped(meter.metrics())
    assert "process_open_fds" not in before.families
    assert before.values("python_gc_collections_total", generation="2")
    await meter.renew()
    scrape = scraped(meter.metrics())
    assert scrape("process_resident_memory_bytes") > 10_000_000
    assert scrape("process_cpu_seconds_total") > 0
    assert 3 <= scrape("process_open_fds") <= scrape("process_max_fds")


def test_what_cannot_be_read_is_logged(logged_errors: LoggedErrors) -> None:
    def broken() -> list[Metric]:
        raise ZeroDivisionError

    assert list(Reading(broken).collect()) == []
    assert len(logged_errors(ZeroDivisionError)) == 1

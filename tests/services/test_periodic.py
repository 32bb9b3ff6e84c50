"""Periodic work: on the beat, never twice at once, and alive whatever it raises."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from ledger.services.ladder import Ladder
from ledger.services.periodic import Periodic
from tests.services.fakes import FakeReactor, Log


class Work:
    """Notes when it begins; takes as long, or fails, as it is told."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.began: list[float] = []
        self.step: Callable[[], Deferred[None] | None] = lambda: None

    async def __call__(self) -> None:
        self.began.append(self.clock.seconds())
        pending = self.step()
        if pending is not None:
            await pending


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def work(clock: Clock) -> Work:
    return Work(clock)


def periodic(work: Work, *, at_once: bool = False) -> Periodic:
    """Started, every 10 s."""
    child = Periodic("sweep", 10.0, work.__call__, work.clock, at_once=at_once)
    assert Deferred.fromCoroutine(child.start()).called
    return child


def test_runs_every_period(work: Work, clock: Clock) -> None:
    child = periodic(work)
    clock.pump([10.0] * 3)
    assert work.began == [10.0, 20.0, 30.0]
    assert (child.runs, child.failures) == (3, 0)


def test_the_first_run_can_follow_at_once(work: Work, clock: Clock) -> None:
    periodic(work, at_once=True)
    clock.advance(0)
    clock.advance(10)
    assert work.began == [0.0, 10.0]


def test_goes_on_after_any_exception(work: Work, clock: Clock, log: Log) -> None:
    errors: list[Exception] = [OSError("no"), CancelledError(), ValueError("no")]

    def step() -> None:
        if errors:
            raise errors.pop()

    work.step = step
    child = periodic(work)
    clock.pump([10.0] * 5)
    assert work.began == [10.0, 20.0, 30.0, 40.0, 50.0]
    assert (child.runs, child.failures) == (5, 3)
    assert log.tracebacks(Exception) == 3


def test_never_runs_twice_at_once_and_keeps_the_beat(work: Work, clock: Clock) -> None:
    pending: Deferred[None] = Deferred()
    work.step = lambda: pending
    periodic(work)
    clock.pump([10.0, 25.0])
    assert work.began == [10.0]
    work.step = lambda: None
    pending.callback(None)
    clock.pump([4.9, 0.1, 10.0])
    assert work.began == [10.0, 40.0, 50.0]


def test_stop_ends_it_and_can_be_repeated(work: Work, clock: Clock) -> None:
    child = periodic(work)
    for _ in range(2):
        assert Deferred.fromCoroutine(child.stop()).called
    clock.advance(100)
    assert work.began == []
    assert clock.getDelayedCalls() == []


def test_stop_awaits_the_present_run(work: Work, clock: Clock) -> None:
    pending: Deferred[None] = Deferred()
    work.step = lambda: pending
    child = periodic(work)
    clock.advance(10)
    stops = [Deferred.fromCoroutine(child.stop()) for _ in range(2)]
    assert [stop.called for stop in stops] == [False, False]
    pending.callback(None)
    assert [stop.called for stop in stops] == [True, True]
    clock.advance(100)
    assert work.began == [10.0]


def test_a_run_that_was_left_behind_is_not_overtaken_after_a_restart(work: Work, clock: Clock) -> None:
    pending: Deferred[None] = Deferred()
    work.step = lambda: pending
    child = periodic(work)
    clock.advance(10)
    stop = Deferred.fromCoroutine(child.stop())
    assert Deferred.fromCoroutine(child.start()).called
    assert Deferred.fromCoroutine(child.start()).called
    clock.advance(30)
    assert work.began == [10.0]
    pending.callback(None)
    assert stop.called
    work.step = lambda: None
    clock.pump([10.0, 10.0])
    assert work.began == [10.0, 50.0, 60.0]


def test_lives_on_a_ladder() -> None:
    reactor = FakeReactor()
    work = Work(reactor)
    codes: list[int] = []
    ladder = Ladder(reactor, lambda: 0.0, codes.append)
    ladder.addService(Periodic("sweep", 1.0, work.__call__, reactor, leans_on=("database",)))
    ladder.startService()
    reactor.run()
    reactor.pump([1.0, 1.0])
    stopped = ladder.stopService()
    reactor.pump([0.0, 5.0])
    assert stopped.called
    assert work.began == [1.0, 2.0]
    assert codes == []


def test_refuses_a_period_of_nothing(work: Work, clock: Clock) -> None:
    with pytest.raises(ValueError, match="sweep: the period must be positive"):
        Periodic("sweep", 0.0, work.__call__, clock)

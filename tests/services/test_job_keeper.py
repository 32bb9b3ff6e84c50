"""Held jobs: renewed while they are ours, written in batches, and written again when the database was away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ledger.domain.errors import unavailable
from ledger.domain.jobs import DONE, GIVEN_BACK, LET_GO, Claimed, Step, Trouble
from ledger.services.job_keeper import Keeper
from ledger.store.postgres import StatementFailed
from tests.cleanliness import LoggedErrors

FINAL = Step("executing", final=Trouble("timeout", "late"))


def job(number: int) -> Claimed:
    return Claimed(str(number), "default", "work", {}, 5, 1, 4, 1.0, number)


class Store:
    """Writes at once, or fails as it is told."""

    lease = 30.0

    def __init__(self) -> None:
        self.renewed: list[list[str]] = []
        self.batches: list[list[tuple[str, str]]] = []
        self.lost: set[str] = set()
        self.away = False
        self.poison: str | None = None
        self.gate: Deferred[None] | None = None

    async def renew(self, jobs: Sequence[Claimed]) -> set[str]:
        """Note it."""
        if self.away:
            raise unavailable()
        self.renewed.append([one.id for one in jobs])
        return {one.id for one in jobs} - self.lost

    async def settle(self, steps: Sequence[tuple[Claimed, Step]]) -> set[str]:
        """Note it."""
        if self.gate is not None:
            await self.gate
        if self.away:
            raise unavailable()
        if any(one.id == self.poison for one, _ in steps):
            raise StatementFailed("22P05", "no such text")
        self.batches.append([(one.id, step.state) for one, step in steps])
        return {one.id for one, _ in steps} - self.lost


class House:
    """A keeper that has started, with four jobs."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = Store()
        self.keeper = Keeper(self.store, self.clock)
        self.jobs = [job(number) for number in range(4)]
        run(self.keeper.start())
        self.keeper.take(self.jobs)


def run(work: Any) -> Deferred[Any]:
    """Begin some work."""
    return Deferred.fromCoroutine(work)


@pytest.fixture
def house() -> House:
    return House()


def test_what_ends_together_is_written_together(house: House) -> None:
    for one in house.jobs[:3]:
        house.keeper.settle(one, DONE)
    assert house.store.batches == []
    house.clock.advance(0)
    assert house.store.batches == [[("0", "completed"), ("1", "completed"), ("2", "completed")]]
    assert house.keeper.held == 1


def test_what_ends_meanwhile_is_written_next(house: House) -> None:
    house.store.gate = Deferred()
    house.keeper.settle(house.jobs[0], DONE)
    house.clock.advance(0)
    for one in house.jobs[1:3]:
        house.keeper.settle(one, DONE)
    written = run(house.keeper.written())
    assert not written.called
    gate, house.store.gate = house.store.gate, None
    gate.callback(None)
    assert [len(batch) for batch in house.store.batches] == [1, 2]
    assert written.called


def test_leases_are_renewed_and_what_was_lost_is_told_of_once(house: House) -> None:
    house.store.lost = {"2"}
    house.clock.advance(10)
    assert house.store.renewed == [["0", "1", "2", "3"]]
    house.clock.advance(10)
    assert house.store.renewed[1] == ["0", "1", "3"]
    house.keeper.settle(house.jobs[2], DONE)
    house.clock.advance(0)
    assert house.store.batches == []
    assert house.keeper.lost == 1


def test_a_decision_is_told_when_it_is_written(house: House) -> None:
    house.store.lost = {"1"}
    answers = [house.keeper.decide(one, FINAL) for one in house.jobs[:2]]
    house.clock.advance(0)
    told: list[bool] = []
    for answer in answers:
        answer.addCallback(told.append)
    assert told == [True, False]
    assert house.keeper.held == 3  # what is decided is still ours
    gone = house.keeper.decide(house.jobs[1], FINAL)
    gone.addCallback(told.append)
    assert told == [True, False, False]


def test_of_one_job_one_step_is_written_at_a_time(house: House) -> None:
    house.keeper.decide(house.jobs[0], FINAL)
    house.keeper.settle(house.jobs[0], LET_GO)
    house.keeper.settle(house.jobs[1], GIVEN_BACK)
    house.clock.advance(0)
    assert house.store.batches == [[("0", "executing")], [("0", "available"), ("1", "available")]]


def test_while_the_database_is_away_it_waits(house: House) -> None:
    house.store.away = True
    house.keeper.settle(house.jobs[0], DONE)
    house.clock.pump([0, 0.1, 0.2, 0.4, 20])
    assert house.store.batches == []
    house.store.away = False
    house.store.lost = {"0"}  # it was written the first time, and nobody heard
    house.clock.advance(3)
    assert house.store.batches == [[("0", "completed")]]
    assert house.keeper.lost == 0


def test_a_stop_writes_what_is_left_but_waits_for_no_database(house: House) -> None:
    house.keeper.settle(house.jobs[0], DONE)
    stopped = run(house.keeper.stop())
    house.clock.advance(0)
    assert stopped.called
    assert house.store.batches == [[("0", "completed")]]
    other = House()
    other.store.away = True
    other.keeper.settle(other.jobs[0], DONE)
    stopped = run(other.keeper.stop())
    other.clock.advance(0)
    assert not stopped.called
    other.keeper.abandon()
    other.clock.advance(3)
    assert stopped.called
    assert other.clock.getDelayedCalls() == []


def test_what_the_database_refuses_keeps_nothing_else_from_being_written(
    house: House, logged_errors: LoggedErrors
) -> None:
    house.store.poison = "2"
    for one in house.jobs:
        house.keeper.settle(one, DONE)
    house.clock.advance(0)
    assert sorted(step for batch in house.store.batches for step in batch) == [(n, "completed") for n in "013"]
    assert len(logged_errors(StatementFailed)) == 1

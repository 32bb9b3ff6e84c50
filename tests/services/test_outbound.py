"""Calls to services outside: timed, behind a breaker, tried again where that helps; others are not slowed."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ledger.domain.errors import Refused
from ledger.services.outbound import Breakers, BreakerStatus, Outbound


class Bank:
    """A service that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[Deferred[str]] = []

    async def __call__(self) -> str:
        self.asked.append(Deferred())
        return await self.asked[-1]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bank() -> Bank:
    return Bank()


def way(clock: Clock, *, retries: bool = False) -> Outbound:
    """The way to the bank."""
    return Breakers(clock, lambda: 0.0).to("bank", timeout=10.0, retries=retries)


def call(outbound: Outbound, bank: Bank) -> Deferred[Any]:
    """Call it; a Deferred of the answer, or of the exception."""
    answer: Deferred[Any] = Deferred.fromCoroutine(outbound.call(bank.__call__))
    return answer.addErrback(lambda failure: failure.value)


def result(answer: Deferred[Any]) -> Any:
    """What a call that has ended came to."""
    assert answer.called
    seen: list[Any] = []
    answer.addCallback(seen.append)
    return seen[0]


def test_an_answer(clock: Clock, bank: Bank) -> None:
    answer = call(way(clock), bank)
    bank.asked[0].callback("yes")
    assert result(answer) == "yes"
    assert clock.getDelayedCalls() == []


def test_who_times_out_is_cancelled_and_five_of_them_open_the_breaker(clock: Clock, bank: Bank) -> None:
    outbound = way(clock)
    for _ in range(5):
        answer = call(outbound, bank)
        clock.advance(10)
        refused = result(answer)
        assert (refused.reason, refused.details) == ("timeout", {"service": "bank"})
        assert bank.asked[-1].called  # it was cancelled
    assert outbound.status() == BreakerStatus("bank", "open", 5, 30.0)
    clock.advance(4.5)
    refused = result(call(outbound, bank))
    assert (refused.reason, refused.category.status) == ("service_unavailable", 503)
    assert refused.details == {"service": "bank", "outcome": "not_done", "retry_after": 26}
    assert len(bank.asked) == 5
    clock.advance(25.5)
    trial, other = call(outbound, bank), call(outbound, bank)
    assert result(other).reason == "service_unavailable"
    assert outbound.status().state == "half_open"
    bank.asked[5].callback("back")
    assert result(trial) == "back"
    assert outbound.status() == BreakerStatus("bank", "closed", 0, 0.0)
    assert clock.getDelayedCalls() == []


def test_what_the_service_says_no_to_is_an_answer(clock: Clock, bank: Bank) -> None:
    outbound = way(clock)
    for _ in range(6):
        answer = call(outbound, bank)
        bank.asked[-1].errback(Refused("insufficient_funds"))
        assert result(answer).reason == "insufficient_funds"
    assert outbound.status().state == "closed"


def test_what_was_not_foreseen_is_a_failure_that_tells_nothing(clock: Clock, bank: Bank) -> None:
    outbound = way(clock)
    for _ in range(5):
        answer = call(outbound, bank)
        bank.asked[-1].errback(OSError("secret"))
        refused = result(answer)
        assert (refused.reason, refused.details["outcome"]) == ("service_unavailable", "unknown")
        assert "secret" not in repr(refused) + str(refused)
    assert outbound.status().state == "open"


def test_it_is_tried_again_as_the_catalogue_says(clock: Clock, bank: Bank) -> None:
    answer = call(way(clock, retries=True), bank)
    for delay in (1.0, 2.0, 4.0):
        bank.asked[-1].errback(Refused("bank_api_error"))
        many = len(bank.asked)
        clock.advance(delay - 0.1)
        assert len(bank.asked) == many
        clock.advance(0.2)
        assert len(bank.asked) == many + 1
    bank.asked[-1].errback(Refused("bank_api_error"))
    assert result(answer).reason == "bank_api_error"
    assert len(bank.asked) == 4


def test_an_open_breaker_is_not_waited_for(clock: Clock, bank: Bank) -> None:
    outbound = way(clock, retries=True)
    calls = [call(outbound, bank) for _ in range(5)]
    for asked in list(bank.asked):
        asked.errback(Refused("bank_api_error"))
    assert result(calls[4]).reason == "bank_api_error"  # the fifth opened it
    clock.advance(1.1)
    assert [result(answer).reason for answer in calls[:4]] == ["service_unavailable"] * 4
    assert len(bank.asked) == 5


def test_a_caller_that_gives_up_leaves_nothing_behind(clock: Clock, bank: Bank) -> None:
    answer = call(way(clock), bank)
    answer.cancel()
    assert isinstance(result(answer), CancelledError)
    assert clock.getDelayedCalls() == []


def test_each_service_has_a_breaker_of_its_own(clock: Clock) -> None:
    breakers = Breakers(clock, lambda: 0.0)
    bank, post, calls = breakers.to("bank"), breakers.to("post"), Bank()
    for _ in range(5):
        call(bank, calls)
        calls.asked[-1].errback(Failure(OSError()))  # type: ignore[no-untyped-call]
    answer = call(post, calls)
    calls.asked[-1].callback("quick")
    assert result(answer) == "quick"
    assert [(one.name, one.state) for one in breakers.statuses()] == [("bank", "open"), ("post", "closed")]
    with pytest.raises(ValueError, match="bank"):
        breakers.to("bank")

"""Verifying the journal: once at a time, for all who ask meanwhile, and with rests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ledger.domain.errors import Refused, unavailable
from ledger.services import histories
from ledger.services.histories import Histories
from ledger.store.verify import Verdict

Verify = Callable[[], Awaitable[None]]


class Verifying:
    """What the service has begun, each to be ended by the test."""

    def __init__(self) -> None:
        self.runs: list[Deferred[Verdict]] = []
        self.rests: list[Verify] = []

    async def verify(self, _pool: Any, rest: Verify) -> Verdict:
        """Stand in for the real one."""
        self.rests.append(rest)
        self.runs.append(Deferred())
        return await self.runs[-1]


@pytest.fixture
def verifying(monkeypatch: pytest.MonkeyPatch) -> Verifying:
    """A stand-in for `verify`."""
    found = Verifying()
    monkeypatch.setattr(histories, "verify", found.verify)
    return found


def outcomes(*waiting: Deferred[Verdict]) -> list[Any]:
    """What those who wait have been told by now."""
    told: list[Any] = []
    for one in waiting:
        one.addBoth(told.append)
    return told


def test_later_callers_share_the_verdict(verifying: Verifying) -> None:
    clock: Any = Clock()
    service = Histories(None, clock)  # type: ignore[arg-type]
    told = outcomes(*(Deferred.fromCoroutine(service.verdict()) for _ in range(3)))
    assert (len(verifying.runs), told) == (1, [])
    verdict = Verdict(True, 7, 7)
    verifying.runs[0].callback(verdict)
    assert told == [verdict] * 3
    told = outcomes(Deferred.fromCoroutine(service.verdict()))
    assert (len(verifying.runs), told) == (2, [])  # who asks after that has it verified anew
    verifying.runs[1].callback(verdict)
    assert told == [verdict]


def test_a_failure_is_shared_too_and_the_next_one_begins_anew(verifying: Verifying) -> None:
    clock: Any = Clock()
    service = Histories(None, clock)  # type: ignore[arg-type]
    told = outcomes(*(Deferred.fromCoroutine(service.verdict()) for _ in range(2)))
    verifying.runs[0].errback(unavailable())
    assert [failure.check(Refused) for failure in told] == [Refused] * 2
    told = outcomes(Deferred.fromCoroutine(service.verdict()))
    verifying.runs[1].callback(Verdict(True, 0, 0))
    assert told == [Verdict(True, 0, 0)]


def test_it_rests_as_long_as_it_works(verifying: Verifying) -> None:
    clock: Any = Clock()
    service = Histories(None, clock)  # type: ignore[arg-type]
    told = outcomes(Deferred.fromCoroutine(service.verdict()))
    clock.advance(0.25)

    async def rest() -> Verdict:
        await verifying.rests[0]()
        return Verdict(True, 1, 1)

    rested = outcomes(Deferred.fromCoroutine(rest()))
    clock.advance(0.2)
    assert rested == []
    clock.advance(0.1)
    assert len(rested) == 1
    verifying.runs[0].callback(Verdict(True, 1, 1))
    assert len(told) == 1

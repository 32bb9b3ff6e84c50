"""Calls to services outside: each within its time, behind its service's breaker, and tried again where it helps."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from math import ceil
from typing import Any, Final, TypeVar

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from ledger.domain.breaker import Breaker, Position
from ledger.domain.errors import Refused
from ledger.domain.retry import delay_after
from ledger.services.child import Clock

log = Logger()

T = TypeVar("T")

TIMEOUT: Final = 10.0


class BreakerStatus(msgspec.Struct, frozen=True):
    """How the breaker before a service stands; `wait` is in seconds until it lets somebody through."""

    name: str
    state: Position
    failures: int
    wait: float


class Outbound:
    """The way to one external service; while its breaker is open, calls are refused with 503 at once."""

    def __init__(
        self, name: str, clock: Clock, random: Callable[[], float], timeout: float = TIMEOUT, retries: bool = False
    ) -> None:
        """`retries`: calls are tried again here, as the catalogue says, and not by a job, say."""
        self.name = name
        self._clock = clock
        self._random = random
        self._timeout = timeout
        self._retries = retries
        self._breaker = Breaker()

    def status(self) -> BreakerStatus:
        """Tell how the breaker stands."""
        now = self._clock.seconds()
        return BreakerStatus(self.name, self._breaker.position(now), self._breaker.failures, self._breaker.wait(now))

    async def call(self, work: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> T:
        """Return what `work` does, or refuse. A call whose time is up is cancelled: no database, no commit in there.

        What `work` raises for reasons that trying again cannot mend is an answer of the service, and passes through.
        """
        attempt = 1
        while True:
            try:
                return await self._once(work)
            except Refused as refused:
                delay = delay_after(refused, attempt, self._random()) if self._retries else None
                if delay is None or self.status().state == "open":
                    raise
                await deferLater(self._clock, delay)  # type: ignore[arg-type]
                attempt += 1

    async def _once(self, work: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> T:
        now = self._clock.seconds()
        admitted = self._breaker.admit(now)
        if admitted is None:
            wait = max(1, ceil(self._breaker.wait(now)))
            raise Refused("service_unavailable", service=self.name, outcome="not_done", retry_after=wait)
        self._breaker, era = admitted, admitted.era
        try:
            result = await self._timed(work)
        except Refused as refused:
            if refused.category.retryable:
                self._failed(era)
            else:
                self._breaker = self._breaker.succeeded(era)
            raise
        except BaseException:
            self._failed(era)
            raise
        self._breaker = self._breaker.succeeded(era)
        return result

    async def _timed(self, work: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> T:
        running = Deferred.fromCoroutine(work())
        overdue = False

        def overrun() -> None:
            nonlocal overdue
            overdue = True
            running.cancel()

        timer = self._clock.callLater(self._timeout, overrun)
        try:
            return await running
        except Exception as error:
            if overdue:
                raise Refused("timeout", service=self.name) from None
            if isinstance(error, (Refused, CancelledError)):
                raise
            log.warn("{service} failed: {kind}", service=self.name, kind=type(error).__name__)
            raise Refused("service_unavailable", service=self.name, outcome="unknown") from error
        finally:
            if timer.active():
                timer.cancel()

    def _failed(self, era: int) -> None:
        was_open = self._breaker.opened_at is not None
        self._breaker = self._breaker.failed(era, self._clock.seconds())
        if not was_open and self._breaker.opened_at is not None:
            log.warn("The breaker of {service} is open", service=self.name)


class Breakers:
    """The ways to all external services, by name."""

    def __init__(self, clock: Clock, random: Callable[[], float]) -> None:
        self._clock = clock
        self._random = random
        self._ways: dict[str, Outbound] = {}

    def to(self, name: str, timeout: float = TIMEOUT, retries: bool = False) -> Outbound:
        """Make the way to a service; names are unique."""
        if name in self._ways:
            raise ValueError(f"there is a way to {name} already")
        way = self._ways[name] = Outbound(name, self._clock, self._random, timeout, retries)
        return way

    def statuses(self) -> list[BreakerStatus]:
        """Tell how all breakers stand."""
        return [way.status() for way in self._ways.values()]

"""A child of the service tree that does one piece of work over and over."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ledger.services.child import Child, Clock

Work = Callable[[], Coroutine[Deferred[Any], Any, object]]


class Periodic(Child):
    """Runs `work` every so many seconds, never twice at once, and goes on whatever it raises."""

    _log = Logger()

    def __init__(
        self,
        name: str,
        every: float,
        work: Work,
        clock: Clock,
        *,
        leans_on: tuple[str, ...] = (),
        at_once: bool = False,
    ) -> None:
        """`at_once`: the first run follows the start directly, not one period later."""
        if every <= 0:
            raise ValueError(f"{name}: the period must be positive, not {every}")
        self.name = name
        self.leans_on = leans_on
        self.runs = 0
        self.failures = 0
        self._every = every
        self._work = work
        self._clock = clock
        self._at_once = at_once
        self._on = False
        self._busy = False
        self._call: Any = None
        self._waiting: list[Deferred[None]] = []

    async def start(self) -> None:
        """Begin; a run that an earlier stop left behind goes on, and the next one waits for it."""
        if self._on:
            return
        self._on = True
        if not self._busy:
            self._schedule(0.0 if self._at_once else self._every)

    async def stop(self) -> None:
        """Begin no further run, and return when the present one has ended."""
        self._on = False
        if self._call is not None:
            call, self._call = self._call, None
            call.cancel()
        if self._busy:
            ended: Deferred[None] = Deferred()
            self._waiting.append(ended)
            await ended

    def _schedule(self, delay: float) -> None:
        self._call = self._clock.callLater(delay, self._tick)

    def _tick(self) -> None:
        self._call = None
        self._busy = True
        Deferred.fromCoroutine(self._run())

    async def _run(self) -> None:
        began = self._clock.seconds()
        try:
            await self._work()
        except Exception:
            self.failures += 1
            self._log.failure("{child}: a run failed", child=self.name)
        self.runs += 1
        self._busy = False
        waiting, self._waiting = self._waiting, []
        for ended in waiting:
            ended.callback(None)
        if self._on:
            # On the beat of the first run: beats that a long run has missed are left out.
            self._schedule(self._every - (self._clock.seconds() - began) % self._every)

"""How many jobs there are, for whoever asks often: asked of the database at most every few seconds."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ledger.domain.errors import Refused
from ledger.services.child import Clock
from ledger.services.deadline import Overrun, within
from ledger.services.job_desk import JobStats

EVERY: Final = 5.0
PATIENCE: Final = 1.0
STALE: Final = 60.0


class JobCounts:
    """The last count, which is renewed when it is asked for, and forgotten when it is too old."""

    _log = Logger()

    def __init__(self, count: Callable[[], Coroutine[Deferred[Any], Any, JobStats]], clock: Clock) -> None:
        self._count = count
        self._clock = clock
        self._queues: Mapping[str, Mapping[str, int]] = {}
        self._counted_at = float("-inf")
        self._counting: Deferred[None] | None = None

    @property
    def queues(self) -> Mapping[str, Mapping[str, int]] | None:
        """How many jobs there are by queue and state, or None where that is not known."""
        return self._queues if self._clock.seconds() - self._counted_at < STALE else None

    async def renew(self) -> None:
        """Count if it is time to, and return when that is done, or takes too long to be waited for."""
        if self._counting is None and self._clock.seconds() - self._counted_at >= EVERY:
            counting = Deferred.fromCoroutine(self._ask())
            if not counting.called:
                self._counting = counting
        if self._counting is not None:
            with suppress(Overrun):
                await within(self._clock, PATIENCE, self._counting, "")

    async def _ask(self) -> None:
        try:
            stats = await self._count()
        except Refused as refused:  # the database is away
            self._log.debug("The jobs could not be counted: {reason}", reason=refused.reason)
        except Exception:
            self._log.failure("The jobs could not be counted")
        else:
            self._queues, self._counted_at = stats.queues, self._clock.seconds()
        self._counting = None

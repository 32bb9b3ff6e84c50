"""Waiting for a piece of work no longer than so many seconds."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ledger.services.child import Clock

_log = Logger()


class Overrun(Exception):
    """A piece of work took longer than its deadline."""


def within(clock: Clock, seconds: float, work: Deferred[None], complaint: str) -> Deferred[None]:
    """A Deferred that ends as `work` does, or with Overrun after so many seconds, `work` itself going on."""
    mirror: Deferred[None] = Deferred()

    def overrun() -> None:
        if not mirror.called:
            mirror.errback(Overrun(complaint))

    timer = clock.callLater(seconds, overrun)

    def ended(result: Failure | None) -> None:
        if timer.active():
            timer.cancel()
        if not mirror.called:
            mirror.callback(result)
        elif isinstance(result, Failure) and not isinstance(result.value, CancelledError):
            _log.failure("failed when nobody waited any more", result)

    work.addBoth(ended)
    return mirror

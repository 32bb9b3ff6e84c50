"""What a test must not leave behind: things the reactor still holds, and failures that only the log has seen."""

from __future__ import annotations

import gc
import time
from typing import Any

import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import LogEvent, LogLevel, formatEvent
from twisted.logger import globalLogPublisher as _publisher

PATIENCE = 2.0

reactor: Any = _reactor
publisher: Any = _publisher


class LoggedErrors:
    """The errors logged since the last call; calling it returns and forgets them, of the given exception types only."""

    def __init__(self) -> None:
        self._events: list[LogEvent] = []

    def observe(self, event: LogEvent) -> None:
        """Keep an event if it is critical or comes from `log.err`."""
        heading = "log_failure" not in event and str(event.get("log_format")).startswith("Unhandled error in Deferred")
        if heading:  # the failure follows as an event of its own
            return
        if event.get("log_level") is LogLevel.critical or event.get("isError"):
            self._events.append(event)

    def forget(self) -> None:
        """Drop what was logged, but not what is still to be found."""
        self._events.clear()

    def __call__(self, *types: type[BaseException]) -> list[LogEvent]:
        """The errors so far, lost Deferreds' included, or those whose failure is of one of the types."""
        gc.collect()
        taken = [event for event in self._events if not types or _is_of(event, types)]
        self._events = [event for event in self._events if event not in taken]
        return taken


def describe(event: LogEvent) -> str:
    """An event as text, with its traceback."""
    failure = event.get("log_failure")
    return formatEvent(event) + (f"\n{failure.getTraceback()}" if failure is not None else "")


class ReactorWatch:
    """Compares what the reactor holds with what it held at first."""

    def __init__(self) -> None:
        self._before = _held()

    def leftovers(self) -> list[Any]:
        """What was added and is still there after things had a while to come to their end by themselves."""
        deadline = time.monotonic() + PATIENCE
        while (left := self._left()) and time.monotonic() < deadline:
            turned: Deferred[None] = Deferred()
            reactor.callLater(0.01, turned.callback, None)
            pytest_twisted.blockon(turned)
        return left

    def _left(self) -> list[Any]:
        return [thing for thing in _held() if not any(thing is known for known in self._before)]


def discard(leftover: Any) -> None:
    """Take it away from the reactor, so that the next test does not suffer from it."""
    if hasattr(leftover, "cancel"):
        leftover.cancel()
    elif IReadDescriptor.providedBy(leftover) and hasattr(leftover, "stopListening"):
        leftover.stopListening()
    else:
        reactor.removeReader(leftover)
        reactor.removeWriter(leftover)


def _held() -> list[Any]:
    internal = getattr(reactor, "_internalReaders", ())
    selectables = {id(thing): thing for thing in (*reactor.getReaders(), *reactor.getWriters())}
    return [*reactor.getDelayedCalls(), *(thing for thing in selectables.values() if thing not in internal)]


def _is_of(event: LogEvent, types: tuple[type[BaseException], ...]) -> bool:
    failure = event.get("log_failure")
    return failure is not None and failure.check(*types) is not None


def start_observing() -> LoggedErrors:
    """Begin to collect errors."""
    errors = LoggedErrors()
    publisher.addObserver(errors.observe)
    return errors


def stop_observing(errors: LoggedErrors) -> None:
    """End it."""
    publisher.removeObserver(errors.observe)

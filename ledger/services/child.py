"""One supervised child of the service tree: what every long-lived part of the server is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import msgspec
from twisted.application.service import Service
from twisted.logger import Logger
from twisted.python.failure import Failure


class Clock(Protocol):
    """The part of a reactor that tells the time: a reactor, or `twisted.internet.task.Clock`."""

    def seconds(self) -> float: ...
    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...


State = Literal["stopped", "starting", "running", "backing_off", "stopping", "failed"]


class ChildStatus(msgspec.Struct, frozen=True):
    """How one child does: its state, since when (the clock's seconds), and its history."""

    name: str
    state: State
    restarts: int
    last_failure: str | None
    since: float


class Child(Service):
    """A part of the server that a `Ladder` starts, watches, restarts and stops through `start`, `stop` and `fail`."""

    name: str
    leans_on: tuple[str, ...] = ()  # children that must run for this one to work; names not in the tree are ignored
    start_deadline: float = 60.0
    stop_deadline: float = 10.0

    _log = Logger()
    _watcher: Callable[[Failure], None] | None = None

    async def start(self) -> None:
        """Return when ready for use, or raise; may be cancelled, and whatever it has taken by then, `stop` releases."""

    async def stop(self) -> None:
        """Release everything; harmless after a start that failed, and when nothing was started."""

    def fail(self, reason: Failure) -> None:
        """Report that this child died by itself; only the first report between a start and its stop counts."""
        watcher, self._watcher = self._watcher, None
        if watcher is None:
            self._log.debug("{child}: nobody waits for {reason}", child=self.name, reason=reason.getErrorMessage())
        else:
            watcher(reason)

    def watched_by(self, watcher: Callable[[Failure], None] | None) -> None:
        """Begin a life whose failure goes to `watcher`, or end the present one with None; for the supervisor."""
        self._watcher = watcher

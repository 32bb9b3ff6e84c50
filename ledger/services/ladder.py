"""The service tree as twistd sees it: climbed rung by rung at start, descended in reverse at stop."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from ledger.services.child import Child, ChildStatus, Clock
from ledger.services.failures import explains_itself, log_failure, summary
from ledger.services.supervisor import RestartPolicy, Supervisor


class Reactor(Clock, Protocol):
    """What a ladder needs of a reactor besides the time."""

    def callWhenRunning(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...


class StoppableReactor(Protocol):
    """What ending the process needs of a reactor."""

    def stop(self) -> Any: ...


class Ladder(MultiService):
    """Children added bottom first: started in order once the reactor runs, supervised, and stopped top first.

    When a child cannot start at boot, or is beyond repair later, all others are stopped and `end(1)` is called, which
    is to end the process: `partial(end_process, reactor)`. A ladder is climbed once.
    """

    _log = Logger()
    log_observer: ILogObserver | None = None

    def __init__(
        self,
        reactor: Reactor,
        random: Callable[[], float],
        end: Callable[[int], None],
        policy: RestartPolicy = RestartPolicy(),  # noqa: B008
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reactor = reactor
        self._end = end
        self._supervisor = Supervisor(reactor, random, self._escalate, policy)
        self._stopped: Deferred[None] | None = None
        self._up = False
        self._on_started: list[Callable[[], None]] = []

    def setServiceParent(self, parent: Any) -> None:
        """Join twistd's application, which is where twistd looks for a log observer."""
        if self.log_observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self.log_observer)  # type: ignore[no-untyped-call]
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def addService(self, service: Child) -> None:
        """Put a child above those that are there; only before the start."""
        if not isinstance(service, Child):
            raise TypeError(f"{service!r} is no Child")
        if self.running:
            raise RuntimeError(f"{service.name} comes too late: the ladder is being climbed")
        super().addService(service)  # type: ignore[no-untyped-call]
        self._supervisor.add(service)

    def removeService(self, service: Child) -> None:
        """Refuse: a rung cannot be taken out."""
        raise RuntimeError(f"{service.name} cannot be removed from the ladder")

    def startService(self) -> None:
        """Begin the start of all children, as soon as the reactor runs."""
        # Not MultiService's own: the supervisor starts the children.
        Service.startService(self)  # type: ignore[no-untyped-call]
        self._reactor.callWhenRunning(self._climb)

    def stopService(self) -> Deferred[None]:
        """Stop all children, top first; fires when they have stopped, or overrun their deadlines."""
        Service.stopService(self)  # type: ignore[no-untyped-call]
        if self._stopped is None:
            stopped = Deferred.fromCoroutine(self._supervisor.stop())
            self._stopped = stopped.addErrback(lambda bug: self._log.failure("the stop itself failed", bug))
        answer: Deferred[None] = Deferred()
        self._stopped.addBoth(answer.callback)
        return answer

    def on_started(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when all children run for the first time: now, if they have already."""
        if self._up:
            callback()
        else:
            self._on_started.append(callback)

    def status(self) -> list[ChildStatus]:
        """How every child does, bottom first."""
        return self._supervisor.status()

    def _climb(self) -> None:
        if self.running and self._stopped is None:
            self._supervisor.start(self._all_up)

    def _all_up(self) -> None:
        self._up = True
        callbacks, self._on_started = self._on_started, []
        for callback in callbacks:
            try:
                callback()
            except Exception:
                self._log.failure("a callback failed after the start")

    def _escalate(self, child: str, failure: Failure) -> None:
        if self._stopped is not None:
            return
        if not explains_itself(failure):
            log_failure(child, failure)
        what = "failed too often" if self._up else "cannot start"
        self._log.critical(
            "{child} {what}, the process ends: {reason}", child=child, what=what, reason=summary(failure)
        )
        self.stopService().addCallback(lambda _: self._end(1))


def end_process(reactor: StoppableReactor, code: int, grace: float = 15.0) -> None:
    """Stop the reactor and have the process exit with `code`: when twistd has tidied up, at the latest after `grace`.

    twistd gives no way to say this. It runs `reactor.run()`, swallows whatever that raises (SystemExit too), removes
    its pid file, closes its log, and returns, which is exit code 0. The first place after all that is an exit handler,
    where only `os._exit` still changes the code. The last one registered runs first, so only handlers registered
    before this call are passed over; output is flushed here.

    The watchdog is for a thread that does not come back: the interpreter would wait for it for ever, and nobody
    would see that the server is gone.

    Without this call, a stop by SIGTERM or SIGINT ends in order and twistd then kills itself with that very signal:
    `-15` to a parent, 143 in a shell, a clean stop to systemd. That stands even if the signal comes during this.
    """

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(code)

    atexit.register(leave)
    watchdog = threading.Timer(grace, leave)
    watchdog.daemon = True
    watchdog.start()
    with suppress(ReactorNotRunning):
        reactor.stop()

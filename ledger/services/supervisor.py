"""Starts the children of the service tree in order, restarts those that fail, and stops all of them in reverse."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ledger.services.child import Child, ChildStatus, Clock, State
from ledger.services.deadline import Overrun, within
from ledger.services.failures import log_failure, summary

_log = Logger()


@dataclass(frozen=True)
class RestartPolicy:
    """Over `restarts` in `within` seconds, or in a row without running `settled` seconds, are too many."""

    restarts: int = 5
    within: float = 60.0
    settled: float = 10.0
    shortest: float = 0.1
    longest: float = 10.0

    def delay(self, failures: int, chance: float) -> float:
        """The pause after this many failures in a row, `chance` (0 to 1) spreading it over a factor of two."""
        return float(min(self.shortest * 2.0 ** min(failures - 1, 32), self.longest / 2) * (1 + chance))


class _Interrupted(Exception):
    """A start is no longer wanted."""


@dataclass
class _Watch:
    child: Child
    since: float
    state: State = "stopped"
    up: bool = False  # start() was called, and stop() has not been since
    proven: bool = False  # has run at least once
    failure: Failure | None = None  # of this life, not dealt with yet
    last_failure: str | None = None
    restarts: int = 0
    in_a_row: int = 0
    hopeless: bool = False
    due: float = 0.0
    recent: deque[float] = field(default_factory=deque)


class Supervisor:
    """Keeps all its children running, one change at a time, until `stop`, or `escalate` when one is beyond repair."""

    def __init__(
        self,
        clock: Clock,
        random: Callable[[], float],
        escalate: Callable[[str, Failure], None],
        policy: RestartPolicy,
    ) -> None:
        self._clock = clock
        self._random = random
        self._escalate = escalate
        self._policy = policy
        self._watches: dict[str, _Watch] = {}
        self._wanted = False
        self._running: Deferred[None] | None = None
        self._all_up: Callable[[], None] | None = None
        self._pause: Deferred[None] | None = None
        self._attempt: tuple[_Watch, Deferred[None]] | None = None

    def add(self, child: Child) -> None:
        """Put `child` above those added before; none of those may lean on it."""
        for watch in self._watches.values():
            if child.name in watch.child.leans_on:
                raise ValueError(f"{watch.child.name} leans on {child.name}, which must be added before it")
        self._watches[child.name] = _Watch(child, self._clock.seconds())

    def status(self) -> list[ChildStatus]:
        """How every child does, bottom first."""
        return [
            ChildStatus(name, watch.state, watch.restarts, watch.last_failure, watch.since)
            for name, watch in self._watches.items()
        ]

    def start(self, all_up: Callable[[], None]) -> None:
        """Begin; `all_up` is called when all children run for the first time."""
        if self._wanted:
            return
        self._wanted = True
        self._all_up = all_up
        self._running = Deferred.fromCoroutine(self._run()).addErrback(lambda bug: self._escalate("supervisor", bug))

    async def stop(self) -> None:
        """Stop all children, top first, each within its deadline; none starts again."""
        self._wanted = False
        if self._running is not None:
            self._clock.callLater(0, self._look_up)
            await self._running
        for watch in reversed(self._watches.values()):
            final: State = "failed" if watch.hopeless else "stopped"
            if watch.up:
                await self._take_down(watch, final)
            elif watch.state != final:
                self._enter(watch, final)

    async def _run(self) -> None:
        while self._wanted:
            if (watch := next((w for w in self._watches.values() if w.failure is not None), None)) is not None:
                if not await self._repair(watch):
                    return
            elif (watch := self._next_to_start()) is not None:
                await self._bring_up(watch)
            else:
                if self._all_up is not None and all(w.state == "running" for w in self._watches.values()):
                    all_up, self._all_up = self._all_up, None
                    all_up()
                await self._sleep()

    def _next_to_start(self) -> _Watch | None:
        down = [watch for watch in self._watches.values() if watch.state != "running"]
        for watch in down:
            in_order = watch.proven or watch is down[0]  # the first climb takes one rung after the other
            if in_order and watch.due <= self._clock.seconds() and self._supported(watch):
                return watch
        return None

    async def _bring_up(self, watch: _Watch) -> None:
        child = watch.child
        if watch.proven:
            watch.restarts += 1
        watch.up = True
        self._enter(watch, "starting")
        child.watched_by(lambda reason: self._died(watch, reason))
        work = Deferred.fromCoroutine(child.start())
        seconds = child.start_deadline
        attempt = within(self._clock, seconds, work, f"{child.name} was not ready within {seconds:g} s")
        self._attempt = (watch, attempt)
        try:
            await attempt
        except _Interrupted:
            pass
        except Exception:
            self._record(watch, Failure())  # type: ignore[no-untyped-call]
        else:
            if watch.failure is None:
                watch.proven = True
                child.startService()  # type: ignore[no-untyped-call]
                self._enter(watch, "running")
            return
        finally:
            self._attempt = None
        work.cancel()
        with suppress(Overrun):
            await within(self._clock, child.stop_deadline, work, "")
        # Without a failure of its own it is not to blame: it is taken down with what it leans on, or by stop().

    async def _repair(self, watch: _Watch) -> bool:
        """Take down a failed child and all that leans on it, to be started again; False if that is hopeless."""
        policy, now, failure = self._policy, self._clock.seconds(), watch.failure
        assert failure is not None
        watch.in_a_row += 1
        watch.recent.append(now)
        while watch.recent[0] <= now - policy.within:
            watch.recent.popleft()
        self._enter(watch, "failed")
        if not watch.proven or max(len(watch.recent), watch.in_a_row) > policy.restarts:
            watch.hopeless = True
            self._clock.callLater(0, self._escalate, watch.child.name, failure)
            return False
        log_failure(watch.child.name, failure)
        for above in reversed(list(self._leaning_on(watch))):
            if above.up and self._wanted:
                await self._take_down(above, "stopped")
        if self._wanted:
            await self._take_down(watch, "backing_off")
            pause = policy.delay(watch.in_a_row, self._random())
            watch.due = self._clock.seconds() + pause
            _log.info("{child} starts again in {pause:.2f} s", child=watch.child.name, pause=pause)
        return True

    async def _take_down(self, watch: _Watch, then: State) -> None:
        child = watch.child
        child.watched_by(None)
        child.stopService()  # type: ignore[no-untyped-call]
        self._enter(watch, "stopping")
        try:
            work = Deferred.fromCoroutine(child.stop())
            seconds = child.stop_deadline
            await within(self._clock, seconds, work, f"{child.name} did not stop within {seconds:g} s")
        except Overrun as overrun:
            _log.error("{overrun}: left behind", child=child.name, overrun=overrun)
        except Exception:
            _log.failure("{child} failed to stop cleanly", child=child.name)
        watch.up = False
        watch.failure = None
        self._enter(watch, then)

    def _supported(self, watch: _Watch) -> bool:
        below = (self._watches.get(name) for name in watch.child.leans_on)
        return all(other is None or (other.state == "running" and other.failure is None) for other in below)

    def _leaning_on(self, watch: _Watch) -> Iterator[_Watch]:
        names = {watch.child.name}
        for other in self._watches.values():
            if names.intersection(other.child.leans_on):
                names.add(other.child.name)
                yield other

    def _enter(self, watch: _Watch, state: State) -> None:
        watch.state = state
        watch.since = self._clock.seconds()
        _log.debug("{child} is {state}", child=watch.child.name, state=state)

    def _record(self, watch: _Watch, failure: Failure) -> None:
        if watch.failure is None:
            watch.failure = failure
            watch.last_failure = summary(failure)

    def _died(self, watch: _Watch, reason: Failure) -> None:
        if watch.state == "running":
            if self._clock.seconds() - watch.since >= self._policy.settled:
                watch.in_a_row = 0
            self._enter(watch, "failed")
        self._record(watch, reason)
        # Not from within the child's own call: it may be in the middle of something that stop() would pull away.
        self._clock.callLater(0, self._look_up)

    def _look_up(self) -> None:
        """Wake the loop from its pause, or out of a start that makes no sense any more."""
        if self._pause is not None:
            pause, self._pause = self._pause, None
            pause.callback(None)
        if self._attempt is not None:
            watch, attempt = self._attempt
            if not attempt.called and not (self._wanted and watch.failure is None and self._supported(watch)):
                attempt.errback(_Interrupted())

    async def _sleep(self) -> None:
        now = self._clock.seconds()
        dues = [watch.due for watch in self._watches.values() if watch.state == "backing_off" and watch.due > now]
        self._pause = Deferred()
        call = self._clock.callLater(min(dues) - now, self._look_up) if dues else None
        await self._pause
        if call is not None and call.active():
            call.cancel()

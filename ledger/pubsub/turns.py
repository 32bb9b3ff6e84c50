"""Shares the reactor among many pieces of work, a few milliseconds at a time."""

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.logger import Logger

_log = Logger()

_BUDGET: Final = 0.002
_MOST: Final = 64  # steps in a row, for clocks that stand still


class Timer(Protocol):
    """A delayed call."""

    def active(self) -> bool: ...
    def cancel(self) -> None: ...


class Clock(Protocol):
    """The part of a reactor that tells the time."""

    def seconds(self) -> float: ...
    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...


class Turns:
    """Runs steps in the order they were added, as many as fit into two milliseconds of each turn of the reactor."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._steps: deque[Callable[[], None]] = deque()
        self._timer: Timer | None = None

    def add(self, step: Callable[[], None]) -> None:
        """Run `step` soon, after those that wait already; it should take well under a millisecond."""
        self._steps.append(step)
        if self._timer is None:
            self._timer = self._clock.callLater(0, self._run)

    def _run(self) -> None:
        deadline = self._clock.seconds() + _BUDGET
        for _ in range(_MOST):
            step = self._steps.popleft()
            try:
                step()
            except Exception:
                _log.failure("a step failed")
            if not self._steps or self._clock.seconds() >= deadline:
                break
        self._timer = self._clock.callLater(0, self._run) if self._steps else None

"""A circuit breaker: after enough failures in a row nothing is tried for a while, then one trial decides."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

FAILURES: Final = 5
PAUSE: Final = 30.0

Position = Literal["closed", "open", "half_open"]


class Breaker(msgspec.Struct, frozen=True):
    """The state of a breaker; every change gives a new one, and what began before the last change of position is void.

    Whoever is let through takes `era` along, and tells it with the result.
    """

    most: int = FAILURES
    pause: float = PAUSE
    failures: int = 0  # in a row
    opened_at: float | None = None
    on_trial: bool = False
    era: int = 0

    def position(self, now: float) -> Position:
        """Tell how it stands at an instant."""
        if self.opened_at is None:
            return "closed"
        return "half_open" if self.on_trial or now >= self.opened_at + self.pause else "open"

    def wait(self, now: float) -> float:
        """Return for how many seconds nobody is let through; 0 where somebody may be."""
        if self.opened_at is None:
            return 0.0
        return max(0.0, self.opened_at + self.pause - now)

    def admit(self, now: float) -> Breaker | None:
        """Return the breaker after letting one through, or None where nobody is let through."""
        if self.opened_at is None:
            return self
        if self.on_trial or now < self.opened_at + self.pause:
            return None
        return msgspec.structs.replace(self, on_trial=True, era=self.era + 1)

    def succeeded(self, era: int) -> Breaker:
        """Return the breaker after a success of somebody let through in that era."""
        if era != self.era or (self.opened_at is None and not self.failures):
            return self
        return Breaker(self.most, self.pause, era=self.era + (self.opened_at is not None))

    def failed(self, era: int, now: float) -> Breaker:
        """Return the breaker after a failure of somebody let through in that era."""
        if era != self.era:
            return self
        failures = self.failures + 1
        if not self.on_trial and failures < self.most:
            return msgspec.structs.replace(self, failures=failures)
        return Breaker(self.most, self.pause, failures, now, era=self.era + 1)

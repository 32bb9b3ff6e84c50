"""When something that was refused is tried again: as often as its category allows, ever later, spread by chance."""

from typing import Final

import msgspec

from ledger.domain.errors import Category, Refused

_SPREAD: Final = 0.5  # of the delay, at most, is added by chance
_LONGEST: Final = 300.0


class RetryPolicy(msgspec.Struct, frozen=True):
    """So many tries after the first; the first delay in seconds, which doubles with every try up to the longest."""

    retries: int
    first: float
    longest: float = _LONGEST

    def delay(self, attempt: int, chance: float) -> float | None:
        """Return the pause after this attempt (from 1) failed, or None when there is to be no other."""
        if attempt > self.retries:
            return None
        return backoff(self.first, self.longest, attempt, chance)


def backoff(first: float, longest: float, attempt: int, chance: float) -> float:
    """Return a delay that doubles with every attempt (from 1); `chance` (0 to 1) adds up to half of it."""
    return float(min(first * 2.0 ** min(attempt - 1, 64), longest) * (1 + _SPREAD * chance))


def policy_of(category: Category) -> RetryPolicy:
    """Return how often, and after which delays, the catalogue has this category tried again."""
    return RetryPolicy(category.retries, category.delay_ms / 1000)


def delay_after(refused: Refused, attempt: int, chance: float) -> float | None:
    """Return the pause before the next try; never shorter than what the refusal itself asks for."""
    delay = policy_of(refused.category).delay(attempt, chance)
    if delay is None:
        return None
    asked = refused.details.get("retry_after")
    return max(delay, min(float(asked), _LONGEST)) if isinstance(asked, int | float) else delay

"""When a batch may be decided on what the one before leaves, with the database still to be asked; and at what time."""

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from ledger.domain.periods import instant_of

_TRUSTED: Final = 5.0  # seconds for which this process's clock is taken for the database's
_DRIFT: Final = 0.0002  # by how much of a time two clocks may part in it; where it is more, a guess is mistaken
_COMPARED: Final = 8  # the last comparisons; in the best of them the answer was the least delayed
_FIRST_REST, _LONGEST_REST = 16, 1_024  # batches


class Mistaken(Exception):
    """A batch was decided on what is not so: nothing of it is kept, and it is to be decided on what is read."""


class Guesses:
    """The database's clock by this process's, and a rest for guessing where it goes wrong."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        # When the database's clock was read, and how far this process's was behind it, a little more.
        self._compared: deque[tuple[float, float]] = deque(maxlen=_COMPARED)
        self._left = 0
        self._rest = _FIRST_REST

    def read(self, instant: str) -> None:
        """Learn what the database's clock has just shown; a batch was read, not guessed."""
        now = self._seconds()
        self._compared.append((now, datetime.fromisoformat(instant).timestamp() - now))
        self._left = max(self._left - 1, 0)

    def instant(self) -> str | None:
        """Return the database's time, or a little less, in the form of records; None where the next batch must ask."""
        now = self._seconds()
        if self._left or not self._compared or not 0 <= now - self._compared[-1][0] <= _TRUSTED:
            return None
        behind = max(behind - _DRIFT * (now - read_at) for read_at, behind in self._compared)
        return instant_of(datetime.fromtimestamp(now + behind, UTC))

    def kept(self) -> None:
        """Learn that a guess was right."""
        self._rest = _FIRST_REST

    def mistaken(self) -> None:
        """Learn that a guess was wrong: the next batches are read, more of them each time."""
        self._left, self._rest = self._rest, min(2 * self._rest, _LONGEST_REST)
        self._compared.clear()

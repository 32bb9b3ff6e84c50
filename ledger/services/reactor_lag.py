"""How late the reactor is: the one number that tells of everything that held it up."""

from __future__ import annotations

from typing import Any, Final

from ledger.services.child import Child, Clock
from ledger.services.tally import Tally

EVERY: Final = 0.25
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class ReactorLag(Child):
    """Has itself called again and again, and counts how late that happens."""

    name = "reactor lag"

    def __init__(self, clock: Clock) -> None:
        self.seconds = Tally(SECONDS)
        self._clock = clock
        self._call: Any = None

    async def start(self) -> None:
        """Begin to measure."""
        self._wait()

    async def stop(self) -> None:
        """Measure no more."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _wait(self) -> None:
        due = self._clock.seconds() + EVERY
        self._call = self._clock.callLater(EVERY, self._beat, due)

    def _beat(self, due: float) -> None:
        self.seconds.add(max(0.0, self._clock.seconds() - due))  # the clock may have been set back
        self._wait()

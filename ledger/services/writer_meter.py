"""What the writer counts of its batches, and what waits before it, for whoever watches."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from ledger.services.bundles import Bundles
from ledger.services.lanes import Lanes
from ledger.services.replies import Replies
from ledger.services.tally import Tally

SIZES: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_000)
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Standing(NamedTuple):
    """What waits at a moment."""

    lanes: int
    commands: int
    deepest: int
    bundles: int
    bundled: int
    replies: int
    replied: int
    away: bool


class WriterMeter:
    """Plain numbers, changed once a batch."""

    def __init__(self, lanes: Lanes[Any], bundles: Bundles, replies: Replies, is_away: Callable[[], bool]) -> None:
        self.sizes = Tally(SIZES)
        self.seconds = Tally(SECONDS)
        self.records = 0
        self.turned_away = 0
        self.losses = 0
        self.guessed = 0
        self.mistaken = 0
        self._lanes = lanes
        self._bundles = bundles
        self._replies = replies
        self._is_away = is_away

    def batch(self, commands: int, seconds: float) -> None:
        """Count a batch that was worked on."""
        self.sizes.add(commands)
        self.seconds.add(seconds)

    def standing(self) -> Standing:
        """Look at what waits."""
        lanes, bundles, replies = self._lanes, self._bundles, self._replies
        return Standing(
            lanes.lanes,
            len(lanes),
            lanes.deepest,
            len(bundles),
            bundles.commands,
            replies.waiting,
            replies.given,
            self._is_away(),
        )

"""Bundles: many commands of one request, which wait for their turn beside the lanes and are answered together."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from twisted.internet.defer import Deferred

from ledger.domain.commands import Command, Reply
from ledger.services.lanes import LaneFull
from ledger.services.replies import Waiting

_MOST: Final = 256
_ANSWERING: Final = 16.0  # the effort of answering for hundreds, in answers


class Share(Waiting):
    """Commands of a bundle that stand next to each other, and come into the same batch."""

    __slots__ = ("_bundle", "_start", "is_answered", "is_whole")

    def __init__(self, bundle: "Bundle", start: int, end: int, weight: int, tries: int = 0) -> None:
        self.commands = bundle.commands[start:end]
        self.weight = weight
        self._bundle = bundle
        self.is_whole = bundle.is_whole
        self.is_answered = bundle.is_answered
        self.finished = False
        self.tries = tries
        self._start = start

    @property
    def effort(self) -> float:  # type: ignore[override]
        """To note outcomes is next to nothing, until none is missing any more."""
        return _ANSWERING if self._bundle.missing <= len(self.commands) else 1.0

    def tell(self, outcomes: Sequence[Reply]) -> None:
        """Leave the outcomes with the bundle."""
        self._bundle.tell(self._start, outcomes)

    def parted(self, place: int) -> "tuple[Share, Share]":
        """Return the first so many, and the rest."""
        middle = self._start + place
        end = self._start + len(self.commands)
        before = sum(command.weight for command in self.commands[:place])
        return (
            Share(self._bundle, self._start, middle, before, self.tries),
            Share(self._bundle, middle, end, self.weight - before, self.tries),
        )


class Bundle:
    """Commands in their order; `answer` fires with their outcomes. Those of a whole stand or fall together."""

    __slots__ = ("_outcomes", "_taken", "answer", "commands", "is_answered", "is_whole", "missing", "weight")

    def __init__(self, commands: Sequence[Command], is_whole: bool, is_answered: bool = False) -> None:
        self.commands = commands
        self.is_whole = is_whole
        self.is_answered = is_answered
        self.weight = sum(command.weight for command in commands)  # of those that wait
        self.answer: Deferred[list[Reply]] = Deferred()
        self.missing = len(commands)  # of the outcomes
        self._taken = 0
        self._outcomes: dict[int, Sequence[Reply]] = {}

    @property
    def waiting(self) -> int:
        """How many have not been taken."""
        return len(self.commands) - self._taken

    @property
    def least(self) -> int:
        """The weight of the least that can be taken."""
        return self.weight if self.is_whole else self.commands[self._taken].weight

    def take(self, limit: int) -> Share:
        """Take the first of those that wait, as many as are no heavier than the limit, one at least; a whole whole."""
        start, weight = self._taken, self.weight
        if self.is_whole or weight <= limit:
            self._taken = len(self.commands)
        else:
            weight = 0
            for command in self.commands[start:]:
                if weight and weight + command.weight > limit:
                    break
                weight += command.weight
                self._taken += 1
        self.weight -= weight
        return Share(self, start, self._taken, weight)

    def tell(self, start: int, outcomes: Sequence[Reply]) -> None:
        """Take the outcomes of some; the last ones answer for all."""
        self._outcomes[start] = outcomes
        self.missing -= len(outcomes)
        if not self.missing:
            self.answer.callback([one for _, some in sorted(self._outcomes.items()) for one in some])


class Bundles:
    """Bundles that wait, first in, first out."""

    def __init__(self) -> None:
        self._waiting: deque[Bundle] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def commands(self) -> int:
        """How many commands are in them."""
        return sum(bundle.waiting for bundle in self._waiting)

    def put(self, bundle: Bundle) -> None:
        """Queue a bundle, or raise `LaneFull`."""
        if len(self._waiting) >= _MOST:
            raise LaneFull("bundles")
        self._waiting.append(bundle)

    @property
    def least(self) -> int:
        """The weight of the least that can be taken, where anything waits."""
        return self._waiting[0].least

    def take(self, limit: int) -> list[Share]:
        """Take as many as are no heavier than the limit, and one at least; what is left of a bundle stays in front."""
        taken: list[Share] = []
        while self._waiting and (not taken or self.least <= limit):
            bundle = self._waiting[0]
            taken.append(bundle.take(limit))
            limit -= taken[-1].weight
            if not bundle.waiting:
                self._waiting.popleft()
        return taken

    def drain(self) -> Iterator[Share]:
        """Take everything."""
        while self._waiting:
            bundle = self._waiting.popleft()
            yield bundle.take(bundle.weight)

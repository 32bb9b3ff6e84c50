"""Bundles: many commands of one request, which wait for their turn beside the lanes and are answered together."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from twisted.internet.defer import Deferred

from ledger.domain.commands import Command, Outcome
from ledger.services.lanes import LaneFull
from ledger.services.replies import Waiting

_MOST: Final = 256
_NOTING, _ANSWERING = 1 / 8, 16.0  # efforts, in answers: to note an outcome, and to answer for hundreds


class Member(Waiting):
    """One command of a bundle."""

    __slots__ = ("bundle", "effort", "index")

    def __init__(self, command: Command, bundle: "Bundle", index: int, effort: float) -> None:
        self.command = command
        self.bundle = bundle
        self.index = index
        self.effort = effort
        self.finished = False
        self.tries = 0

    @property
    def tells_of_trouble(self) -> bool:  # type: ignore[override]
        """One of a whole speaks for all."""
        return not (self.bundle.is_whole and self.index)

    def tell(self, outcome: Outcome) -> None:
        """Leave the outcome with the bundle."""
        self.bundle.tell(self.index, outcome)


class Bundle:
    """Commands in their order; `answer` fires with their outcomes. Those of a whole stand or fall together."""

    __slots__ = ("_outcomes", "answer", "is_whole", "size", "waiting", "weight")

    def __init__(self, commands: Sequence[Command], is_whole: bool) -> None:
        last = len(commands) - 1
        self.waiting: deque[Waiting] = deque(
            Member(command, self, index, _ANSWERING if index == last else _NOTING)
            for index, command in enumerate(commands)
        )
        self.is_whole = is_whole
        self.weight = sum(command.weight for command in commands)  # of those that wait
        self.answer: Deferred[list[Outcome]] = Deferred()
        self.size = len(commands)
        self._outcomes: dict[int, Outcome] = {}

    def take(self, limit: int) -> list[Waiting]:
        """Take the first of those that wait, as many as are no heavier than the limit, one at least; a whole whole."""
        if self.is_whole or self.weight <= limit:
            taken, self.waiting, self.weight = list(self.waiting), deque(), 0
            return taken
        taken = []
        while not taken or (self.waiting and self.waiting[0].command.weight <= limit):
            one = self.waiting.popleft()
            taken.append(one)
            limit -= one.command.weight
            self.weight -= one.command.weight
        return taken

    @property
    def least(self) -> int:
        """The weight of the least that can be taken."""
        return self.weight if self.is_whole else self.waiting[0].command.weight

    def tell(self, index: int, outcome: Outcome) -> None:
        """Take the outcome of one; the last one answers for all."""
        self._outcomes[index] = outcome
        if len(self._outcomes) == self.size:
            self.answer.callback([self._outcomes[place] for place in range(self.size)])


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
        return sum(len(bundle.waiting) for bundle in self._waiting)

    def put(self, bundle: Bundle) -> None:
        """Queue a bundle, or raise `LaneFull`."""
        if len(self._waiting) >= _MOST:
            raise LaneFull("bundles")
        self._waiting.append(bundle)

    def take(self, limit: int) -> list[Waiting]:
        """Take as many as are no heavier than the limit, and one at least; what is left of a bundle stays in front."""
        taken: list[Waiting] = []
        while self._waiting and (not taken or self._waiting[0].least <= limit):
            bundle = self._waiting[0]
            before = bundle.weight
            taken += bundle.take(limit)
            limit -= before - bundle.weight
            if not bundle.waiting:
                self._waiting.popleft()
        return taken

    def drain(self) -> Iterator[Waiting]:
        """Take everything."""
        while self._waiting:
            yield from self._waiting.popleft().waiting

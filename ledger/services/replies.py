"""Answering those who wait for an outcome: each once, each on its own, in slices between which the reactor turns."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ledger.domain.commands import Answered, Command, Replayed, Reply, Sealed
from ledger.domain.errors import Refused

log = Logger()

_A_TURN: Final = 32  # answers, each of them an HTTP response written: tens of microseconds each


class Waiting:
    """Who waits for the outcome of a command; or of some, as in a bundle."""

    __slots__ = ("answer", "commands", "finished", "tries", "weight")

    is_whole = False  # whether they stand or fall together
    is_answered = False  # whether those that are accepted become `Answered` when they are decided
    effort = 1.0  # of telling, in answers

    def __init__(self, command: Command) -> None:
        self.commands: Sequence[Command] = (command,)
        self.weight = command.weight
        self.answer: Deferred[Sealed | Replayed] = Deferred()
        self.finished = False
        self.tries = 0

    def tell(self, outcomes: Sequence[Reply]) -> None:
        """Answer whoever waits."""
        (outcome,) = outcomes
        assert not isinstance(outcome, Answered)  # it is for bundles
        if isinstance(outcome, Exception):
            self.answer.errback(outcome)
        else:
            self.answer.callback(outcome)

    def alike(self, outcome: Reply) -> "Told":
        """Have one outcome for all commands."""
        return self, [outcome] * len(self.commands)


Told = tuple[Waiting, Sequence[Reply]]


class Replies:
    """Outcomes on their way to those who wait."""

    def __init__(self, reactor: Any) -> None:
        self.given = 0
        self._reactor = reactor
        self._queue: deque[Told] = deque()
        self._quiet: Deferred[None] | None = None

    @property
    def waiting(self) -> int:
        """How many outcomes are on their way."""
        return sum(len(outcomes) for _, outcomes in self._queue)

    def give(self, outcomes: Iterable[Told]) -> None:
        """Answer soon; whoever has an outcome already keeps it."""
        idle = not self._queue
        self._queue.extend(outcomes)
        if idle and self._queue:
            self._reactor.callLater(0, self._some)

    async def quiet(self) -> None:
        """Return when everyone is answered."""
        if self._queue:
            if self._quiet is None:
                self._quiet = Deferred()
            await self._quiet

    def _some(self) -> None:
        queue, left = self._queue, float(_A_TURN)
        while queue and left > 0:
            waiting, outcomes = queue.popleft()
            self.given += len(outcomes)
            left -= waiting.effort
            if waiting.finished:
                continue
            waiting.finished = True
            try:
                _answer(waiting, outcomes)
            except Exception:
                log.failure("An answer could not be given")
        if queue:
            self._reactor.callLater(0, self._some)
        elif self._quiet is not None:
            quiet, self._quiet = self._quiet, None
            quiet.callback(None)


def _answer(waiting: Waiting, outcomes: Sequence[Reply]) -> None:
    for command, outcome in zip(waiting.commands, outcomes, strict=True):
        if isinstance(outcome, Exception) and not isinstance(outcome, Refused):
            log.failure("A {kind} broke", Failure(outcome), kind=command.kind)  # type: ignore[no-untyped-call]
            if waiting.is_whole:
                break  # one speaks for all
    waiting.tell(outcomes)

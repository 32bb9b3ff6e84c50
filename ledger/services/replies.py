"""Answering those who wait for an outcome: each once, each on its own, in slices between which the reactor turns."""

from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ledger.domain.commands import Command, Outcome, Replayed, Sealed
from ledger.domain.errors import Refused

log = Logger()

_A_TURN: Final = 32  # answers, each of them an HTTP response written: tens of microseconds each


class Waiting:
    """A command that stands in line, and who waits for its outcome."""

    __slots__ = ("answer", "command", "finished", "tries")

    tells_of_trouble = True  # whether the log hears of what broke
    effort = 1.0  # of telling, in answers

    def __init__(self, command: Command) -> None:
        self.command = command
        self.answer: Deferred[Sealed | Replayed] = Deferred()
        self.finished = False
        self.tries = 0

    def tell(self, outcome: Outcome) -> None:
        """Answer whoever waits."""
        if isinstance(outcome, Exception):
            self.answer.errback(outcome)
        else:
            self.answer.callback(outcome)


class Replies:
    """Outcomes on their way to those who wait."""

    def __init__(self, reactor: Any) -> None:
        self.given = 0
        self._reactor = reactor
        self._queue: deque[tuple[Waiting, Outcome]] = deque()
        self._quiet: Deferred[None] | None = None

    @property
    def waiting(self) -> int:
        """How many outcomes are on their way."""
        return len(self._queue)

    def give(self, outcomes: Iterable[tuple[Waiting, Outcome]]) -> None:
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
            waiting, outcome = queue.popleft()
            self.given += 1
            left -= waiting.effort
            if waiting.finished:
                continue
            waiting.finished = True
            try:
                _answer(waiting, outcome)
            except Exception:
                log.failure("An answer could not be given")
        if queue:
            self._reactor.callLater(0, self._some)
        elif self._quiet is not None:
            quiet, self._quiet = self._quiet, None
            quiet.callback(None)


def _answer(waiting: Waiting, outcome: Outcome) -> None:
    if isinstance(outcome, Exception) and not isinstance(outcome, Refused) and waiting.tells_of_trouble:
        log.failure("A {kind} broke", Failure(outcome), kind=waiting.command.kind)  # type: ignore[no-untyped-call]
    waiting.tell(outcome)

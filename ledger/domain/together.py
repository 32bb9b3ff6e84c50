"""Commands that belong together: all of them are accepted, or all were accepted before, or nothing is done."""

from collections.abc import Sequence

from ledger.domain.book import Book
from ledger.domain.commands import Command, Outcome, Replayed
from ledger.domain.errors import Refused


class Together:
    """The decision on commands that belong together, in as many steps as whoever has other things to do likes."""

    def __init__(self, book: Book, commands: Sequence[Command]) -> None:
        self.outcomes: list[Outcome] = []
        self._book = book
        self._commands = commands
        book.begin()

    def go_on(self, weight: int) -> bool:
        """Decide some more; return whether any are left. The first refusal is the outcome of every one of them."""
        for command in self._commands[len(self.outcomes) :]:
            if weight <= 0:
                return True
            weight -= command.weight
            outcome = self._book.decide(command)
            self.outcomes.append(outcome)
            refusal = self._refusal(outcome)
            if refusal is not None:
                self._book.end(keep=False)
                self.outcomes = [refusal] * len(self._commands)
                return False
        self._book.end(keep=True)
        return False

    def _refusal(self, outcome: Outcome) -> Exception | None:
        index = len(self.outcomes) - 1
        if isinstance(outcome, Refused):
            return Refused(outcome.reason, outcome.message, **{**outcome.details, "index": index})
        if isinstance(outcome, Exception):
            return outcome
        if isinstance(outcome, Replayed) is not isinstance(self.outcomes[0], Replayed):
            known = outcome if isinstance(outcome, Replayed) else self.outcomes[0]
            assert isinstance(known, Replayed)
            named = self._book.naming(known.record)
            message = "Some of these have been made already, and others have not" if named else "The key stands twice"
            return Refused("duplicate_transaction", message, **named, index=index)
        return None

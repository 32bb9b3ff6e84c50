"""A batch of commands, and the slices that it is decided in."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from ledger.domain.commands import Command, Outcome
from ledger.services.bundles import Share
from ledger.services.replies import Told, Waiting

_FIRST: Final = 64  # of a batch, by weight
_LARGEST: Final = 256
_SMALL: Final = 128


class Slice(NamedTuple):
    """Commands of a batch that are decided in one go; those of a whole stand or fall together."""

    commands: Sequence[Command]
    is_whole: bool = False


class Batch:
    """What is decided and kept together; shares of bundles stand behind all others."""

    __slots__ = ("commands", "waiting")

    def __init__(self, waiting: Sequence[Waiting]) -> None:
        self.waiting = list(waiting)
        self.commands = _commands(waiting)

    @property
    def weight(self) -> int:
        """How much work it is."""
        return sum(one.weight for one in self.waiting)

    @property
    def is_bundled(self) -> bool:
        """Whether there are shares of bundles in it."""
        return bool(self.waiting) and isinstance(self.waiting[-1], Share)

    def join(self, late: Sequence[Waiting]) -> None:
        """Take in some who came late, before all others."""
        self.waiting[:0] = late
        self.commands[:0] = _commands(late)

    def grow(self, more: "Batch") -> None:
        """Take in another, behind all others."""
        self.waiting += more.waiting
        self.commands += more.commands

    def told(self, outcomes: Sequence[Outcome]) -> Iterator[Told]:
        """Give each who waits his own of the outcomes of all commands."""
        place = 0
        for one in self.waiting:
            following = place + len(one.commands)
            yield one, outcomes[place:following]
            place = following

    def slices(self, *, small: bool = False) -> Iterator[Slice]:
        """Part the batch: while a slice is decided, the store is at work on the one before, so the first is small."""
        largest = _SMALL if small else _LARGEST
        start, size = 0, _FIRST if len(self.commands) > largest else largest
        for first, last in self._wholes():
            yield from _light(self.commands[start:first], size, largest)
            yield Slice(self.commands[first:last], True)
            start, size = last, largest
        yield from _light(self.commands[start:], size, largest)

    def halves(self) -> "tuple[Batch, Batch] | None":
        """Part the batch in two, if there is a place where it can be parted."""
        middle = len(self.commands) // 2
        for first, last in self._wholes():
            if first < middle < last:
                middle = first or last
        if middle in (0, len(self.commands)):
            return None
        before: list[Waiting] = []
        after: list[Waiting] = []
        for one in self.waiting:
            if isinstance(one, Share) and 0 < middle < len(one.commands):
                share, rest = one.parted(middle)
                before.append(share)
                after.append(rest)
            else:
                (before if middle > 0 else after).append(one)
            middle -= len(one.commands)
        return Batch(before), Batch(after)

    def _wholes(self) -> Iterator[tuple[int, int]]:
        """Return where the bundles stand that are not to be parted."""
        if not self.is_bundled:
            return
        start = 0
        for one in self.waiting:
            end = start + len(one.commands)
            if one.is_whole:
                yield start, end
            start = end


def _commands(waiting: Sequence[Waiting]) -> list[Command]:
    return [command for one in waiting for command in one.commands]


def _light(commands: Sequence[Command], size: int, largest: int) -> Iterator[Slice]:
    """Part commands into slices that weigh about so much, and then twice and four times as much."""
    start, weight = 0, 0
    for index, command in enumerate(commands):
        weight += command.weight
        if weight >= size:
            yield Slice(commands[start : index + 1])
            start, weight, size = index + 1, 0, min(2 * size, largest)
    if start < len(commands):
        yield Slice(commands[start:])

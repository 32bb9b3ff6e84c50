"""A batch of commands, and the slices that it is decided in."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from ledger.domain.commands import Command
from ledger.services.bundles import Member
from ledger.services.replies import Waiting

_FIRST: Final = 64  # of a batch, by weight
_LARGEST: Final = 256
_SMALL: Final = 128


class Slice(NamedTuple):
    """Commands of a batch that are decided in one go; those of a whole stand or fall together."""

    commands: Sequence[Command]
    is_whole: bool = False


class Batch:
    """What is decided and kept together; members of bundles stand behind all others."""

    __slots__ = ("commands", "waiting")

    def __init__(self, waiting: list[Waiting]) -> None:
        self.waiting = waiting
        self.commands = [one.command for one in waiting]

    @property
    def weight(self) -> int:
        """How much work it is."""
        return sum(command.weight for command in self.commands)

    @property
    def is_bundled(self) -> bool:
        """Whether members of bundles are in it."""
        return bool(self.waiting) and isinstance(self.waiting[-1], Member)

    def join(self, late: Sequence[Waiting]) -> None:
        """Take in some who came late, before all others."""
        self.waiting[:0] = late
        self.commands[:0] = [one.command for one in late]

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
        middle = len(self.waiting) // 2
        for first, last in self._wholes():
            if first < middle < last:
                middle = first or last
        if middle in (0, len(self.waiting)):
            return None
        return Batch(self.waiting[:middle]), Batch(self.waiting[middle:])

    def _wholes(self) -> Iterator[tuple[int, int]]:
        """Return where the bundles stand that are not to be parted."""
        if not self.is_bundled:
            return
        start = 0
        while start < len(self.waiting):
            one = self.waiting[start]
            if isinstance(one, Member) and one.bundle.is_whole:
                yield start, start + one.bundle.size
                start += one.bundle.size
            else:
                start += 1


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

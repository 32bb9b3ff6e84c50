"""A batch of commands, and the slices that it is decided in."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from ledger.domain.commands import Command, Reply
from ledger.services.bundles import Share
from ledger.services.replies import Told, Waiting

_FIRST: Final = 64  # of a batch, by weight
_LARGEST: Final = 256
_SMALL: Final = 128


class Slice(NamedTuple):
    """Commands of a batch that are decided in one go, as those who wait for them have it."""

    commands: Sequence[Command]
    is_whole: bool = False
    is_answered: bool = False


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

    def told(self, outcomes: Sequence[Reply]) -> Iterator[Told]:
        """Give each who waits his own of the outcomes of all commands."""
        place = 0
        for one in self.waiting:
            following = place + len(one.commands)
            yield one, outcomes[place:following]
            place = following

    def slices(self, *, small: bool = False) -> Iterator[Slice]:
        """Part the batch: while a slice is decided, the store is at work on the one before, so the first is small."""
        largest = _SMALL if small else _LARGEST
        size = _FIRST if len(self.commands) > largest else largest
        for start, end, one in self._stretches():
            commands = self.commands[start:end]
            parts = [commands] if one.is_whole else _light(commands, size, largest)
            yield from (Slice(part, one.is_whole, one.is_answered) for part in parts)
            size = largest

    def halves(self) -> "tuple[Batch, Batch] | None":
        """Part the batch in two, if there is a place where it can be parted."""
        middle = len(self.commands) // 2
        for first, last, one in self._stretches():
            if one.is_whole and first < middle < last:
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

    def _stretches(self) -> Iterator[tuple[int, int, Waiting]]:
        """Return from where to where commands are decided alike, a whole by itself, with one of those who wait."""
        if not self.is_bundled:
            if self.waiting:
                yield 0, len(self.commands), self.waiting[0]
            return
        start = 0
        for _, each in groupby(self.waiting, key=lambda one: one if one.is_whole else one.is_answered):
            alike = list(each)
            end = start + sum(len(one.commands) for one in alike)
            yield start, end, alike[0]
            start = end


def _commands(waiting: Sequence[Waiting]) -> list[Command]:
    return [command for one in waiting for command in one.commands]


def _light(commands: Sequence[Command], size: int, largest: int) -> Iterator[Sequence[Command]]:
    """Part commands into some that weigh about so much, and then twice and four times as much."""
    start, weight = 0, 0
    for index, command in enumerate(commands):
        weight += command.weight
        if weight >= size:
            yield commands[start : index + 1]
            start, weight, size = index + 1, 0, min(2 * size, largest)
    if start < len(commands):
        yield commands[start:]

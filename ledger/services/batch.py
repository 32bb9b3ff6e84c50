"""A batch of commands, and the slices that it is decided in."""

from collections.abc import Iterator, Sequence
from typing import Final

from ledger.domain.commands import Command
from ledger.services.replies import Waiting

_FIRST: Final = 64
_LARGEST: Final = 256


class Batch:
    """What is decided and kept together."""

    __slots__ = ("commands", "waiting")

    def __init__(self, waiting: list[Waiting]) -> None:
        self.waiting = waiting
        self.commands = [one.command for one in waiting]


def slices(commands: Sequence[Command]) -> Iterator[Sequence[Command]]:
    """Part a batch: while one slice is decided, the store is at work on the one before, so the first is small."""
    start, size = 0, _FIRST if len(commands) > _LARGEST else _LARGEST
    while start < len(commands):
        yield commands[start : start + size]
        start, size = start + size, min(2 * size, _LARGEST)

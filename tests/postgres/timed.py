"""A journal on a real server that is told what time it is."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.domain.book import Book
from ledger.domain.commands import Command
from ledger.store.journal import JournalWriter
from tests.postgres.house import reactor

START = "2040-01-02T03:04:05.678901Z"  # far ahead of any clock: a batch is never before the one that it follows


class Timed(JournalWriter):
    """A journal whose next batch can be told its instant, which those after it cannot fall behind."""

    def __init__(self, url: str) -> None:
        super().__init__(reactor, url)
        self.at = START
        self.now = ""

    async def read_facts(self, commands: Sequence[Command]) -> Book:
        """Let time have passed."""
        book = await super().read_facts(commands)
        self.now = book.instant = max(book.instant, self.at)
        return book

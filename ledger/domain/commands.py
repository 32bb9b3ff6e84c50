"""What a command is, and what can become of it: a record, a refusal or a replay."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec
from msgspec import StructMeta

from ledger.domain.errors import Refused
from ledger.domain.journal import Change, Entry, Record

if TYPE_CHECKING:
    from ledger.domain.book import Book

ACCOUNTS: Final = "accounts"


class Leg(msgspec.Struct, frozen=True, gc=False):
    """An amount of minor units that goes from one account to another."""

    source: str
    target: str
    amount: int


class Draft(msgspec.Struct, frozen=True, gc=False):
    """What a command has decided to do."""

    entries: tuple[Entry, ...] = ()
    changes: tuple[Change, ...] = ()
    writes: tuple[tuple[str, Any], ...] = ()  # rows of further tables: (name of the write, its row)
    metadata: Mapping[str, Any] | None = None  # what the record says instead of the command's own
    reverses: str | None = None
    effective_at: str | None = None  # None: from when it is booked


class _Kind(StructMeta, ABCMeta):
    """What kinds of command are made by: structs that must say all that a command has to say."""


class Command(msgspec.Struct, metaclass=_Kind, frozen=True, kw_only=True, gc=False):
    """Something to be decided once, in the journal's order.

    A kind of command is one subclass: the facts it needs, its rules, and its answer stand there and nowhere else.
    """

    kind: ClassVar[str]

    id: str
    scope: str | None = None
    key: str | None = None
    description: str | None = None
    metadata: Mapping[str, Any] | None = None

    @property
    @abstractmethod
    def lane(self) -> str:
        """The account in whose queue this command stands."""

    @property
    def weight(self) -> int:
        """How much work this is, one being that of a single leg."""
        return 1

    @abstractmethod
    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """The facts to be read before deciding: names of facts, each with its keys."""

    @abstractmethod
    def content(self) -> Any:
        """What this kind has of its own that makes two requests the same request."""

    def request(self) -> Any:
        """All that makes two requests the same request."""
        return (self.kind, self.content(), self.description, self.metadata)

    @abstractmethod
    def decide(self, book: Book) -> Draft:
        """Apply the rules of this kind to the book, or raise `Refused`."""

    @abstractmethod
    def answer(self, record: Record) -> bytes:
        """Return the JSON that the client is told of this command's record, the first time and in every replay."""


class Sealed(msgspec.Struct, frozen=True, gc=False):
    """The outcome of a command that was accepted: a record with its body and hash, to be kept."""

    record: Record
    body: bytes
    hash: bytes
    writes: tuple[tuple[str, Any], ...] = ()


class Replayed(msgspec.Struct, frozen=True, gc=False):
    """The outcome of a command that was accepted before: the record of that time."""

    record: Record


class Answered(msgspec.Struct, frozen=True, gc=False):
    """What the client is told of a command that was accepted, and nothing else."""

    answer: bytes
    is_replay: bool


Outcome = Sealed | Replayed | Refused | Exception
Reply = Outcome | Answered


def answered(command: Command, outcome: Reply) -> Reply:
    """Return the reply in the place of an outcome that has a record; what was not accepted stays as it is."""
    if isinstance(outcome, Sealed):
        return Answered(command.answer(outcome.record), False)
    if isinstance(outcome, Replayed):
        return Answered(command.answer(outcome.record), True)
    return outcome

"""Periods and effective time: what counts from before it was booked, and until when that has ended."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

import msgspec

from ledger.domain.book import Book
from ledger.domain.commands import Command, Draft
from ledger.domain.errors import Refused
from ledger.domain.journal import Entry, Record, canonical

PERIODS: Final = "closed_periods"  # a fact of at most one row, and the write that brings it forward
LATEST: Final = "until"  # the key of that row
BACKDATED: Final = "backdated_entries"  # a write


class Closed(msgspec.Struct, array_like=True, frozen=True):
    """The first instant that entries may still count from, as a batch sees it."""

    id: str
    until: str


class PeriodClosed(msgspec.Struct, frozen=True):
    """What is told of a period that has been closed: everything before `until` is final."""

    id: str
    seq: int
    until: str
    closed_at: str


def instant_of(moment: datetime) -> str:
    """Return an instant in the form that records carry, in which texts compare as instants do."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def backdate(book: Book, effective_at: str, entries: Sequence[Entry]) -> tuple[tuple[str, Any], ...]:
    """Return the writes of entries that count from an earlier instant, or refuse one that is to come or is closed.

    Whoever calls this needs the fact `PERIODS` with the key `LATEST`.
    """
    if effective_at > book.instant:
        raise Refused("invalid_datetime_format", "The instant lies in the future", field="effective_at")
    closed: Closed | None = book.facts[PERIODS].get(LATEST)
    if closed is not None and effective_at < closed.until:
        raise Refused("period_closed", field="effective_at", until=closed.until)
    if effective_at == book.instant:
        return ()
    return tuple(
        (
            BACKDATED,
            {
                "account_id": entry.account,
                "effective_at": effective_at,
                "version": entry.version,
                "amount": entry.amount,
                "posted_at": book.instant,
            },
        )
        for entry in entries
    )


class ClosePeriod(Command, frozen=True, kw_only=True, gc=False):
    """From this record on, nothing counts from before an instant any more."""

    kind: ClassVar[str] = "period_close"

    until: str

    @property
    def lane(self) -> str:
        """One for all of them: no account is concerned."""
        return PERIODS

    def needs(self) -> Iterable[tuple[str, Iterable[str]]]:
        """What is closed already."""
        return ((PERIODS, (LATEST,)),)

    def content(self) -> Any:
        """The instant."""
        return (self.until,)

    def decide(self, book: Book) -> Draft:
        """Close what is open before an instant that has come, or refuse where it is closed already."""
        if self.until > book.instant:
            raise Refused("invalid_datetime_format", "The instant lies in the future", field="until")
        closed: Closed | None = book.facts[PERIODS].get(LATEST)
        if closed is not None and self.until <= closed.until:
            raise Refused("already_processed", "The period is closed already", field="until", until=closed.until)
        book.note(PERIODS, LATEST, Closed(LATEST, self.until))
        row = {"until": self.until, "seq": book.head.seq + 1}
        return Draft(writes=((PERIODS, row),), metadata={"until": self.until})

    def answer(self, record: Record) -> bytes:
        """Until when all is closed, and since when."""
        return canonical(PeriodClosed(record.id, record.seq, self.until, record.posted_at))

"""Closed periods and backdated entries, as they are decided."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.book import Book
from ledger.domain.commands import Sealed
from ledger.domain.errors import Refused
from ledger.domain.journal import START, Entry
from ledger.domain.periods import BACKDATED, LATEST, PERIODS, Closed, ClosePeriod, backdate, instant_of
from tests.strategies import examples

INSTANT = "2026-01-02T03:04:05.678901Z"
BEFORE = "2026-01-02T03:04:05.678900Z"
LONG_AGO = "2025-12-31T23:59:59.999999Z"
YEAR = "2026-01-01T00:00:00.000000Z"
AFTER = "2026-01-02T03:04:05.678902Z"
ID = "01900000-0000-7000-8000-000000000000"
ENTRIES = (Entry("world", -5, -5, 0, -5, 7), Entry("ada", 5, 15, 0, 15, 3))


def book_of(until: str | None = None) -> Book:
    """A book in which everything before an instant is closed."""
    closed = {} if until is None else {LATEST: Closed(LATEST, until)}
    facts: dict[str, dict[str, Any]] = {PERIODS: closed}
    return Book(START, INSTANT, {}, facts=facts)


def close(until: str, key: str | None = None) -> ClosePeriod:
    """The command."""
    return ClosePeriod(id=ID, scope=None if key is None else "admin", key=key, until=until)


def refused(outcome: object) -> Refused:
    """A refusal."""
    assert isinstance(outcome, Refused)
    return outcome


def test_a_period_that_is_closed_is_told_by_the_record() -> None:
    book = book_of()
    outcome = book.decide(close(YEAR))
    assert isinstance(outcome, Sealed)
    record = outcome.record
    assert (record.kind, record.entries, record.changes) == ("period_close", (), ())
    assert record.metadata == {"until": YEAR}
    assert outcome.writes == ((PERIODS, {"until": YEAR, "seq": 1}),)
    told = json.loads(close(YEAR).answer(record))
    assert told == {"id": ID, "seq": 1, "until": YEAR, "closed_at": INSTANT}
    assert list(close(YEAR).needs()) == [(PERIODS, (LATEST,))]
    assert close(YEAR).lane == close(BEFORE).lane


def test_periods_are_closed_once_and_onwards_also_within_a_batch() -> None:
    book = book_of(LONG_AGO)
    assert refused(book.decide(close(LONG_AGO))).reason == "already_processed"
    assert isinstance(book.decide(close(BEFORE)), Sealed)
    for until in (YEAR, BEFORE):
        again = refused(book.decide(close(until)))
        assert (again.reason, again.details) == ("already_processed", {"field": "until", "until": BEFORE})
    assert isinstance(book.decide(close(INSTANT)), Sealed)
    assert book.facts[PERIODS][LATEST].until == INSTANT


def test_what_is_to_come_cannot_be_closed() -> None:
    book = book_of()
    outcome = refused(book.decide(close(AFTER)))
    assert (outcome.reason, outcome.details) == ("invalid_datetime_format", {"field": "until"})
    assert book.facts[PERIODS] == {}
    assert book.head == START


def test_the_same_request_is_the_same_instant() -> None:
    book = book_of()
    first = book.decide(close(YEAR, "k"))
    assert isinstance(first, Sealed)
    replayed: Any = book.decide(close(YEAR, "k"))
    assert replayed.record == first.record
    assert close(YEAR, "k").answer(replayed.record) == close(YEAR, "k").answer(first.record)
    assert refused(book.decide(close(BEFORE, "k"))).reason == "duplicate_transaction"


def test_backdated_entries_are_written_down_each_for_itself() -> None:
    writes = backdate(book_of(YEAR), YEAR, ENTRIES)
    assert [name for name, _ in writes] == [BACKDATED, BACKDATED]
    assert [row for _, row in writes] == [
        {"account_id": "world", "effective_at": YEAR, "version": 7, "amount": -5, "posted_at": INSTANT},
        {"account_id": "ada", "effective_at": YEAR, "version": 3, "amount": 5, "posted_at": INSTANT},
    ]
    assert backdate(book_of(INSTANT), INSTANT, ENTRIES) == ()
    assert len(backdate(book_of(), LONG_AGO, ENTRIES)) == 2


@pytest.mark.parametrize(
    ("until", "effective_at", "reason"),
    [
        (None, AFTER, "invalid_datetime_format"),
        (YEAR, AFTER, "invalid_datetime_format"),
        (YEAR, LONG_AGO, "period_closed"),
        (INSTANT, BEFORE, "period_closed"),
    ],
)
def test_entries_count_neither_from_a_closed_period_nor_from_the_future(
    until: str | None, effective_at: str, reason: str
) -> None:
    with pytest.raises(Refused) as caught:
        backdate(book_of(until), effective_at, ENTRIES)
    assert caught.value.reason == reason
    assert caught.value.details["field"] == "effective_at"
    assert caught.value.details.get("until") == (until if reason == "period_closed" else None)


hours = st.integers(-14, 14).map(lambda hour: timezone(timedelta(hours=hour)))
moments = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=hours)


@given(moments, moments)
@examples(200)
def test_texts_of_instants_compare_as_instants_do(one: datetime, other: datetime) -> None:
    assert (instant_of(one) < instant_of(other)) == (one < other)
    assert datetime.fromisoformat(instant_of(one)) == one
    assert len(instant_of(one)) == len(INSTANT)


def test_the_form_of_an_instant() -> None:
    assert instant_of(datetime(987, 6, 5, tzinfo=UTC)) == "0987-06-05T00:00:00.000000Z"
    assert instant_of(datetime.fromisoformat("2026-01-02T05:04:05.678901+02:00")) == INSTANT

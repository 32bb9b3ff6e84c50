"""Transfers, as they are decided: leg by leg, all or nothing, if what is expected is so; and as they are told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.accounts import ACCOUNT_STATUSES, Account, world_id
from ledger.domain.book import Book
from ledger.domain.commands import Command, Leg, Replayed, Sealed
from ledger.domain.errors import Refused
from ledger.domain.journal import START, Record, body_of, read_body
from ledger.domain.money import MAX_AMOUNT, MAX_BALANCE
from ledger.domain.periods import BACKDATED, LATEST, PERIODS, Closed
from ledger.domain.transfers import Expectation, Transfer, told
from tests.domain.kinds import SetLimit, SetStatus
from tests.strategies import examples

WORLD, EURO_WORLD = world_id("USD/2"), world_id("EUR/2")
INSTANT = "2026-01-02T03:04:05.678901Z"
EARLIER = "2026-01-01T00:00:00.000000Z"
ASSETS = {WORLD: "USD/2", EURO_WORLD: "EUR/2", "e": "EUR/2", "f": "EUR/2", "y": "JPY/0"}

_ids = count(1)


def book_of(**balances: int) -> Book:
    """A book of accounts a to d in USD, e and f in EUR, y in JPY, and two worlds."""
    accounts = {name: Account(name, None, asset_of(name), "CHECKING", "ACTIVE", 0, 0, 0, 0) for name in "abcdefy"}
    for world in (WORLD, EURO_WORLD):
        accounts[world] = Account(world, None, asset_of(world), "WORLD", "ACTIVE", 0, 0, 0, 0)
    for name, balance in balances.items():
        accounts[name].balance = balance
    return Book(START, INSTANT, accounts, facts={PERIODS: {}})


def asset_of(account_id: str) -> str:
    """What an account of the tests holds."""
    return ASSETS.get(account_id, "USD/2")


def new_id() -> str:
    """An id that was not there before."""
    return f"01900000-0000-7000-8000-{next(_ids):012x}"


def transfer(*legs: tuple[str, str, int], **more: Any) -> Transfer:
    """A command."""
    return Transfer(
        id=new_id(), legs=tuple(Leg(*leg) for leg in legs), assets=tuple(asset_of(leg[0]) for leg in legs), **more
    )


def done(book: Book, command: Command) -> Record:
    """The record of a command that is accepted, whose body says all of it."""
    outcome = book.decide(command)
    assert isinstance(outcome, Sealed), outcome
    assert read_body(outcome.body) == outcome.record
    return outcome.record


def refused(book: Book, command: Command) -> Refused:
    """The refusal of a command that leaves no trace."""
    before = [repr(account) for account in book.accounts.values()]
    head = book.head
    outcome = book.decide(command)
    assert isinstance(outcome, Refused), outcome
    assert [repr(account) for account in book.accounts.values()] == before
    assert book.head == head
    return outcome


def balances(book: Book) -> dict[str, int]:
    """What is not zero."""
    return {name: account.balance for name, account in book.accounts.items() if account.balance}


def test_one_leg() -> None:
    book = book_of(a=100)
    record = done(book, transfer(("a", "b", 30), description="Rent", metadata={"month": 5}))
    assert (record.kind, record.description, record.metadata) == ("transfer", "Rent", {"month": 5})
    assert [(entry.account, entry.amount, entry.balance, entry.version) for entry in record.entries] == [
        ("a", -30, 70, 1),
        ("b", 30, 30, 1),
    ]
    assert record.changes == ()
    assert (record.effective_at, record.reverses) == (None, None)


def test_legs_are_booked_in_their_order() -> None:
    book = book_of(a=100, e=7)
    record = done(book, transfer(("a", "b", 60), ("e", "f", 7), ("b", "c", 60), ("a", "c", 40)))
    assert [entry.account for entry in record.entries] == ["a", "b", "e", "f", "b", "c", "a", "c"]
    assert balances(book) == {"c": 100, "f": 7}
    assert [entry.version for entry in record.entries if entry.account == "a"] == [1, 2]


def test_a_cycle_works_if_each_leg_is_covered_at_its_place() -> None:
    book = book_of(a=100)
    done(book, transfer(("a", "b", 100), ("b", "c", 100), ("c", "a", 100)))
    assert balances(book) == {"a": 100}
    assert [book.accounts[name].version for name in "abc"] == [2, 2, 2]


def test_a_leg_that_is_covered_only_later_is_refused() -> None:
    book = book_of(a=100)
    problem = refused(book, transfer(("b", "c", 100), ("a", "b", 100)))
    assert problem.reason == "insufficient_funds"
    assert problem.details == {"account_id": "b", "available": "0.00", "requested": "1.00"}
    done(book, transfer(("a", "b", 100), ("b", "c", 100)))
    assert balances(book) == {"c": 100}


def test_all_or_nothing() -> None:
    book = book_of(a=100)
    legs = (("a", "b", 60), ("a", "c", 40), ("a", "d", 1))
    assert refused(book, transfer(*legs)).details["available"] == "0.00"
    assert balances(book) == {"a": 100}


def test_accounts_of_different_assets() -> None:
    book = book_of(a=100)
    problem = refused(book, transfer(("a", "e", 10)))
    assert (problem.reason, problem.details) == ("currency_mismatch", {"account_id": "e"})
    assert refused(book, transfer(("a", "b", 10), ("b", "y", 10))).reason == "currency_mismatch"


@pytest.mark.parametrize("status", ACCOUNT_STATUSES)
@pytest.mark.parametrize("who", ["a", "b"])
def test_only_active_accounts_move_money(status: str, who: str) -> None:
    book = book_of(a=100)
    done(book, SetStatus(id=new_id(), account_id=who, status=status))
    command = transfer(("a", "b", 10))
    reasons = {"FROZEN": "account_frozen", "SUSPENDED": "account_suspended"}
    if status == "ACTIVE":
        done(book, command)
    else:
        problem = refused(book, command)
        assert (problem.reason, problem.details) == (reasons.get(status, "account_inactive"), {"account_id": who})


def test_limits() -> None:
    book = book_of(a=100, b=MAX_BALANCE)
    problem = refused(book, transfer(("a", "c", 51), most=50))
    assert (problem.reason, problem.details) == ("amount_exceeds_limit", {"field": "amount", "limit": "0.50"})
    problem = refused(book, transfer(("a", "c", 50), ("a", "c", 51), most=50))
    assert problem.details["field"] == "legs.1.amount"
    assert refused(book, transfer(("a", "b", 1))).reason == "amount_exceeds_limit"
    assert refused(book, transfer(("a", "c", MAX_AMOUNT))).reason == "insufficient_funds"
    done(book, transfer(("a", "c", 50), ("a", "c", 50), most=50))
    assert refused(book, transfer(("a", "nobody", 1))).reason == "account_not_found"


def test_the_world_has_no_limit() -> None:
    book = book_of()
    done(book, transfer((WORLD, "a", 100)))
    done(book, transfer(("a", WORLD, 30)))
    assert balances(book) == {"a": 70, WORLD: -70}


def test_what_is_held_cannot_be_transferred_and_what_is_lent_can() -> None:
    book = book_of(a=100)
    book.accounts["a"].held = 40
    assert refused(book, transfer(("a", "b", 61))).details["available"] == "0.60"
    done(book, transfer(("a", "b", 60)))
    done(book, SetLimit(id=new_id(), account_id="a", credit_limit=10))
    done(book, transfer(("a", "b", 10)))
    assert refused(book, transfer(("a", "b", 1))).reason == "insufficient_funds"


def test_versions_are_expected_as_they_are_when_its_turn_comes() -> None:
    book = book_of(a=100)
    expect = Expectation("b", version=0)
    done(book, transfer(("a", "b", 10), expect=expect))
    problem = refused(book, transfer(("a", "b", 10), expect=expect))
    assert (problem.reason, problem.details) == ("version_conflict", {"account_id": "b", "expected": 0, "version": 1})
    done(book, transfer(("a", "c", 10), expect=Expectation("b", version=1)))  # nothing of this one touches it


def test_what_is_to_be_available_is_looked_at_before_anything_moves() -> None:
    book = book_of(a=100)
    book.accounts["a"].held = 10
    problem = refused(book, transfer(("a", "b", 1), expect=Expectation("a", available_at_least=91)))
    assert problem.reason == "insufficient_funds"
    assert problem.details == {"account_id": "a", "available": "0.90", "requested": "0.91"}
    done(book, transfer(("a", "b", 90), expect=Expectation("a", available_at_least=90)))
    done(book, transfer(("b", "c", 1), expect=Expectation("a", available_at_least=0)))
    assert refused(book, transfer(("b", "c", 1), expect=Expectation("nobody", version=0))).reason == "account_not_found"


def test_what_counts_from_earlier() -> None:
    book = book_of(a=100)
    outcome = book.decide(transfer(("a", "b", 10), ("b", "c", 4), effective_at=EARLIER))
    assert isinstance(outcome, Sealed)
    assert (outcome.record.posted_at, outcome.record.effective_at) == (INSTANT, EARLIER)
    assert b'"effective_at":"2026-01-01T00:00:00.000000Z"' in outcome.body
    rows = [row for name, row in outcome.writes if name == BACKDATED]
    assert [(row["account_id"], row["amount"], row["version"], row["effective_at"]) for row in rows] == [
        ("a", -10, 1, EARLIER),
        ("b", 10, 1, EARLIER),
        ("b", -4, 2, EARLIER),
        ("c", 4, 1, EARLIER),
    ]


def test_never_from_the_future_nor_in_a_closed_period() -> None:
    book = book_of(a=100)
    later = INSTANT.replace("901Z", "902Z")
    problem = refused(book, transfer(("a", "b", 10), effective_at=later))
    assert (problem.reason, problem.details["field"]) == ("invalid_datetime_format", "effective_at")
    book.facts[PERIODS][LATEST] = Closed(LATEST, EARLIER)
    done(book, transfer(("a", "b", 10), effective_at=EARLIER))
    just_before = "2025-12-31T23:59:59.999999Z"
    assert refused(book, transfer(("a", "b", 10), effective_at=just_before)).reason == "period_closed"


@pytest.mark.parametrize(
    ("legs", "lane"),
    [
        ([("a", "b", 1)], "a"),
        ([(WORLD, "b", 1)], "b"),
        ([(WORLD, "b", 1), ("c", "d", 1)], "c"),
        ([(EURO_WORLD, "e", 1), (WORLD, "b", 1)], "e"),
        ([("a", WORLD, 1)], "a"),
    ],
)
def test_the_lane_is_that_of_whoever_gives_first(legs: list[tuple[str, str, int]], lane: str) -> None:
    assert transfer(*legs).lane == lane


def test_what_it_needs() -> None:
    def needs(command: Command) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for name, keys in command.needs():
            found.setdefault(name, set()).update(keys)
        return found

    plain = transfer(("a", "b", 1), ("b", "c", 1))
    assert needs(plain) == {"accounts": {"a", "b", "c"}}
    more = transfer(("a", "b", 1), expect=Expectation("d", version=0), effective_at=EARLIER)
    assert needs(more) == {"accounts": {"a", "b", "d"}, PERIODS: {LATEST}}


SAME: dict[str, Any] = {"scope": "s", "key": "k"}


@pytest.mark.parametrize(
    "other",
    [
        transfer(("a", "b", 11), **SAME),
        transfer(("a", "c", 10), **SAME),
        transfer(("a", "b", 10), ("a", "b", 1), **SAME),
        transfer(("a", "b", 10), description="", **SAME),
        transfer(("a", "b", 10), metadata={}, **SAME),
        transfer(("a", "b", 10), expect=Expectation("a", version=0), **SAME),
        transfer(("a", "b", 10), expect=Expectation("a", available_at_least=0), **SAME),
        transfer(("a", "b", 10), effective_at=EARLIER, **SAME),
    ],
)
def test_same_key_other_request(other: Transfer) -> None:
    book = book_of(a=100)
    first = done(book, transfer(("a", "b", 10), **SAME))
    problem = refused(book, other)
    assert (problem.reason, problem.details) == ("duplicate_transaction", {"transfer_id": first.id})


def test_a_replay_is_held_to_nothing_of_today() -> None:
    book = book_of(a=10)
    command = transfer(("a", "b", 10), expect=Expectation("a", version=0), **SAME)
    first = done(book, command)
    book.accounts["a"].status = "FROZEN"
    again = transfer(("a", "b", 10), expect=Expectation("a", version=0), most=1, **SAME)
    outcome = book.decide(again)
    assert isinstance(outcome, Replayed)
    assert again.answer(outcome.record) == command.answer(first)
    assert again.answer(read_body(body_of(first))) == command.answer(first)


def test_what_is_told() -> None:
    book = book_of(a=10_000, e=500)
    book.accounts["a"].held = 1_000
    command = transfer(("a", "b", 5_000), ("e", "f", 120), ("b", "a", 1), description="x", metadata={"z": 1, "a": [2]})
    record = done(book, command)
    assert json.loads(command.answer(record)) == {
        "id": record.id,
        "seq": 1,
        "kind": "transfer",
        "legs": [
            {"from": "a", "to": "b", "amount": "50.00"},
            {"from": "e", "to": "f", "amount": "1.20"},
            {"from": "b", "to": "a", "amount": "0.01"},
        ],
        "posted_at": INSTANT,
        "effective_at": INSTANT,
        "reverses": None,
        "description": "x",
        "metadata": {"a": [2], "z": 1},
        "balances": [
            {"account_id": "a", "balance": "50.01", "available": "40.01", "version": 2},
            {"account_id": "b", "balance": "49.99", "available": "49.99", "version": 2},
            {"account_id": "e", "balance": "3.80", "available": "3.80", "version": 1},
            {"account_id": "f", "balance": "1.20", "available": "1.20", "version": 1},
        ],
    }


@pytest.mark.parametrize(
    ("shown", "legs", "accounts"),
    [
        (["a"], [("a", "b")], ["a"]),
        (["b"], [("a", "b"), ("b", "c")], ["b"]),
        (["c", "f"], [("b", "c"), ("e", "f")], ["c", "f"]),
        (["d"], [], []),
        (None, [("a", "b"), ("b", "c"), ("e", "f")], ["a", "b", "c", "e", "f"]),
    ],
)
def test_nobody_is_told_of_accounts_that_they_may_not_read(
    shown: Sequence[str] | None, legs: list[tuple[str, str]], accounts: list[str]
) -> None:
    book = book_of(a=100, e=100)
    command = transfer(("a", "b", 10), ("b", "c", 5), ("e", "f", 7), shown=shown)
    answer = json.loads(command.answer(done(book, command)))
    assert [(leg["from"], leg["to"]) for leg in answer["legs"]] == legs
    assert [balance["account_id"] for balance in answer["balances"]] == accounts


def test_a_scale_is_asked_for_only_where_an_account_may_be_read() -> None:
    book = book_of(y=100)
    command = transfer(("y", "y2", 40))
    book.accounts["y2"] = Account("y2", None, "JPY/0", "CHECKING", "ACTIVE", 0, 0, 0, 0)
    record = done(book, command)
    scales = {"y2": 0}
    seen = told(record, scales.__getitem__, scales.__contains__)
    assert [(leg.source, leg.target, leg.amount) for leg in seen.legs] == [("y", "y2", "40")]
    assert [(one.account_id, one.balance) for one in seen.balances] == [("y2", "40")]


legs_made_up = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), st.integers(1, 60)).filter(lambda leg: leg[0] != leg[1]),
    min_size=1,
    max_size=6,
)


@given(st.lists(legs_made_up, min_size=1, max_size=8), st.integers(0, 100), st.integers(0, 100))
@examples(200)
def test_no_money_is_made_nor_lost_and_nobody_overdraws(
    program: list[list[tuple[str, str, int]]], first: int, second: int
) -> None:
    book = book_of(a=first, b=second)
    naive = {"a": first, "b": second, "c": 0}
    for legs in program:
        after, covered = dict(naive), True
        for source, target, amount in legs:
            covered = covered and after[source] >= amount
            after[source] -= amount
            after[target] += amount
        outcome = book.decide(transfer(*legs))
        assert isinstance(outcome, Sealed) == covered
        naive = after if covered else naive
        assert {name: book.accounts[name].balance for name in "abc"} == naive
        if isinstance(outcome, Sealed):
            assert sum(entry.amount for entry in outcome.record.entries) == 0
            assert all(entry.balance >= 0 for entry in outcome.record.entries)

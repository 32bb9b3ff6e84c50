"""Kinds of command that the ledger has never heard of: deciding takes them as they come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ledger.domain.accounts import Account
from ledger.domain.book import Book
from ledger.domain.commands import Command, Leg, Sealed
from ledger.domain.errors import Refused
from ledger.domain.journal import START, Change
from tests.domain.kinds import TICKETS, BuyTicket, Capture, Hold, SetLimit, SetStatus, Transfer
from tests.strategies import Cast, copy_of, ordinary

INSTANT = "2026-01-02T03:04:05.678901Z"
ID = "01900000-0000-7000-8000-000000000000"


@pytest.fixture
def book() -> Book:
    """A book with two funded accounts, one in euro, and the worlds."""
    accounts = {account.id: account for account in Cast.new().everyone if account.is_system}
    for name, asset, balance in (("a", "USD/2", 1_000), ("b", "USD/2", 50), ("e", "EUR/2", 70)):
        accounts[name] = ordinary(name, asset)
        accounts[name].balance = balance
    return Book(START, INSTANT, accounts, facts={TICKETS: {}})


def sealed(book: Book, command: Command) -> Sealed:
    """Decide a command that is accepted."""
    outcome = book.decide(command)
    assert isinstance(outcome, Sealed), outcome
    return outcome


def reason(book: Book, command: Command) -> str:
    """Decide a command that is refused."""
    outcome = book.decide(command)
    assert isinstance(outcome, Refused), outcome
    return outcome.reason


def test_a_change_is_in_the_record_and_in_the_book(book: Book) -> None:
    record = sealed(book, SetStatus(id=ID, account_id="a", status="FROZEN")).record
    assert record.entries == ()
    assert record.changes == (Change("a", "FROZEN", 0, 1_000, 0, 1_000, 0),)
    assert book.touched["a"].status == "FROZEN"
    assert reason(book, Transfer(id=ID, legs=(Leg("a", "b", 1),))) == "account_frozen"
    assert reason(book, Transfer(id=ID, legs=(Leg("b", "a", 1),))) == "account_frozen"
    sealed(book, SetStatus(id=ID, account_id="a", status="ACTIVE"))
    sealed(book, Transfer(id=ID, legs=(Leg("a", "b", 1),)))


def test_a_limit_lets_an_account_go_below_zero_and_cannot_be_taken_back_while_used(book: Book) -> None:
    sealed(book, SetLimit(id=ID, account_id="b", credit_limit=100))
    sealed(book, Transfer(id=ID, legs=(Leg("b", "a", 150),)))
    assert reason(book, Transfer(id=ID, legs=(Leg("b", "a", 1),))) == "insufficient_funds"
    assert reason(book, SetLimit(id=ID, account_id="b", credit_limit=99)) == "negative_balance"
    assert book.account("b").credit_limit == 100
    sealed(book, Transfer(id=ID, legs=(Leg("a", "b", 1),)))
    assert sealed(book, SetLimit(id=ID, account_id="b", credit_limit=99)).record.changes[0].available == 0


def test_what_is_held_cannot_be_spent(book: Book) -> None:
    change = sealed(book, Hold(id=ID, account_id="a", amount=900)).record.changes[0]
    assert (change.balance, change.held, change.available) == (1_000, 900, 100)
    assert reason(book, Hold(id=ID, account_id="a", amount=101)) == "insufficient_funds"
    assert reason(book, Transfer(id=ID, legs=(Leg("a", "b", 101),))) == "insufficient_funds"
    record = sealed(book, Capture(id=ID, account_id="a", target="b")).record
    assert record.changes == ()
    assert [(entry.account, entry.amount, entry.held, entry.available) for entry in record.entries] == [
        ("a", -900, 0, 100),
        ("b", 900, 0, 950),
    ]


def test_a_capture_that_is_refused_holds_on(book: Book) -> None:
    sealed(book, Hold(id=ID, account_id="a", amount=900))
    assert reason(book, Capture(id=ID, account_id="a", target="e")) == "currency_mismatch"
    assert book.account("a").held == 900


@pytest.mark.parametrize("change", [{"held": -1}, {"credit_limit": -1}])
def test_nothing_below_zero_is_held_or_allowed(book: Book, change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="below zero"):
        book.change(book.account("a"), **change)  # type: ignore[arg-type]
    assert book.account("a") == _as_opened("a", 1_000)


def _as_opened(name: str, balance: int) -> Account:
    account = ordinary(name)
    account.balance = balance
    return account


LEGS: list[tuple[tuple[Leg, ...], str | None]] = [
    ((Leg("a", "b", 400), Leg("b", "a", 450), Leg("a", "b", 1_050)), None),
    ((Leg("a", "b", 400), Leg("b", "a", 451)), "insufficient_funds"),
    ((Leg("a", "b", 400), Leg("a", "e", 1)), "currency_mismatch"),
    ((Leg("a", "b", 400), Leg("b", "nobody", 1)), "account_not_found"),
    ((Leg("a", "b", 1_001), Leg("b", "a", 1_001)), "insufficient_funds"),
]


@pytest.mark.parametrize(("legs", "refusal"), LEGS)
def test_legs_are_posted_in_turn_all_or_none(book: Book, legs: tuple[Leg, ...], refusal: str | None) -> None:
    before = {name: copy_of(book.accounts[name]) for name in book.accounts}
    command = Transfer(id=ID, legs=legs)
    if refusal is None:
        entries = sealed(book, command).record.entries
        assert [entry.version for entry in entries if entry.account == "a"] == [1, 2, 3]
        assert book.account("a").balance == 0
        assert book.account("b").balance == 1_050
    else:
        assert reason(book, command) == refusal
        assert book.accounts == before


def test_a_kind_brings_facts_and_rows_of_its_own(book: Book) -> None:
    buy: Callable[[str, str], Any] = lambda ticket, who: BuyTicket(  # noqa: E731
        id=ID, account_id=who, ticket=ticket, seller="b" if who == "a" else "a", price=30
    )
    assert sealed(book, buy("t1", "a")).writes == ((TICKETS, {"id": "t1", "account_id": "a"}),)
    assert reason(book, buy("t1", "b")) == "already_processed"
    sealed(book, buy("t2", "b"))


def test_a_kind_must_say_all_that_a_command_has_to_say() -> None:
    class Half(Command, frozen=True, kw_only=True):
        @property
        def lane(self) -> str:
            return "a"

    with pytest.raises(TypeError, match="abstract"):
        Half(id=ID)  # type: ignore[abstract]

"""Commands that belong together are all accepted, or were all accepted before, or leave no trace."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.book import Book, decide
from ledger.domain.commands import Command, Outcome, Replayed, Sealed
from ledger.domain.errors import Refused
from ledger.domain.journal import START
from ledger.domain.together import Together
from tests.domain.kinds import Broken
from tests.strategies import Cast, Step, examples, programs

NOW = "2026-01-02T03:04:05.678901Z"


def book_of(cast: Cast) -> Book:
    """A book at the beginning of a journal."""
    return Book(START, NOW, {account.id: account for account in cast.everyone})


def all_of(book: Book, commands: list[Command], many: int = 1_000) -> list[Outcome]:
    """Decide all of them together, so many at a time."""
    together = Together(book, commands)
    while together.go_on(many):
        pass
    return together.outcomes


def look(book: Book) -> Any:
    """All that decisions rest on."""
    return deepcopy((book.head, book.accounts, book.known, book.facts, book.touched))


def credit(cast: Cast, who: int = 0, amount: int = 100, key: str | None = None, kind: str = "credit") -> Command:
    """A command."""
    return cast.command(Step(kind, who, 1, None, amount, key, 0, None))


@given(programs(longest=20), st.integers(1, 7))
def test_a_whole_is_decided_as_its_commands_would_be_or_not_at_all(program: list[list[Step]], many: int) -> None:
    cast = Cast.new()
    book, other = book_of(cast), book_of(cast)
    for batch in program:
        commands = [cast.command(step) for step in batch]
        before = look(book)
        single = decide(other, commands)
        together = all_of(book, commands, many)
        kinds = {type(outcome) for outcome in single}
        if kinds in ({Sealed}, {Replayed}):
            assert together == single
            assert look(book) == look(other)
        else:
            assert all(isinstance(outcome, Refused) for outcome in together)
            assert look(book) == before
            other = deepcopy(book)


@pytest.mark.parametrize("many", [1, 2, 1_000])
def test_the_first_refusal_is_told_with_its_place(many: int) -> None:
    cast = Cast.new()
    book = book_of(cast)
    commands = [credit(cast), credit(cast, kind="debit"), credit(cast, kind="debit"), credit(cast)]
    outcomes = all_of(book, commands, many)
    assert len(outcomes) == 4
    (refused,) = set(outcomes)
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.details["index"]) == ("insufficient_funds", 2)
    assert book.head == START


def test_new_and_known_do_not_go_together() -> None:
    cast = Cast.new()
    book = book_of(cast)
    known = credit(cast, key="a")
    decide(book, [known])
    for commands in ([credit(cast, key="a"), credit(cast, key="b")], [credit(cast, key="b"), credit(cast, key="a")]):
        before = look(book)
        (refused,) = set(all_of(book, commands))
        assert isinstance(refused, Refused)
        assert refused.reason == "duplicate_transaction"
        assert refused.details == {"transfer_id": known.id, "index": 1}
        assert look(book) == before
    assert all_of(book, [credit(cast, key="a")] * 2) == [Replayed(book.known[known.scope, "a"])] * 2


def test_twins_do_not_go_together() -> None:
    cast = Cast.new()
    book = book_of(cast)
    for amount in (100, 200):
        (refused,) = set(all_of(book, [credit(cast, key="a"), credit(cast, key="a", amount=amount)]))
        assert isinstance(refused, Refused)
        assert refused.reason == "duplicate_transaction"
        assert refused.details == {"index": 1}  # what it would name is nowhere
        assert book.known == {}


def test_what_breaks_takes_the_others_back() -> None:
    cast = Cast.new()
    book = book_of(cast)
    broken = Broken(id="x", account_id=cast.accounts[0].id, target=cast.accounts[1].id)
    outcomes = all_of(book, [credit(cast), broken, credit(cast)])
    assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError] * 3
    assert book.accounts[cast.accounts[0].id].balance == 0


@examples(50)
@given(st.integers(0, 30), st.integers(1, 40))
def test_what_was_decided_before_stays(earlier: int, later: int) -> None:
    cast = Cast.new()
    book = book_of(cast)
    decide(book, [credit(cast) for _ in range(earlier)])
    before = look(book)
    all_of(book, [*(credit(cast) for _ in range(later)), credit(cast, amount=10**6, kind="debit")])
    assert look(book) == before
    all_of(book, [credit(cast) for _ in range(later)])
    assert book.accounts[cast.accounts[0].id].version == earlier + later

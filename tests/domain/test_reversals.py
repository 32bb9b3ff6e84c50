"""Reversals, as they are decided: the opposite legs, up to the whole, once; never of games, payments or reversals."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.book import Book
from ledger.domain.commands import Command, Leg, Replayed, Sealed
from ledger.domain.errors import Refused
from ledger.domain.journal import Entry, Record
from ledger.domain.reversals import REVERSED, REVERSIBLE, Reverse, Reversed, legs_back, require_reversible
from ledger.domain.transactions import Kind
from tests.domain.kinds import SetStatus
from tests.domain.test_transfers import WORLD, asset_of, balances, book_of, done, new_id, refused, transfer
from tests.strategies import examples


def house_of(**balances: int) -> Book:
    """A book that knows what is reversed."""
    book = book_of(**balances)
    book.facts = {**book.facts, REVERSED: {}}
    return book


def reverse(record: Record, amount: int | None = None, **more: Any) -> Reverse:
    """A command."""
    legs = legs_back(record)
    assets = tuple(asset_of(leg.source) for leg in legs)
    return Reverse(id=new_id(), original=record, legs=legs, assets=assets, amount=amount, **more)


def test_the_whole() -> None:
    book = house_of(a=100)
    first = done(book, transfer(("a", "b", 30), description="Rent"))
    outcome = book.decide(reverse(first))
    assert isinstance(outcome, Sealed)
    record = outcome.record
    assert (record.kind, record.reverses, record.description) == ("reversal", first.id, None)
    assert [(entry.account, entry.amount) for entry in record.entries] == [("b", -30), ("a", 30)]
    assert outcome.writes == ((REVERSED, {"transfer_id": first.id, "amount": "30", "seq": 2}),)
    assert balances(book) == {"a": 100}


@pytest.mark.parametrize("amount", [None, 1, 30])
def test_the_whole_only_once(amount: int | None) -> None:
    book = house_of(a=100, b=100)
    first = done(book, transfer(("a", "b", 30)))
    done(book, reverse(first, 30))
    problem = refused(book, reverse(first, amount))
    assert problem.reason == "already_processed"
    assert problem.details == {"transfer_id": first.id, "amount": "0.30", "reversed": "0.30"}


def test_in_parts_up_to_the_whole() -> None:
    book = house_of(a=100, b=100)
    first = done(book, transfer(("a", "b", 30)))
    done(book, reverse(first, 10))
    done(book, reverse(first, 15))
    problem = refused(book, reverse(first, 6))
    assert (problem.reason, problem.details["reversed"]) == ("already_processed", "0.25")
    done(book, reverse(first))  # all that is left
    assert balances(book) == {"a": 100, "b": 100}
    assert book.facts[REVERSED][first.id] == Reversed(first.id, "30")
    assert refused(book, reverse(first, 1)).reason == "already_processed"


def test_more_than_the_whole() -> None:
    book = house_of(a=100, b=100)
    first = done(book, transfer(("a", "b", 30)))
    assert refused(book, reverse(first, 31)).details["reversed"] == "0.00"


def test_legs_go_back_in_the_opposite_order() -> None:
    book = house_of(a=100)
    first = done(book, transfer(("a", "b", 100), ("b", "c", 60), ("c", "d", 10)))
    record = done(book, reverse(first))
    assert [(entry.account, entry.amount) for entry in record.entries] == [
        *(("d", -10), ("c", 10)),
        *(("c", -60), ("b", 60)),
        *(("b", -100), ("a", 100)),
    ]
    assert balances(book) == {"a": 100}


def test_several_legs_only_as_a_whole() -> None:
    book = house_of(a=100)
    first = done(book, transfer(("a", "b", 60), ("a", "c", 40)))
    problem = refused(book, reverse(first, 60))
    assert (problem.reason, problem.details) == ("invalid_request", {"field": "amount"})
    assert refused(book, reverse(first, 101)).reason == "already_processed"
    done(book, reverse(first, 100))
    problem = refused(book, reverse(first))
    assert (problem.reason, problem.details) == ("already_processed", {"transfer_id": first.id})


def test_many_large_legs_sum_up_to_more_than_64_bits() -> None:
    book = house_of()
    first = done(book, transfer(*((WORLD, name, 2**63 - 1) for name in "abc")))
    outcome = book.decide(reverse(first))
    assert isinstance(outcome, Sealed)
    assert outcome.writes[0][1]["amount"] == str(3 * (2**63 - 1))
    assert balances(book) == {}
    assert refused(book, reverse(first)).reason == "already_processed"


def test_what_has_been_spent_does_not_come_back() -> None:
    book = house_of(a=100)
    first = done(book, transfer(("a", "b", 30)))
    done(book, transfer(("b", "c", 10)))
    problem = refused(book, reverse(first))
    assert problem.reason == "insufficient_funds"
    assert problem.details == {"account_id": "b", "available": "0.20", "requested": "0.30"}
    done(book, reverse(first, 20))
    assert book.facts[REVERSED] == {first.id: Reversed(first.id, "20")}


def test_a_refusal_takes_nothing_of_the_whole() -> None:
    book = house_of(a=100)
    first = done(book, transfer(("a", "b", 30)))
    done(book, SetStatus(id=new_id(), account_id="a", status="FROZEN"))
    assert refused(book, reverse(first)).reason == "account_frozen"
    assert book.facts[REVERSED] == {}
    done(book, SetStatus(id=new_id(), account_id="a", status="ACTIVE"))
    done(book, reverse(first))


def test_the_reversal_of_a_reversal() -> None:
    book = house_of(a=100)
    first = done(book, transfer(("a", "b", 30)))
    back = done(book, reverse(first))
    problem = refused(book, reverse(back))
    assert (problem.reason, problem.details) == ("already_processed", {"transfer_id": back.id})
    assert "make the transfer again" in problem.message


ENTRIES = (Entry("a", -5, 0, 0, 0, 1), Entry("b", 5, 5, 0, 5, 1))


@pytest.mark.parametrize("kind", sorted({*get_args(Kind), "game_deposit"} - REVERSIBLE - {"reversal"}))
def test_kinds_that_stay(kind: str) -> None:
    assert kind in ("bet", "win", "rollback", "payment", "sync", "game_deposit")
    record = Record(v=1, seq=1, id=new_id(), kind=kind, posted_at="", entries=ENTRIES)
    book = house_of(b=5)
    assert refused(book, reverse(record)).reason == "forbidden"


@pytest.mark.parametrize("kind", sorted(REVERSIBLE))
def test_kinds_that_do_not(kind: str) -> None:
    record = Record(v=1, seq=1, id=new_id(), kind=kind, posted_at="", entries=ENTRIES)
    book = house_of(b=5)
    done(book, reverse(record))
    assert balances(book) == {"a": 5}


def test_what_moved_nothing_is_no_transfer() -> None:
    with pytest.raises(Refused) as found:
        require_reversible(Record(v=1, seq=1, id=new_id(), kind="hold", posted_at=""))
    assert found.value.reason == "transfer_not_found"


def test_a_key_and_its_replay() -> None:
    book = house_of(a=100, b=100)
    first = done(book, transfer(("a", "b", 30)))
    keyed = {"scope": "s", "key": "k"}
    command = reverse(first, 10, description="Refund", **keyed)
    record = done(book, command)
    again = reverse(first, 10, description="Refund", **keyed)
    outcome = book.decide(again)
    assert isinstance(outcome, Replayed)
    assert again.answer(outcome.record) == command.answer(record)
    others: list[Command] = [
        reverse(first, 10, **keyed),
        reverse(first, 20, description="Refund", **keyed),
        reverse(first, None, description="Refund", **keyed),
        transfer(("b", "a", 10), description="Refund", **keyed),
    ]
    for other in others:
        assert refused(book, other).details == {"transfer_id": record.id}
    assert book.facts[REVERSED][first.id].amount == "10"


def test_what_is_told() -> None:
    book = house_of(a=100)
    first = done(book, transfer(("a", "b", 30)))
    command = reverse(first, 10, description="Refund", shown=["a"])
    record = done(book, command)
    answer = json.loads(command.answer(record))
    assert answer == {
        "id": record.id,
        "seq": 2,
        "kind": "reversal",
        "legs": [{"from": "b", "to": "a", "amount": "0.10"}],
        "posted_at": record.posted_at,
        "effective_at": record.posted_at,
        "reverses": first.id,
        "description": "Refund",
        "metadata": None,
        "balances": [{"account_id": "a", "balance": "0.80", "available": "0.80", "version": 2}],
    }


def test_what_it_needs_and_where_it_queues() -> None:
    book = house_of(a=100)
    first = done(book, transfer(("a", "b", 30), ("b", WORLD, 5)))
    command = reverse(first)
    assert command.lane == "b"  # the world gives first
    assert {name: set(keys) for name, keys in command.needs()} == {
        "accounts": {"a", "b", WORLD},
        REVERSED: {first.id},
    }
    assert command.legs == (Leg(WORLD, "b", 5), Leg("b", "a", 30))


@given(st.lists(st.none() | st.integers(1, 120), max_size=12), st.integers(1, 100))
@examples(200)
def test_parts_never_pass_the_whole(parts: list[int | None], whole: int) -> None:
    book = house_of(a=whole, b=1_000)
    first = done(book, transfer(("a", "b", whole)))
    back = 0
    for part in parts:
        asked = whole - back if part is None else part
        outcome = book.decide(reverse(first, part))
        assert isinstance(outcome, Sealed) == (0 < asked <= whole - back)
        back += asked if isinstance(outcome, Sealed) else 0
        assert balances(book) == {name: left for name, left in (("a", back), ("b", 1_000 + whole - back)) if left}

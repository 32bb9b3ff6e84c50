"""The deletion of a user, as it is decided."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.accounts import ACCOUNT_STATUSES, Account, world_id
from ledger.domain.book import Book
from ledger.domain.cash import Credit
from ledger.domain.commands import Sealed
from ledger.domain.deletion import ACCOUNTS_OF_USERS, USERS, DeleteUser, Member
from ledger.domain.errors import Refused
from ledger.domain.journal import START
from tests.strategies import examples

INSTANT = "2026-01-02T03:04:05.678901Z"
ID = "01900000-0000-7000-8000-000000000000"


def account(name: str, user: str, status: str = "ACTIVE", balance: int = 0, held: int = 0) -> Account:
    """An account of a user."""
    return Account(name, user, "USD/2", "CHECKING", status, balance, held, 0, 0)


def book_of(*accounts: Account, status: str = "ACTIVE") -> Book:
    """A book in which `ada` and `eve` are users, and that knows accounts by their users only."""
    users = {name: Member(name, status) for name in ("ada", "eve")}
    world = Account(world_id("USD/2"), None, "USD/2", "WORLD", "ACTIVE", 0, 0, 0, 0)
    facts: dict[str, dict[str, Any]] = {USERS: users, ACCOUNTS_OF_USERS: {account.id: account for account in accounts}}
    return Book(START, INSTANT, {world.id: world}, facts=facts)


def delete(user: str = "ada") -> DeleteUser:
    """The command."""
    return DeleteUser(id=ID, user_id=user)


def test_empty_accounts_are_closed_and_others_suspended() -> None:
    book = book_of(account("c", "eve"), account("b", "ada", balance=5), account("a", "ada"))
    outcome = book.decide(delete())
    assert isinstance(outcome, Sealed)
    assert [(change.account, change.status) for change in outcome.record.changes] == [
        ("a", "CLOSED"),
        ("b", "SUSPENDED"),
    ]
    assert set(book.touched) == {"a", "b"}
    row = {"id": "ada", "at": INSTANT}
    assert outcome.writes == (("deleted_users", row), ("ended_sessions", row), ("ended_tokens", row))
    told = json.loads(delete().answer(outcome.record))
    assert told["accounts"] == [{"id": "a", "status": "CLOSED"}, {"id": "b", "status": "SUSPENDED"}]


def test_a_user_is_deleted_once_also_within_a_batch() -> None:
    book = book_of(account("a", "ada"))
    first, second, other = (book.decide(delete(user)) for user in ("ada", "ada", "eve"))
    assert isinstance(first, Sealed)
    assert isinstance(second, Refused)
    assert second.reason == "user_not_found"
    assert isinstance(other, Sealed)
    assert other.record.changes == ()


def test_who_is_unknown_or_deleted_cannot_be_deleted() -> None:
    for book, user in ((book_of(status="DELETED"), "ada"), (book_of(), "nobody")):
        outcome = book.decide(delete(user))
        assert isinstance(outcome, Refused)
        assert outcome.reason == "user_not_found"
        assert book.head == START


def test_what_came_before_it_in_the_batch_counts_and_what_comes_after_is_refused() -> None:
    book = book_of(account("a", "ada"))
    book.accounts["a"] = account("a", "ada")  # read for the credit
    credit = Credit(id=ID, account_id="a", user_id="ada", asset="USD/2", amount=7)
    assert isinstance(book.decide(credit), Sealed)
    outcome = book.decide(delete())
    assert isinstance(outcome, Sealed)
    assert [(change.status, change.balance) for change in outcome.record.changes] == [("SUSPENDED", 7)]
    late = book.decide(credit)
    assert isinstance(late, Refused)
    assert late.reason == "account_suspended"


@given(st.sampled_from(ACCOUNT_STATUSES[:-1]), st.sampled_from([0, 1, -1]), st.sampled_from([0, 1]))
@examples(60)
def test_no_account_is_left_that_money_can_move_on(status: str, balance: int, held: int) -> None:
    mine = account("a", "ada", status, balance, held)
    outcome = book_of(mine).decide(delete())
    assert isinstance(outcome, Sealed)
    assert mine.status == ("CLOSED" if (balance, held) == (0, 0) else "SUSPENDED")
    assert (mine.balance, mine.held) == (balance, held)
    assert len(outcome.record.changes) == (status != mine.status)


def test_a_closed_account_stays_closed() -> None:
    outcome = book_of(account("a", "ada", "CLOSED")).decide(delete())
    assert isinstance(outcome, Sealed)
    assert outcome.record.changes == ()

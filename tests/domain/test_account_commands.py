"""Accounts as they are opened, named, frozen, closed and limited, as it is decided."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.account_commands import AccountView, AmendAccount, OpenAccount, account_view, parse_limit
from ledger.domain.accounts import ACCOUNT_STATUSES, ACCOUNT_TYPES, Account, world_id
from ledger.domain.book import Book, fingerprint_of
from ledger.domain.cash import Credit, Debit
from ledger.domain.commands import Command, Replayed, Sealed
from ledger.domain.deletion import ACCOUNTS_OF_USERS, USERS, DeleteUser, Member
from ledger.domain.errors import Refused
from ledger.domain.journal import START, Change, Record
from tests.strategies import examples

INSTANT = "2026-01-02T03:04:05.678901Z"
OPENED = "2026-01-01T00:00:00.000000Z"
ID = "01900000-0000-7000-8000-000000000000"


def account(name: str = "a", user: str | None = "ada", **state: Any) -> Account:
    """An account, of a user unless told otherwise."""
    fields = {"asset": "USD/2", "type": "CHECKING", "status": "ACTIVE", "balance": 0, "held": 0, "credit_limit": 0}
    return Account(**{**fields, "id": name, "user_id": user, "version": 0, **state})


def book_of(*accounts: Account, **statuses: str) -> Book:
    """A book with these accounts, in which `ada` and `eve` are active users unless told otherwise."""
    world = Account(world_id("USD/2"), None, "USD/2", "WORLD", "ACTIVE", 0, 0, 0, 0)
    known = {one.id: one for one in (*accounts, world)}
    users = {name: Member(name, status) for name, status in {"ada": "ACTIVE", "eve": "ACTIVE", **statuses}.items()}
    return Book(START, INSTANT, known, facts={USERS: users})


def opening(user: str | None = "ada", **more: Any) -> OpenAccount:
    """The command that opens an account."""
    fields = {"id": ID, "asset": "USD/2", "type": "SAVINGS", "name": "Rainy day"}
    return OpenAccount(**{**fields, "user_id": user, **more})


def amending(one: Account, **asked: Any) -> AmendAccount:
    """The command that amends an account called `Old`."""
    return AmendAccount(id=ID, account=account_view(one, "Old", OPENED), **asked)


def sealed(book: Book, command: Command) -> Record:
    """Decide a command that is accepted."""
    outcome = book.decide(command)
    assert isinstance(outcome, Sealed), outcome
    return outcome.record


def refused(book: Book, command: Command) -> Refused:
    """Decide a command that is refused, and leaves no trace."""
    before, head = {key: msgspec.structs.replace(one) for key, one in book.accounts.items()}, book.head
    outcome = book.decide(command)
    assert isinstance(outcome, Refused), outcome
    assert (book.accounts, book.head) == (before, head)
    return outcome


def told(command: Command, record: Record) -> AccountView:
    """What the client is told."""
    return msgspec.json.decode(command.answer(record), type=AccountView)


def test_an_account_is_opened_under_the_records_id() -> None:
    book, command = book_of(), opening()
    outcome = book.decide(command)
    assert isinstance(outcome, Sealed)
    record = outcome.record
    assert (record.kind, record.id, record.entries) == ("account", ID, ())
    assert record.changes == (Change(ID, "ACTIVE", 0, 0, 0, 0, 0),)
    said = {"user_id": "ada", "asset": "USD/2", "type": "SAVINGS", "name": "Rainy day"}
    assert record.metadata == said
    assert outcome.writes == (("opened_accounts", {**said, "id": ID, "world": world_id("USD/2"), "at": INSTANT}),)
    assert book.touched[ID] == account(ID, type="SAVINGS")
    assert msgspec.to_builtins(told(command, record)) == {
        "id": ID,
        "user_id": "ada",
        "name": "Rainy day",
        "account_type": "SAVINGS",
        "currency": "USD",
        "scale": 2,
        "status": "ACTIVE",
        "balance": "0.00",
        "available": "0.00",
        "held": "0.00",
        "version": 0,
        "credit_limit": "0.00",
        "created_at": INSTANT,
    }


def test_a_credit_account_is_opened_with_its_limit() -> None:
    book, command = book_of(), opening(type="CREDIT", credit_limit=50_000)
    record = sealed(book, command)
    assert record.changes == (Change(ID, "ACTIVE", 50_000, 0, 0, 50_000, 0),)
    view = told(command, record)
    assert (view.balance, view.available, view.credit_limit) == ("0.00", "500.00", "500.00")
    debit = Debit(id="02900000-0000-7000-8000-000000000000", account_id=ID, user_id="ada", asset="USD/2", amount=50_000)
    assert sealed(book, debit).entries[0].balance == -50_000
    assert refused(book, debit).reason == "insufficient_funds"


@pytest.mark.parametrize("kind", [kind for kind in ACCOUNT_TYPES if kind != "CREDIT"])
def test_other_accounts_have_no_limit(kind: str) -> None:
    assert sealed(book_of(), opening(type=kind, credit_limit=0)).changes[0].credit_limit == 0
    refusal = refused(book_of(), opening(type=kind, credit_limit=1))
    assert (refusal.reason, refusal.details["field"]) == ("invalid_account_type", "credit_limit")
    one = account(type=kind)
    assert sealed(book_of(one), amending(one, credit_limit=0)).changes[0].credit_limit == 0
    refusal = refused(book_of(one), amending(one, credit_limit=1))
    assert (refusal.reason, refusal.details["field"]) == ("invalid_account_type", "credit_limit")


def test_a_limit_is_within_what_amounts_may_be() -> None:
    one = account(type="CREDIT")
    for book, command in (
        (book_of(), opening(type="CREDIT", credit_limit=101, most=100)),
        (book_of(one), amending(one, credit_limit=101, most=100)),
    ):
        refusal = refused(book, command)
        assert (refusal.reason, refusal.details) == ("amount_exceeds_limit", {"field": "credit_limit", "limit": "1.00"})
        sealed(book, msgspec.structs.replace(command, credit_limit=100))


@pytest.mark.parametrize(
    ("user", "reason"),
    [("nobody", "user_not_found"), ("gone", "user_not_found"), ("asleep", "account_inactive")],
)
def test_only_an_active_user_gets_an_account(user: str, reason: str) -> None:
    assert refused(book_of(gone="DELETED", asleep="SUSPENDED"), opening(user)).reason == reason


def test_an_account_of_nobody_needs_no_user() -> None:
    command = opening(None)
    assert tuple(command.needs()) == ()
    assert command.lane == ID
    record = sealed(Book(START, INSTANT, {}), command)
    assert told(command, record).user_id is None


def test_the_answer_to_an_opening_is_in_its_record() -> None:
    book = book_of()
    command = opening(scope="ada", key="k")
    first = sealed(book, command)
    again = msgspec.structs.replace(command, id="02900000-0000-7000-8000-000000000000", most=0)
    book.facts[USERS]["ada"].status = "SUSPENDED"
    outcome = book.decide(again)
    assert isinstance(outcome, Replayed)
    assert again.answer(outcome.record) == command.answer(first)
    kept = msgspec.json.decode(msgspec.json.encode(first), type=Record)
    assert again.answer(kept) == command.answer(first)


@pytest.mark.parametrize(
    "other",
    [{"user": "eve"}, {"asset": "EUR/2"}, {"type": "CREDIT"}, {"name": "Other"}, {"name": None}, {"credit_limit": 1}],
)
def test_another_account_is_another_request(other: dict[str, Any]) -> None:
    assert fingerprint_of(opening(**other)) != fingerprint_of(opening())
    assert fingerprint_of(opening(most=1)) == fingerprint_of(opening())
    book = book_of()
    first = sealed(book, opening(scope="ada", key="k"))
    refusal = refused(book, opening(**other, scope="ada", key="k"))
    assert (refusal.reason, refusal.details) == ("duplicate_transaction", {"transfer_id": first.id})


def test_a_deletion_later_in_the_batch_shuts_what_was_opened_and_an_opening_after_it_is_refused() -> None:
    book = Book(START, INSTANT, {}, facts={USERS: {"ada": Member("ada", "ACTIVE")}, ACCOUNTS_OF_USERS: {}})
    sealed(book, opening())
    deletion = sealed(book, DeleteUser(id="02900000-0000-7000-8000-000000000000", user_id="ada"))
    assert [(change.account, change.status) for change in deletion.changes] == [(ID, "CLOSED")]
    assert refused(book, opening(id="03900000-0000-7000-8000-000000000000")).reason == "user_not_found"
    assert list(book.facts[ACCOUNTS_OF_USERS]) == [ID]


def test_all_that_is_asked_for_is_one_record() -> None:
    one = account(type="CREDIT", balance=-500, credit_limit=1_000, version=3)
    book, command = book_of(one), amending(one, name="New", status="FROZEN", credit_limit=600)
    outcome = book.decide(command)
    assert isinstance(outcome, Sealed)
    assert outcome.record.kind == "account_update"
    assert outcome.record.changes == (Change("a", "FROZEN", 600, -500, 0, 100, 3),)
    assert outcome.record.metadata == {"name": "New", "status": "FROZEN", "credit_limit": 600}
    assert outcome.writes == (("account_names", {"id": "a", "name": "New", "seq": 1}),)
    view = told(command, outcome.record)
    assert (view.name, view.status, view.credit_limit, view.available) == ("New", "FROZEN", "6.00", "1.00")
    assert (view.balance, view.version, view.created_at, view.account_type) == ("-5.00", 3, OPENED, "CREDIT")


def test_what_is_not_asked_for_stays() -> None:
    one = account(type="CREDIT", status="FROZEN", balance=50, held=20, credit_limit=7)
    book, command = book_of(one), amending(one, name="New")
    outcome = book.decide(command)
    assert isinstance(outcome, Sealed)
    assert outcome.record.changes == (Change("a", "FROZEN", 7, 50, 20, 37, 0),)
    assert outcome.record.metadata == {"name": "New"}
    status = amending(one, status="ACTIVE")
    outcome = book.decide(status)
    assert isinstance(outcome, Sealed)
    assert outcome.writes == ()
    assert told(status, outcome.record).name == "Old"


def test_the_answer_tells_the_state_of_its_own_record() -> None:
    one = account()
    book, command = book_of(one), amending(one, status="FROZEN")
    sealed(book, Credit(id=ID, account_id="a", user_id="ada", asset="USD/2", amount=7))
    view = told(command, sealed(book, command))
    assert (view.balance, view.available, view.version, view.status) == ("0.07", "0.07", 1, "FROZEN")


@pytest.mark.parametrize("status", [status for status in ACCOUNT_STATUSES if status != "ACTIVE"])
def test_what_is_not_active_moves_nothing_until_it_is_again(status: str) -> None:
    one = account()
    book = book_of(one)
    credit = Credit(id=ID, account_id="a", user_id="ada", asset="USD/2", amount=7)
    sealed(book, amending(one, status=status))
    assert refused(book, credit).reason in ("account_frozen", "account_suspended", "account_inactive")
    sealed(book, amending(one, status="ACTIVE"))
    sealed(book, credit)


@given(st.integers(-3, 3), st.integers(0, 2), st.sampled_from(ACCOUNT_STATUSES))
@examples(100)
def test_only_what_is_empty_is_closed(balance: int, held: int, status: str) -> None:
    one = account(type="CREDIT", balance=balance, held=held, credit_limit=9, status=status)
    outcome = book_of(one).decide(amending(one, status="CLOSED"))
    if balance or held:
        assert isinstance(outcome, Refused)
        assert (outcome.reason, one.status) == ("account_not_empty", status)
        assert outcome.details["account_id"] == "a"
    else:
        assert isinstance(outcome, Sealed)
        assert one.status == "CLOSED"


@given(st.integers(-300, 300), st.integers(0, 300), st.integers(0, 600), st.integers(0, 600))
@examples(200)
def test_no_limit_below_what_is_used(balance: int, held: int, before: int, after: int) -> None:
    if balance - held + before < 0:
        before = held - balance
    one = account(type="CREDIT", balance=balance, held=held, credit_limit=before)
    outcome = book_of(one).decide(amending(one, credit_limit=after))
    if balance - held + after < 0:
        assert isinstance(outcome, Refused)
        assert (outcome.reason, one.credit_limit) == ("negative_balance", before)
    else:
        assert isinstance(outcome, Sealed)
        assert one.credit_limit == after


def test_what_was_closed_may_be_opened_again_unless_its_user_is_gone() -> None:
    for user, status in (("ada", "SUSPENDED"), (None, "ACTIVE")):
        one = account(user=user, status="CLOSED")
        assert sealed(book_of(one, ada=status), amending(one, status="ACTIVE")).changes[0].status == "ACTIVE"
    for statuses in ({"ada": "DELETED"}, {}):
        one = account(user="ada" if statuses else "nobody", status="CLOSED")
        for status in ("ACTIVE", "FROZEN"):
            refusal = refused(book_of(one, **statuses), amending(one, status=status))
            assert (refusal.reason, refusal.details["account_id"]) == ("account_inactive", "a")
        sealed(book_of(one, **statuses), amending(one, status="CLOSED", name="Late"))


def test_money_that_a_deleted_user_left_can_be_got_at() -> None:
    one = account(balance=7, status="SUSPENDED")
    book = book_of(one, ada="DELETED")
    sealed(book, amending(one, status="ACTIVE"))
    sealed(book, Debit(id=ID, account_id="a", user_id="ada", asset="USD/2", amount=7))
    sealed(book, amending(one, status="CLOSED"))
    assert refused(book, amending(one, status="ACTIVE")).reason == "account_inactive"


@pytest.mark.parametrize("one", [account(type="WORLD", user=None), account(asset="USD/5", user=None)])
@pytest.mark.parametrize("asked", [{"name": "New"}, {"status": "FROZEN"}, {"credit_limit": 0}])
def test_system_accounts_and_those_of_games_are_left_alone(one: Account, asked: dict[str, Any]) -> None:
    assert refused(book_of(one), amending(one, **asked)).reason == "forbidden"


def test_an_unknown_account_cannot_be_amended() -> None:
    assert refused(book_of(), amending(account(), status="FROZEN")).reason == "account_not_found"


def test_where_they_stand_in_line_and_what_they_need() -> None:
    assert opening().lane == "ada"  # as the deletion of the user does
    assert dict(opening().needs()) == {USERS: ("ada",)}
    assert amending(account()).lane == "a"
    assert dict(amending(account()).needs()) == {"accounts": ("a",), USERS: ("ada",)}
    assert dict(amending(account(user=None)).needs()) == {"accounts": ("a",)}
    assert json.loads(msgspec.json.encode(amending(account(), name="x").content())) == ["a", {"name": "x"}]


@pytest.mark.parametrize(
    ("text", "scale", "minor"),
    [
        ("0", 2, 0),
        ("0.00", 2, 0),
        ("00", 0, 0),
        ("12.5", 2, 1_250),
        ("1", 0, 1),
        ("92233720368547758.07", 2, 2**63 - 1),
    ],
)
def test_limits_are_amounts_or_nothing(text: str, scale: int, minor: int) -> None:
    assert parse_limit(text, scale) == minor


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("-1", "negative_amount"),
        ("-0", "negative_amount"),
        ("0.000", "invalid_amount_format"),
        ("1e2", "invalid_amount_format"),
        ("", "invalid_amount_format"),
        ("92233720368547758.08", "amount_exceeds_limit"),
    ],
)
def test_what_is_no_limit(text: str, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_limit(text, 2)
    assert (caught.value.reason, caught.value.details["field"]) == (reason, "credit_limit")

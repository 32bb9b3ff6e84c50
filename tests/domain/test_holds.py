"""Holds, as they are decided: what counts until when, to the microsecond, and what may be done with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.accounts import ACCOUNT_STATUSES, Account, world_id
from ledger.domain.book import Book, decide
from ledger.domain.cash import Credit, Debit
from ledger.domain.commands import Command, Outcome, Replayed, Sealed
from ledger.domain.deletion import ACCOUNTS_OF_USERS, USERS, DeleteUser, Member
from ledger.domain.errors import Refused
from ledger.domain.events import Committed, updates_of
from ledger.domain.held import AccountWithHolds, Counted, Due, Hold
from ledger.domain.holds import (
    EXPIRED_HOLDS,
    HOLDS,
    IN_ONE_RECORD,
    MOST_OPEN,
    OPEN_HOLDS,
    CaptureHold,
    ExpireHolds,
    OpenHold,
    VoidHold,
    overdue,
)
from ledger.domain.journal import START, read_body
from tests.domain.kinds import SetLimit, SetStatus
from tests.strategies import examples

WORLD = world_id("USD/2")
OPENED = "2026-01-02T03:04:05.678901Z"
EXPIRY = "2026-01-02T03:05:05.678901Z"  # a minute later
BEFORE, AFTER = "2026-01-02T03:05:05.678900Z", "2026-01-02T03:05:05.678902Z"
EDGES = ((BEFORE, False), (EXPIRY, True), (AFTER, True))

_numbers = count(1)


def new_id() -> str:
    """An id that was not there before."""
    return f"01900000-0000-7000-8000-{next(_numbers):012x}"


class Store:
    """Accounts and holds as they are kept between batches, each batch at an instant of its own."""

    def __init__(self, balance: int = 100, margin: bool = True) -> None:
        self.accounts = {name: Account(name, None, "USD/2", "CHECKING", "ACTIVE", 0, 0, 0, 0) for name in "ab"}
        self.accounts["a"].balance = balance
        self.accounts[WORLD] = Account(WORLD, None, "USD/2", "WORLD", "ACTIVE", -balance, 0, 0, 0)
        self.holds: dict[str, Hold] = {}
        self.known: dict[Any, Any] = {}
        self.head = START
        self.margin = margin
        self.last: list[Sealed] = []

    def book(self, instant: str, users: Sequence[str] = ()) -> Book:
        """What a batch sees: accounts come with those of their holds that are about to end."""
        accounts: dict[str, Account] = {name: self._row(account, instant) for name, account in self.accounts.items()}
        facts: dict[str, dict[str, Any]] = {HOLDS: dict(self.holds), OPEN_HOLDS: {}}
        if users:
            facts |= {USERS: {user: Member(user, "ACTIVE") for user in users}, ACCOUNTS_OF_USERS: accounts}
            accounts = {WORLD: accounts[WORLD]}
        return Book(self.head, instant, accounts, dict(self.known), facts)

    def _row(self, account: Account, instant: str) -> AccountWithHolds:
        due = tuple(
            Due(hold.id, hold.amount, hold.expires_at)
            for hold in self.holds.values()
            if hold.account_id == account.id and hold.status == "open" and hold.expires_at is not None
            and (self.margin or hold.expires_at <= instant)
        )  # fmt: skip
        fields = {name: getattr(account, name) for name in Account.__struct_fields__}
        return AccountWithHolds(**fields, due=due)

    def run(self, *commands: Command, at: str = OPENED, users: Sequence[str] = ()) -> list[Outcome]:
        """Decide a batch as the writer does, and keep what it brings."""
        book = self.book(at, users)
        first = decide(book, overdue(book, new_id))
        outcomes = decide(book, commands)
        self.last = [outcome for outcome in (*first, *outcomes) if isinstance(outcome, Sealed)]
        for sealed in self.last:
            for name, row in sealed.writes:
                if name == EXPIRED_HOLDS:
                    hold = self.holds[row["id"]]
                    self.holds[hold.id] = Hold(
                        hold.id, hold.account_id, hold.amount, 0, "expired", hold.expires_at, hold.created_at,
                        hold.description,
                    )  # fmt: skip
                elif name == HOLDS:
                    self.holds[row["id"]] = Hold(**{name: row[name] for name in Hold.__struct_fields__})
        for account in book.touched.values():
            self.accounts[account.id] = Account(**{n: getattr(account, n) for n in Account.__struct_fields__})
        self.head, self.known = book.head, book.known
        self.check()
        return outcomes

    def check(self) -> None:
        """What is held is the sum of what is open, and nobody is beyond a limit."""
        for account in self.accounts.values():
            held = sum(h.amount for h in self.holds.values() if h.account_id == account.id and h.status == "open")
            assert account.held == held
            assert account.is_system or account.available >= 0

    def open(self, amount: int, expires_in: int | None = 60, at: str = OPENED, **more: Any) -> str:
        """Open a hold, which must succeed."""
        command = hold(amount, expires_in, **more)
        assert isinstance(self.run(command, at=at)[0], Sealed)
        return command.id


def hold(amount: int, expires_in: int | None = 60, account: str = "a", **more: Any) -> OpenHold:
    """The command."""
    return OpenHold(id=new_id(), account_id=account, asset="USD/2", amount=amount, expires_in=expires_in, **more)


def capture(hold_id: str, amount: int, target: str = WORLD, **more: Any) -> CaptureHold:
    """The command."""
    return CaptureHold(
        id=new_id(), account_id="a", asset="USD/2", hold_id=hold_id, amount=amount, target=target, **more
    )


def void(hold_id: str, **more: Any) -> VoidHold:
    """The command."""
    return VoidHold(id=new_id(), account_id="a", asset="USD/2", hold_id=hold_id, **more)


def debit(amount: int) -> Debit:
    """The command."""
    return Debit(id=new_id(), account_id="a", user_id=None, asset="USD/2", amount=amount)


def refusal(outcome: Outcome) -> Refused:
    """The refusal that an outcome is."""
    assert isinstance(outcome, Refused), outcome
    return outcome


def test_a_hold_is_taken_out_of_what_is_available_and_not_out_of_the_balance() -> None:
    store = Store()
    command = hold(30, description="room 7")
    (outcome,) = store.run(command)
    assert isinstance(outcome, Sealed)
    record = outcome.record
    assert (record.kind, record.entries, record.description) == ("hold", (), "room 7")
    assert record.metadata == {"amount": 30, "expires_at": EXPIRY}
    (change,) = record.changes
    assert (change.balance, change.held, change.available, change.version) == (100, 30, 70, 0)
    assert json.loads(command.answer(read_body(outcome.body))) == {
        "id": command.id,
        "account_id": "a",
        "amount": "0.30",
        "captured": "0.00",
        "status": "open",
        "expires_at": EXPIRY,
        "created_at": OPENED,
        "description": "room 7",
        "transfer_id": None,
    }
    (update,) = updates_of(Committed(record, store.accounts))
    assert (update.balance, update.available, update.transaction) == ("1.00", "0.70", None)


def test_a_hold_without_an_end_says_so() -> None:
    store = Store()
    command = hold(1, None)
    (outcome,) = store.run(command)
    assert isinstance(outcome, Sealed)
    assert outcome.record.metadata == {"amount": 1}
    assert json.loads(command.answer(outcome.record))["expires_at"] is None
    store.run(at="2999-01-01T00:00:00.000000Z")
    assert store.holds[command.id].status == "open"


def test_what_may_not_be_held() -> None:
    store = Store()
    refused = refusal(store.run(hold(101))[0])
    assert (refused.reason, refused.details["available"], refused.details["requested"]) == (
        "insufficient_funds", "1.00", "1.01",
    )  # fmt: skip
    refused = refusal(store.run(hold(51, most=50))[0])
    assert (refused.reason, refused.details) == ("amount_exceeds_limit", {"field": "amount", "limit": "0.50"})
    assert refusal(store.run(hold(1, account="nobody"))[0]).reason == "account_not_found"
    for status, reason in (("FROZEN", "account_frozen"), ("SUSPENDED", "account_suspended"),
                           ("INACTIVE", "account_inactive"), ("CLOSED", "account_inactive")):  # fmt: skip
        store.accounts["a"].status = status
        assert refusal(store.run(hold(1))[0]).reason == reason
    assert store.holds == {}
    assert store.head == START


def test_of_two_holds_on_the_last_cent_one_wins() -> None:
    store = Store(balance=1)
    first, second = store.run(hold(1), hold(1))
    assert isinstance(first, Sealed)
    assert refusal(second).reason == "insufficient_funds"


@pytest.mark.parametrize("margin", [True, False])
@pytest.mark.parametrize(("instant", "is_over"), EDGES)
def test_a_hold_counts_up_to_its_expiry_and_from_there_on_no_more(instant: str, is_over: bool, margin: bool) -> None:
    def with_hold() -> tuple[Store, str]:
        store = Store(margin=margin)
        return store, store.open(100)

    for spending in (debit(100), hold(100)):
        store, hold_id = with_hold()
        (outcome,) = store.run(spending, at=instant)
        assert isinstance(outcome, Sealed) is is_over
        assert store.holds[hold_id].status == ("expired" if is_over else "open")
    for ending in (capture, void):
        store, hold_id = with_hold()
        command = capture(hold_id, 100) if ending is capture else void(hold_id)
        (outcome,) = store.run(command, at=instant)
        assert isinstance(outcome, Sealed) is not is_over
        if is_over:
            refused = refusal(outcome)
            assert (refused.reason, refused.details["status"]) == ("already_processed", "expired")
    store, hold_id = with_hold()
    store.accounts["a"].credit_limit = 100
    (outcome,) = store.run(debit(100), SetLimit(id=new_id(), account_id="a", credit_limit=0), at=instant)[1:]
    assert isinstance(outcome, Sealed) is is_over


def test_holds_that_end_are_told_of_before_all_else_of_the_batch() -> None:
    store = Store()
    ids = [store.open(10), store.open(20), store.open(30, 61), store.open(5, None)]
    (refused,) = store.run(debit(66), at=EXPIRY)
    assert refusal(refused).reason == "insufficient_funds"
    (sealed,) = store.last  # kept although all else is refused
    record = sealed.record
    assert (record.kind, record.entries, record.metadata) == ("expiry", (), {"holds": sorted(ids[:2])})
    (change,) = record.changes
    assert (change.held, change.available) == (35, 65)
    assert [store.holds[hold_id].status for hold_id in ids] == ["expired", "expired", "open", "open"]
    (update,) = updates_of(Committed(record, store.accounts))
    assert (update.available, update.transaction, update.transfer_id) == ("0.65", None, record.id)


def test_what_a_batch_has_ended_is_not_ended_again() -> None:
    store = Store()
    store.open(10)
    expire = ExpireHolds(id=new_id(), account_id="a")
    assert refusal(store.run(expire)[0]).reason == "already_processed"  # it is not over yet
    assert refusal(store.run(expire, at=EXPIRY)[0]).reason == "already_processed"  # the batch has done it
    assert [sealed.record.kind for sealed in store.last] == ["expiry"]
    assert refusal(store.run(expire, at=AFTER)[0]).reason == "already_processed"
    assert refusal(store.run(ExpireHolds(id=new_id(), account_id="nobody"))[0]).reason == "account_not_found"


def test_many_holds_end_in_several_records() -> None:
    store = Store()
    many = IN_ONE_RECORD * 2 + 1
    store.accounts["a"].balance = many
    store.run(*(hold(1) for _ in range(many)))
    assert store.accounts["a"].available == 0
    store.run(at=EXPIRY)
    assert [len((sealed.record.metadata or {})["holds"]) for sealed in store.last] == [500, 500, 1]
    assert store.accounts["a"].available == many


def test_accounts_that_hold_nothing_or_come_without_their_holds_are_passed_over() -> None:
    plain = Account("a", None, "USD/2", "CHECKING", "ACTIVE", 10, 5, 0, 0)
    assert overdue(Book(START, EXPIRY, {"a": plain}), new_id) == []
    assert overdue(Store().book(EXPIRY), new_id) == []


@pytest.mark.parametrize("amount", [1, 29, 30])
def test_a_capture_pays_a_part_or_all_and_lets_the_rest_go(amount: int) -> None:
    store = Store()
    hold_id = store.open(30, description="room 7")
    command = capture(hold_id, amount, "b", description="room 7")
    (outcome,) = store.run(command)
    assert isinstance(outcome, Sealed)
    record = outcome.record
    assert (record.kind, record.changes) == ("capture", ())
    assert record.metadata == {"hold": hold_id, "amount": 30, "created_at": OPENED, "expires_at": EXPIRY}
    source, target = record.entries
    assert (source.account, source.amount, source.balance, source.held) == ("a", -amount, 100 - amount, 0)
    assert (target.account, target.amount, target.balance) == ("b", amount, amount)
    assert json.loads(command.answer(read_body(outcome.body))) == {
        "id": hold_id,
        "account_id": "a",
        "amount": "0.30",
        "captured": f"0.{amount:02}",
        "status": "captured",
        "expires_at": EXPIRY,
        "created_at": OPENED,
        "description": "room 7",
        "transfer_id": command.id,
    }
    for late, state in ((capture(hold_id, 1), "captured"), (void(hold_id), "captured")):
        refused = refusal(store.run(late)[0])
        assert (refused.reason, refused.details) == ("already_processed", {"hold_id": hold_id, "status": state})


def test_a_void_lets_all_of_it_go() -> None:
    store = Store()
    hold_id = store.open(30, None)
    command = void(hold_id)
    (outcome, second) = store.run(command, capture(hold_id, 1))
    assert isinstance(outcome, Sealed)
    assert (outcome.record.kind, outcome.record.entries) == ("void", ())
    assert outcome.record.metadata == {"hold": hold_id, "amount": 30, "created_at": OPENED}
    answer = json.loads(command.answer(read_body(outcome.body)))
    assert (answer["status"], answer["captured"], answer["transfer_id"]) == ("voided", "0.00", None)
    assert refusal(second).details["status"] == "voided"
    assert store.accounts["a"].available == 100


def test_what_may_not_be_captured() -> None:
    store = Store()
    hold_id = store.open(30)
    refused = refusal(store.run(capture(hold_id, 31))[0])
    assert (refused.reason, refused.details) == ("amount_exceeds_limit", {"field": "amount", "limit": "0.30"})
    assert refusal(store.run(capture("unknown", 1))[0]).reason == "hold_not_found"
    assert refusal(store.run(void("unknown"))[0]).reason == "hold_not_found"
    assert refusal(store.run(capture(hold_id, 1, "nobody"))[0]).reason == "account_not_found"
    store.accounts["b"].asset = "EUR/2"
    assert refusal(store.run(capture(hold_id, 1, "b"))[0]).reason == "currency_mismatch"
    store.accounts["b"].asset, store.accounts["b"].status = "USD/2", "FROZEN"
    assert refusal(store.run(capture(hold_id, 1, "b"))[0]).reason == "account_frozen"
    assert store.accounts["a"].held == 30
    assert store.holds[hold_id].status == "open"


@pytest.mark.parametrize("status", ACCOUNT_STATUSES)
def test_what_is_held_is_let_go_whatever_the_status_and_captured_only_from_active_accounts(status: str) -> None:
    store = Store()
    first, second, third = store.open(1), store.open(2), store.open(3)
    store.accounts["a"].status = status
    (captured,) = store.run(capture(first, 1))
    assert isinstance(captured, Sealed) is (status == "ACTIVE")
    assert isinstance(store.run(void(second))[0], Sealed)
    store.run(at=EXPIRY)
    assert store.holds[third].status == "expired"
    assert store.accounts["a"].held == 0


def test_a_replay_is_answered_from_the_record_whatever_came_of_the_hold_since() -> None:
    store = Store()
    opening = hold(30, scope="s", key="open")
    (opened,) = store.run(opening)
    again = hold(30, scope="s", key="open")
    capturing = capture(opening.id, 10, scope="s", key="capture")
    captured, replayed = store.run(capturing, again)
    assert isinstance(opened, Sealed)
    assert isinstance(captured, Sealed)
    assert isinstance(replayed, Replayed)
    assert again.answer(replayed.record) == opening.answer(opened.record)
    later = capture(opening.id, 10, scope="s", key="capture")
    (replayed,) = store.run(later, at=AFTER)
    assert isinstance(replayed, Replayed)
    assert later.answer(replayed.record) == capturing.answer(captured.record)
    for other, named in ((hold(31, scope="s", key="open"), "hold_id"), (hold(30, 61, scope="s", key="open"), "hold_id"),
                         (capture(opening.id, 11, scope="s", key="capture"), "transfer_id"),
                         (capture(opening.id, 10, "b", scope="s", key="capture"), "transfer_id")):  # fmt: skip
        refused = refusal(store.run(other)[0])
        assert refused.reason == "duplicate_transaction"
        assert refused.details == {named: opening.id if named == "hold_id" else capturing.id}


@pytest.mark.parametrize(("instant", "is_over"), EDGES)
@pytest.mark.parametrize("spent", [False, True])
def test_a_deleted_user_s_account_is_closed_where_nothing_is_held_any_more(
    instant: str, is_over: bool, spent: bool
) -> None:
    store = Store(balance=0 if spent else 10)
    store.accounts["a"].user_id = "ada"
    store.accounts["a"].credit_limit = 10
    hold_id = store.open(5)
    (outcome,) = store.run(DeleteUser(id=new_id(), user_id="ada"), at=instant, users=("ada",))
    assert isinstance(outcome, Sealed)
    assert store.accounts["a"].status == ("CLOSED" if is_over and spent else "SUSPENDED")
    assert store.holds[hold_id].status == ("expired" if is_over else "open")


_SECONDS = st.integers(0, 5)
_STEPS = st.tuples(
    st.sampled_from(("hold", "hold", "capture", "void", "credit", "debit", "expire", "freeze", "free")),
    st.integers(1, 60),
    st.integers(0, 9),
    st.none() | st.integers(1, 4),
    _SECONDS,
)


@given(st.lists(st.lists(_STEPS, max_size=6), max_size=12), st.booleans())
@examples(150)
def test_whatever_is_done_what_counts_is_what_is_open(program: list[list[Any]], margin: bool) -> None:
    store = Store(margin=margin)
    opened: list[str] = []
    second = 0
    for batch in program:
        commands: list[Command] = []
        for kind, amount, place, expires_in, step in batch:
            second += step
            which = opened[place % len(opened)] if opened else "none"
            if kind == "hold":
                commands.append(hold(amount, expires_in))
                opened.append(commands[-1].id)
            elif kind in ("capture", "void"):
                commands.append(capture(which, amount, "b") if kind == "capture" else void(which))
            elif kind in ("credit", "debit"):
                what = Credit if kind == "credit" else Debit
                commands.append(what(id=new_id(), account_id="a", user_id=None, asset="USD/2", amount=amount))
            elif kind == "expire":
                commands.append(ExpireHolds(id=new_id(), account_id="a"))
            else:
                status = "FROZEN" if kind == "freeze" else "ACTIVE"
                commands.append(SetStatus(id=new_id(), account_id="a", status=status))
        instant = f"2026-01-02T03:{second // 60:02}:{second % 60:02}.000000Z"
        outcomes = store.run(*commands, at=instant)
        assert all(isinstance(outcome, Sealed | Refused) for outcome in outcomes)
        for one in store.holds.values():
            is_over = one.expires_at is not None and one.expires_at <= instant
            assert not (one.status == "open" and is_over)
            assert (one.captured > 0) is (one.status == "captured")
    assert sum(account.balance for account in store.accounts.values()) == 0


def test_open_holds_have_an_end() -> None:
    store = Store()
    first, last, beyond = hold(1), hold(1), hold(1)
    book = store.book(OPENED)
    book.facts[OPEN_HOLDS]["a"] = Counted("a", MOST_OPEN - 2)
    outcomes = decide(book, (first, last, beyond, hold(1, account="b")))
    assert [type(outcome) for outcome in outcomes[:2]] == [Sealed, Sealed]
    refused = outcomes[2]
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.details["limit"]) == ("amount_exceeds_limit", 10_000)
    assert book.accounts["a"].held == 2


def test_thousands_that_end_together_end_in_records_of_five_hundred_the_first_first() -> None:
    many = 1_203
    order = list(range(many))
    Random(7).shuffle(order)
    due = tuple(Due(f"hold {number:05}", 1, f"2026-01-02T03:05:{number % 60:02}.000000Z") for number in order)
    account = AccountWithHolds("a", None, "USD/2", "CHECKING", "ACTIVE", many, many, 0, 1, due)
    book = Book(START, "2026-01-02T03:06:00.000000Z", {"a": account})
    ended = [one for one in decide(book, overdue(book, new_id)) if isinstance(one, Sealed)]
    assert [len(one.writes) for one in ended] == [500, 500, 203]
    assert account.held == 0
    ids = [row["id"] for one in ended for _, row in one.writes]
    assert ids == [one.id for one in sorted(due, key=lambda one: (one.expires_at, one.id))]

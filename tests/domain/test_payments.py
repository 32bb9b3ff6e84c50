"""Payments, as they are judged and ended: the rules in their order, the day, the window, and each payment once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.accounts import Account, world_id
from ledger.domain.book import Book, decide
from ledger.domain.commands import ACCOUNTS, Command, Outcome, Replayed, Sealed
from ledger.domain.errors import Refused
from ledger.domain.journal import START
from ledger.domain.payment_commands import (
    ALIKE,
    PAYMENTS,
    SPENT,
    CancelPayment,
    FailPayment,
    Kept,
    ProcessPayment,
    Spent,
    key_of,
)
from ledger.domain.payment_options import PAYMENT_OPTIONS, rules_of
from ledger.domain.payments import Payment, PaymentRules, Standing, Twin, is_duplicate, require_processable
from ledger.domain.reversals import require_reversible
from tests.strategies import examples

RULES: Final = PaymentRules()
NOON: Final = "2026-01-02T12:00:00.000000Z"
USER, OTHER = "01900000-0000-7000-8000-000000000001", "01900000-0000-7000-8000-000000000002"
ACCOUNT: Final = "01900000-0000-7000-8000-00000000000a"
WORLD: Final = world_id("USD/2")


def payment(number: int = 1, amount: int = 1_000, **more: Any) -> Payment:
    """A payment of 10.00 out of the account."""
    nature: dict[str, Any] = {
        "user_id": USER,
        "account_id": ACCOUNT,
        "asset": "USD/2",
        "amount": amount,
        "direction": "DEBIT",
        "payment_type": "PAYMENT",
        "description": f"number {number}",
        "inserted_at": NOON,
        "updated_at": NOON,
    }
    return Payment(id=f"01900000-0000-7000-8001-{number:012x}", **{**nature, **more})


def learn(book: Book, fact: str, rows: dict[str, Any]) -> None:
    """Have the book know these rows of a fact, and no others."""
    known = book.facts[fact]
    known.clear()
    known.update(rows)


def book_of(
    payments: Sequence[Payment] = (), instant: str = NOON, balance: int = 10**9, spent: int = 0, **account: Any
) -> Book:
    """The account, with so much in it, and what was paid in the day."""
    mine = Account(ACCOUNT, USER, "USD/2", "CHECKING", "ACTIVE", balance, 0, 0, 0)
    for name, value in account.items():
        setattr(mine, name, value)
    accounts = {mine.id: mine, WORLD: Account(WORLD, None, "USD/2", "WORLD", "ACTIVE", -balance, 0, 0, 0)}
    facts: dict[str, dict[str, Any]] = {
        PAYMENTS: {one.id: Kept(one.id, "PENDING", None) for one in payments},
        SPENT: {ACCOUNT: Spent(ACCOUNT, {instant[:10]: spent})} if spent else {},
        ALIKE: {},
    }
    return Book(START, instant, accounts, facts=facts)


def processing(one: Payment, number: int = 0, rules: PaymentRules = RULES, **more: Any) -> ProcessPayment:
    """A request to process a payment, under its own key."""
    record_id = f"01900000-0000-7000-8002-{number:06x}000000"
    common: dict[str, Any] = {"scope": one.user_id, "key": key_of(one.id), "description": one.description, **more}
    return ProcessPayment(id=record_id, payment=one, rules=rules, **common)


def ending(kind: type[CancelPayment] | type[FailPayment], one: Payment, number: int = 0, **more: Any) -> Command:
    """A request to end a payment in another way."""
    record_id = f"01900000-0000-7000-8003-{number:06x}000000"
    return kind(id=record_id, payment=one, description=one.description, **more)


def reason_of(outcome: Outcome) -> str:
    """Why it was refused, or what it came to."""
    return outcome.reason if isinstance(outcome, Refused) else type(outcome).__name__


def told(command: Command, outcome: Outcome) -> dict[str, Any]:
    """What the client is answered."""
    assert isinstance(outcome, Sealed | Replayed), outcome
    answer: dict[str, Any] = json.loads(command.answer(outcome.record))
    return answer


def shift(instant: str, **by: float) -> str:
    """An instant somewhat later."""
    moved = datetime.fromisoformat(instant) + timedelta(**by)
    return moved.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_a_debit_goes_out_and_is_told() -> None:
    one = payment()
    book, command = book_of([one], balance=5_000), processing(one)
    outcome = book.decide(command)
    assert isinstance(outcome, Sealed)
    record = outcome.record
    assert [(entry.account, entry.amount) for entry in record.entries] == [(ACCOUNT, -1_000), (WORLD, 1_000)]
    assert (record.kind, record.key, record.scope) == ("payment", f"payment:{one.id}", USER)
    assert told(command, outcome) == {
        "id": one.id,
        "user_id": USER,
        "user_bank_account_id": ACCOUNT,
        "amount": "10.00",
        "currency": "USD",
        "direction": "DEBIT",
        "payment_type": "PAYMENT",
        "description": "number 1",
        "status": "COMPLETED",
        "posted_at": NOON,
        "failure_reason": None,
        "transfer_id": command.id,
        "inserted_at": NOON,
        "updated_at": NOON,
    }
    ((write, row),) = outcome.writes
    assert (write, row["status"], row["seq"], row["transfer_id"]) == (PAYMENTS, "COMPLETED", 1, command.id)
    with pytest.raises(Refused, match="cannot be reversed"):
        require_reversible(record)


def test_a_credit_comes_in_without_funds_or_daily_limit() -> None:
    ones = [payment(n, 900_000, direction="CREDIT") for n in (1, 2)]
    book = book_of(ones, balance=0, spent=99_999_999)
    outcomes = decide(book, [processing(one, n) for n, one in enumerate(ones)])
    assert [reason_of(outcome) for outcome in outcomes] == ["Sealed", "Sealed"]
    assert book.accounts[ACCOUNT].balance == 1_800_000


def test_it_is_processed_once_and_a_replay_is_told_the_same() -> None:
    one = payment()
    book, first = book_of([one]), processing(one)
    answer = told(first, book.decide(first))
    again = processing(one, 1, PaymentRules(Decimal(0)))
    replay = book.decide(again)
    assert isinstance(replay, Replayed)
    assert told(again, replay) == answer
    # Under a client's own key, the payment itself says that it is done.
    refused = book.decide(processing(one, 2, key="mine"))
    assert isinstance(refused, Refused)
    expected = {"payment_id": one.id, "status": "COMPLETED", "transfer_id": first.id}
    assert (refused.reason, refused.details) == ("already_processed", expected)
    assert book.accounts[ACCOUNT].version == 1


@pytest.mark.parametrize(("kind", "status"), [(CancelPayment, "CANCELLED"), (FailPayment, "FAILED")])
def test_it_ends_once_whichever_way(kind: Any, status: str) -> None:
    one = payment()
    more: dict[str, Any] = {"reason": "insufficient_funds"} if kind is FailPayment else {}
    book, command = book_of([one]), ending(kind, one, **more)
    outcome = book.decide(command)
    answer = told(command, outcome)
    assert isinstance(outcome, Sealed)
    assert not outcome.record.items
    assert (answer["status"], answer["failure_reason"]) == (status, more.get("reason"))
    assert (answer["posted_at"], answer["transfer_id"], answer["updated_at"]) == (None, None, NOON)
    for later in (processing(one, 5), ending(CancelPayment, one, 6), ending(FailPayment, one, 7, reason="timeout")):
        refused = book.decide(later)
        assert isinstance(refused, Refused)
        assert refused.reason == "already_processed"
        assert refused.details == {"payment_id": one.id, "status": status}
    assert book.accounts[ACCOUNT].version == 0


def test_a_payment_that_is_not_there() -> None:
    for command in (processing(payment()), ending(CancelPayment, payment())):
        assert reason_of(book_of().decide(command)) == "payment_not_found"


def test_the_first_rule_in_their_order_decides() -> None:
    one = payment(amount=2_000_000)
    twin = {one.id: Twin(one.id, OTHER, NOON)}
    rules: list[tuple[str, Any]] = [
        ("already_processed", lambda book: learn(book, PAYMENTS, {one.id: Kept(one.id, "PENDING", None)})),
        ("account_frozen", lambda book: setattr(book.accounts[ACCOUNT], "status", "ACTIVE")),
        ("amount_exceeds_limit", None),
        ("insufficient_funds", lambda book: setattr(book.accounts[ACCOUNT], "balance", 10**9)),
        ("daily_limit_exceeded", None),
        ("duplicate_transaction", lambda book: learn(book, ALIKE, {})),
    ]
    book = book_of(balance=0, status="FROZEN", spent=1)
    learn(book, PAYMENTS, {one.id: Kept(one.id, "CANCELLED", None)})
    learn(book, ALIKE, twin)
    limits = {"limit": Decimal(10_000), "daily": {"CHECKING": Decimal(1_000)}}
    for number, (reason, mend) in enumerate(rules):
        outcome = book.decide(processing(one, number, PaymentRules(**limits)))  # type: ignore[arg-type]
        assert reason_of(outcome) == reason
        assert not book.touched
        if reason == "amount_exceeds_limit":
            limits["limit"] = Decimal(20_000)
        elif reason == "daily_limit_exceeded":
            limits["daily"] = {"CHECKING": Decimal("20000.01")}
        else:
            mend(book)
    assert reason_of(book.decide(processing(one, 99, PaymentRules(**limits)))) == "Sealed"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("FROZEN", "account_frozen"),
        ("SUSPENDED", "account_suspended"),
        ("INACTIVE", "account_inactive"),
        ("CLOSED", "account_inactive"),
    ],
)
@pytest.mark.parametrize("direction", ["CREDIT", "DEBIT"])
def test_only_active_accounts_pay(status: str, reason: str, direction: str) -> None:
    one = payment(direction=direction)
    assert reason_of(book_of([one], status=status).decide(processing(one))) == reason


@pytest.mark.parametrize(
    ("account_type", "limit"),
    [("CHECKING", 100_000), ("SAVINGS", 50_000), ("CREDIT", 200_000), ("INVESTMENT", 500_000)],
)
def test_the_daily_limit_of_each_type_may_be_used_up(account_type: str, limit: int) -> None:
    for spent, amount, expected in (
        (limit - 1, 1, "Sealed"),
        (limit, 1, "daily_limit_exceeded"),
        (0, limit, "Sealed"),
        (0, limit + 1, "daily_limit_exceeded"),
    ):
        one = payment(amount=amount)
        assert reason_of(book_of([one], spent=spent, type=account_type).decide(processing(one))) == expected


def test_the_limit_of_one_payment_may_be_used_up_in_any_currency() -> None:
    for asset, scale in (("USD/2", 2), ("JPY/0", 0), ("KWD/3", 3)):
        for above in (0, 1):
            one = payment(amount=10_000 * 10**scale + above, direction="CREDIT", asset=asset)
            account = Account(ACCOUNT, USER, asset, "CHECKING", "ACTIVE", 0, 0, 0, 0)
            standing = Standing(account, 0, None, NOON)
            if above:
                with pytest.raises(Refused, match="above the limit"):
                    require_processable(RULES, one, standing)
            else:
                require_processable(RULES, one, standing)
    with pytest.raises(Refused) as refusal:
        require_processable(
            PaymentRules(most=99), payment(amount=100), Standing(book_of().accounts[ACCOUNT], 0, None, NOON)
        )
    assert refusal.value.details["limit"] == "0.99"


def test_two_in_one_batch_both_count_towards_the_day() -> None:
    ones = [payment(n, 40_000) for n in range(4)]
    book = book_of(ones)
    outcomes = decide(book, [processing(one, n) for n, one in enumerate(ones)])
    assert [reason_of(outcome) for outcome in outcomes] == ["Sealed", "Sealed"] + ["daily_limit_exceeded"] * 2
    refused = outcomes[2]
    assert isinstance(refused, Refused)
    assert refused.details == {"account_id": ACCOUNT, "limit": "1000.00", "spent": "800.00", "requested": "400.00"}


@pytest.mark.parametrize(
    ("instant", "spends"),
    [
        ("2026-01-02T23:59:59.999999Z", True),
        ("2026-01-03T00:00:00.000000Z", False),
        ("2026-01-02T00:00:00.000000Z", True),
        ("2026-01-01T23:59:59.999999Z", False),
    ],
)
def test_the_day_is_that_of_the_batch_in_utc(instant: str, spends: bool) -> None:
    one = payment(amount=1)
    book = book_of([one], instant)
    learn(book, SPENT, {ACCOUNT: Spent(ACCOUNT, {"2026-01-02": 100_000})})
    assert reason_of(book.decide(processing(one))) == ("daily_limit_exceeded" if spends else "Sealed")


def test_what_is_kept_of_the_day_counts_it_up() -> None:
    ones = [payment(1, 400), payment(2, 300, direction="CREDIT"), payment(3, 250)]
    for instant, before in (("2026-01-02T23:59:59.999999Z", 1_000), ("2026-01-03T00:00:00.000000Z", 0)):
        book = book_of(ones, instant)
        learn(book, SPENT, {ACCOUNT: Spent(ACCOUNT, {"2026-01-02": 1_000})})
        outcomes = decide(book, [processing(one, n) for n, one in enumerate(ones)])
        rows = [row for outcome in outcomes for _, row in getattr(outcome, "writes", ())]
        assert [row["paid_in_day"] for row in rows] == [before + 400, None, before + 650]
    rows = [row for _, row in getattr(book_of(ones).decide(ending(CancelPayment, ones[0])), "writes", ())]
    assert [row["paid_in_day"] for row in rows] == [None]


@pytest.mark.parametrize(
    ("after", "is_one"),
    [
        (timedelta(0), True),
        (timedelta(minutes=5) - timedelta(microseconds=1), True),
        (timedelta(minutes=5), False),
        (timedelta(minutes=5, microseconds=1), False),
    ],
)
def test_the_window_of_duplicates_ends_exactly(after: timedelta, is_one: bool) -> None:
    one = payment()
    twin = Twin(one.id, OTHER, NOON)
    instant = shift(NOON, seconds=after.total_seconds())
    assert is_duplicate(RULES, twin, instant) is is_one
    book = book_of([one], instant)
    learn(book, ALIKE, {one.id: twin})
    outcome = book.decide(processing(one))
    assert reason_of(outcome) == ("duplicate_transaction" if is_one else "Sealed")
    if isinstance(outcome, Refused):
        assert outcome.details == {"payment_id": OTHER, "posted_at": NOON}


def test_duplicates_in_one_batch_see_each_other() -> None:
    ones = [payment(n, description="coffee") for n in range(3)]
    others = [
        payment(11, description="Coffee"),
        payment(12, description="coffee", amount=1_001),
        payment(13, description="coffee", direction="CREDIT"),
        payment(14, description="coffee", user_id=OTHER),
        payment(15, description="coffee", payment_type="TRANSFER"),  # the type makes no other payment of it
    ]
    book = book_of([*ones, *others])
    outcomes = decide(book, [processing(one, n) for n, one in enumerate([*ones, *others])])
    refused = "duplicate_transaction"
    assert [reason_of(outcome) for outcome in outcomes] == ["Sealed", refused, refused, *["Sealed"] * 4, refused]


def test_a_refusal_leaves_no_trace_for_what_follows() -> None:
    """One that was taken back with its series is neither a twin nor part of the day."""
    ones = [payment(n, 60_000, description="rent") for n in (1, 2)]
    book = book_of(ones)
    book.begin()
    assert reason_of(book.decide(processing(ones[0]))) == "Sealed"
    book.end(keep=False)
    assert reason_of(book.decide(processing(ones[1], 1))) == "Sealed"
    assert book.facts[SPENT][ACCOUNT].days == {NOON[:10]: 60_000}
    assert book.facts[PAYMENTS][ones[0].id].status == "PENDING"


def test_what_it_asks_for() -> None:
    one = payment()
    needs = {name: list(keys) for name, keys in processing(one).needs()}
    assert needs == {ACCOUNTS: [ACCOUNT, WORLD], PAYMENTS: [one.id], SPENT: [ACCOUNT], ALIKE: [one.id]}
    assert processing(one).lane == ACCOUNT
    # What the day's rules are does not make it another request.
    assert processing(one).request() == processing(one, 7, PaymentRules(window=0)).request()


_STEP = st.tuples(
    st.integers(0, 5),  # which payment
    st.sampled_from(("process", "process", "process", "cancel", "fail")),
    st.integers(0, 400),  # seconds that go by before the batch
)
_PAYMENTS = st.lists(
    st.tuples(st.integers(1, 60_000), st.sampled_from(("DEBIT", "DEBIT", "CREDIT")), st.sampled_from("ab")),
    min_size=6,
    max_size=6,
)


@examples(150)
@given(natures=_PAYMENTS, steps=st.lists(_STEP, max_size=25), balance=st.integers(0, 150_000), late=st.booleans())
def test_whatever_is_asked_the_rules_hold(
    natures: list[tuple[int, str, str]], steps: list[tuple[int, str, int]], balance: int, late: bool
) -> None:
    ones = [payment(n, amount, direction=way, description=text) for n, (amount, way, text) in enumerate(natures)]
    book = book_of(ones, "2026-01-02T23:50:00.000000Z" if late else NOON, balance=balance)
    done: dict[str, tuple[str, str]] = {}
    posted: list[tuple[str, Payment]] = []
    for number, (which, what, wait) in enumerate(steps):
        book.instant = shift(book.instant, seconds=wait)
        one = ones[which]
        if what == "process":
            outcome = book.decide(processing(one, number, key=f"k{number}"))
        elif what == "cancel":
            outcome = book.decide(ending(CancelPayment, one, number))
        else:
            outcome = book.decide(ending(FailPayment, one, number, reason="timeout"))
        if one.id in done:
            assert reason_of(outcome) == "already_processed"
        elif what != "process":
            assert isinstance(outcome, Sealed)
        if isinstance(outcome, Sealed):
            done[one.id] = (what, book.instant)
            if what == "process":
                posted.append((book.instant, one))
    debits = [(at, one) for at, one in posted if one.direction == "DEBIT"]
    for day in {at[:10] for at, _ in debits}:
        assert sum(one.amount for at, one in debits if at[:10] == day) <= 100_000
    last: dict[Any, str] = {}
    for at, one in posted:
        alike = (one.amount, one.direction, one.description)
        assert alike not in last or at >= shift(last[alike], minutes=5)
        last[alike] = at
    moved = sum(one.amount if one.direction == "CREDIT" else -one.amount for _, one in posted)
    account = book.accounts[ACCOUNT]
    assert (account.balance, account.version) == (balance + moved, len(posted))
    assert account.balance >= 0


def test_the_options_give_the_rules() -> None:
    read = {name: reader for name, _, reader, *_ in PAYMENT_OPTIONS}
    daily = (read["daily-limit"]("SAVINGS=20.50"), read["daily-limit"]("CREDIT=0"))
    rules = rules_of(read["payment-limit"]("99.5"), daily, read["duplicate-window"]("60"), 10**6)
    assert rules.limit == Decimal("99.5")
    assert (rules.daily["SAVINGS"], rules.daily["CREDIT"]) == (Decimal("20.50"), Decimal(0))
    assert rules.daily["CHECKING"] == Decimal(1_000)
    assert (rules.window, rules.most) == (60, 10**6)
    assert msgspec.structs.replace(rules, most=PaymentRules().most) != PaymentRules()


@pytest.mark.parametrize(
    ("option", "text"),
    [
        *(("payment-limit", text) for text in ("", "-1", "1e3", "NaN", "1.", "\N{ARABIC-INDIC DIGIT ONE}")),
        *(("daily-limit", text) for text in ("", "CHECKING", "CHECKING=", "checking=5", "WORLD=5", "CHECKING=-5")),
        *(("duplicate-window", text) for text in ("", "-1", "5m", "86401", "1.5")),
    ],
)
def test_options_that_make_no_sense(option: str, text: str) -> None:
    read = {name: reader for name, _, reader, *_ in PAYMENT_OPTIONS}
    with pytest.raises(ValueError, match=r"must be|such as"):
        read[option](text)

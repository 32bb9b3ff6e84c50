"""The endpoints of payments: who may do what, which field or rule decides, and what is answered."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest

from ledger.domain.accounts import world_id
from ledger.domain.errors import unavailable
from ledger.domain.game_users import ASSET as GAMES_ASSET
from tests.resources.backend import INSTANT
from tests.resources.payers import UNKNOWN, House, rules

FIELDS = ("amount", "direction", "payment_type", "description", "user_bank_account_id")
MALFORMED: tuple[Any, ...] = ("x", "1.001", "1e3", "NaN", True, [1], {})
ONE = ("", "/status", "/process", "/cancel", "/schedule")


@pytest.fixture(params=["plain", "plain, later"])
def house(request: pytest.FixtureRequest) -> House:
    return House(str(request.param))


def test_a_payment_from_made_to_completed(house: House) -> None:
    reply = house.create()
    assert reply.status == 201
    payment_id = reply.data["id"]
    made = {
        "id": payment_id,
        "user_id": house.user_id,
        "user_bank_account_id": house.account,
        "amount": "100.50",
        "currency": "USD",
        "direction": "DEBIT",
        "payment_type": "PAYMENT",
        "description": "Coffee shop payment",
        "status": "PENDING",
        "posted_at": None,
        "failure_reason": None,
        "transfer_id": None,
        "inserted_at": INSTANT,
        "updated_at": INSTANT,
    }
    assert reply.data == made
    assert house.state.balance == 500_000
    assert house.ask("GET", f"/{payment_id}").data == made
    processed = house.process(payment_id)
    transfer_id = house.backend.submitted[-1].id
    completed = {**made, "status": "COMPLETED", "posted_at": INSTANT, "transfer_id": transfer_id}
    assert (processed.status, processed.data) == (200, completed)
    assert processed.header("Idempotent-Replayed") is None
    assert house.state.balance == 489_950
    assert house.ask("GET", f"/{payment_id.upper()}").data == completed


def test_direction_and_type_are_taken_without_case_and_the_description_is_trimmed(house: House) -> None:
    data = house.create(direction="credit", payment_type=" Deposit ", description="  pay day\n", amount=7).data
    assert (data["direction"], data["payment_type"]) == ("CREDIT", "DEPOSIT")
    assert (data["description"], data["amount"]) == ("pay day", "7.00")
    assert house.create(description="x" * 255).status == 201


@pytest.mark.parametrize(
    ("field", "value", "refusal"),
    [
        *(("amount", value, (400, "invalid_amount_format")) for value in MALFORMED),
        *(("amount", value, (422, "negative_amount")) for value in ("0", "-1", 0, "0.00", -0.5)),
        *(("direction", value, (400, "invalid_direction")) for value in ("OUT", "DEBITS")),
        *(("payment_type", value, (400, "invalid_payment_type")) for value in ("CARD", "DEBIT")),
        *((field, 5, (400, "invalid_request")) for field in FIELDS[1:]),
        ("description", "x" * 256, (400, "invalid_request")),
        ("description", "a\0b", (400, "invalid_request")),
        ("user_bank_account_id", "not-an-id", (400, "invalid_uuid_format")),
        *((field, value, (400, "missing_fields")) for field in FIELDS for value in (None, "", " \t ")),
    ],
)
def test_a_field_that_is_wrong_is_named(house: House, field: str, value: Any, refusal: tuple[int, str]) -> None:
    for reply in (house.create(**{field: value}), house.validate(**{field: value})):
        if refusal[1] == "negative_amount" and reply.status == 200:
            assert reply.data["error"]["reason"] == "negative_amount"
            continue
        assert reply.refusal == refusal
        assert reply.error["details"]["field"] == field
    assert not house.store.made


def test_the_first_field_that_fails_decides(house: House) -> None:
    """All are wrong at first, and are mended one by one."""
    wrong = dict.fromkeys(FIELDS, "?") | {"description": "x" * 256}
    for number, (field, reason) in enumerate(
        zip(
            FIELDS,
            (
                *("invalid_amount_format", "invalid_direction", "invalid_payment_type"),
                *("invalid_request", "invalid_uuid_format"),
            ),
            strict=True,
        )
    ):
        body = {name: wrong[name] for name in FIELDS[number:]}
        reply = house.create(**body)
        assert (reply.error["reason"], reply.error["details"]["field"]) == (reason, field)
        # One that is missing is no better than one that is wrong, and no worse.
        body = {name: wrong[name] for name in FIELDS[number + 1 :]} | {field: ""}
        reply = house.create(**body)
        assert (reply.error["reason"], reply.error["details"]["field"]) == ("missing_fields", field)
    # The scale is that of the account, which is known by then.
    assert house.create(amount="1.005", direction="OUT").refusal == (400, "invalid_amount_format")
    assert house.ask("POST", "", {}).error["details"] == {"field": "amount", "fields": list(FIELDS)}


def test_whose_account_it_is(house: House) -> None:
    named = "user_bank_account_id"
    assert house.create(**{named: UNKNOWN}).refusal == (404, "account_not_found")
    assert house.create(**{named: house.strange}).refusal == (403, "unauthorized_access")
    assert house.create(**{named: world_id("USD/2")}).refusal == (404, "account_not_found")
    assert house.create(house.support).refusal == (403, "unauthorized_access")
    assert house.create(house.admin, **{named: world_id("USD/2")}).refusal == (403, "forbidden")
    game, _ = house.backend.open_account(None, GAMES_ASSET)
    wallet, _ = house.backend.open_account(None)
    for owner in (game, wallet):
        assert house.create(house.admin, **{named: owner.account_id}).refusal == (403, "forbidden")
        assert house.create(**{named: owner.account_id}).refusal == (403, "unauthorized_access")
    # An admin makes it for the account's user; another currency's scale is not looked at for strangers.
    reply = house.create(house.admin)
    assert (reply.status, reply.data["user_id"]) == (201, house.user_id)
    assert house.create(amount="1.005", **{named: house.strange}).refusal == (403, "unauthorized_access")


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("FROZEN", "account_frozen"),
        ("SUSPENDED", "account_suspended"),
        ("INACTIVE", "account_inactive"),
        ("CLOSED", "account_inactive"),
    ],
)
def test_only_active_accounts_pay(house: House, status: str, reason: str) -> None:
    payment_id = house.make()
    house.state.status = status
    assert house.create(amount="10000.01").refusal == (422, reason)
    assert house.process(payment_id).refusal == (422, reason)
    verdict = house.validate().data
    assert (verdict["valid"], verdict["error"]["reason"], verdict["account"]["status"]) == (False, reason, status)


def test_the_limit_of_one_payment(house: House) -> None:
    assert house.create(amount="10000.00").status == 201
    reply = house.create(amount="10000.01")
    assert reply.refusal == (422, "amount_exceeds_limit")
    assert reply.error["details"] == {"field": "amount", "limit": "10000.00"}
    assert house.create(amount="9" * 60).refusal == (422, "amount_exceeds_limit")
    yen, _ = house.backend.open_account(house.user_id, "JPY/0")
    house.backend.book.accounts[yen.account_id].balance = 10**6
    assert house.create(amount="10000", user_bank_account_id=yen.account_id).data["amount"] == "10000"
    assert house.create(amount="10001", user_bank_account_id=yen.account_id).refusal == (422, "amount_exceeds_limit")
    assert house.create(amount="1.5", user_bank_account_id=yen.account_id).refusal == (400, "invalid_amount_format")


def test_what_processing_refuses_leaves_it_pending() -> None:
    house = House(rules=rules(limit="300", daily="250"))
    house.state.balance = 10_000
    assert house.process(house.make()).refusal == (422, "insufficient_funds")
    assert house.process(house.make(amount="100")).status == 200
    house.state.balance = 100_000
    over = house.make(amount="150.01")
    reply = house.process(over)
    assert reply.refusal == (422, "daily_limit_exceeded")
    assert reply.error["details"] == {
        "account_id": house.account,
        "limit": "250.00",
        "spent": "100.00",
        "requested": "150.01",
    }
    assert house.process(house.make(amount="100")).refusal == (409, "duplicate_transaction")
    assert house.process(house.make(amount="150", description="equal is allowed")).status == 200
    assert house.ask("GET", f"/{over}").data["status"] == "PENDING"
    assert house.state.balance == 85_000


def test_once_processed_it_stays_so(house: House) -> None:
    payment_id = house.make()
    transfer_id = house.process(payment_id).data["transfer_id"]
    details = {"payment_id": payment_id, "status": "COMPLETED", "transfer_id": transfer_id}
    for reply in (house.process(payment_id), house.cancel(payment_id), house.schedule(payment_id)):
        assert reply.refusal == (409, "already_processed")
        assert reply.error["details"] == details
    assert house.state.balance == 489_950


def test_a_key_of_the_clients_own(house: House) -> None:
    one, two = house.make(), house.make(description="another")
    first = house.process(one, key="k")
    again = house.process(one, key="k")
    assert (again.status, again.data) == (200, first.data)
    assert again.header("Idempotent-Replayed") == "true"
    assert house.process(two, key="k").refusal == (409, "duplicate_transaction")
    assert house.process(one).refusal == (409, "already_processed")
    assert house.process(two, key="\u00e9").refusal == (400, "invalid_idempotency_key")
    assert house.process(two).status == 200


def test_a_payment_under_its_own_key_stands_in_its_users_scope(house: House) -> None:
    payment_id = house.make()
    assert house.process(payment_id, house.admin).status == 200
    command = house.backend.submitted[-1]
    assert (command.scope, command.key) == (house.user_id, f"payment:{payment_id}")


def test_cancelling(house: House) -> None:
    for who in (house.jwt, house.support, house.admin):
        payment_id = house.make()
        reply = house.cancel(payment_id, who)
        assert (reply.status, reply.data["status"], reply.data["posted_at"]) == (200, "CANCELLED", None)
        assert house.cancel(payment_id, who).refusal == (409, "already_processed")
        assert house.process(payment_id).refusal == (409, "already_processed")
    payment_id = house.make()
    assert house.ask("DELETE", f"/{payment_id}").data["status"] == "CANCELLED"
    assert house.state.balance == 500_000


@pytest.mark.parametrize("path", ONE)
def test_whose_payment_it_is(house: House, path: str) -> None:
    method = "GET" if path in ("", "/status") else "POST"
    body: Any = {} if path == "/schedule" else None

    def ask(payment_id: str, token: str) -> tuple[int, str]:
        reply = house.ask(method, f"/{payment_id}{path}", body, token)
        return (reply.status, "") if reply.status < 400 else reply.refusal

    payment_id = house.make()
    assert ask(payment_id, house.strange_jwt) == (403, "unauthorized_access")
    assert ask(UNKNOWN, house.jwt) == (404, "payment_not_found")
    assert ask("nonsense", house.jwt) == (400, "invalid_uuid_format")
    # What the role alone decides comes before the id is looked at.
    assert ask("nonsense", house.server.token) == (403, "insufficient_permissions")
    assert ask(payment_id, house.strange_token) == (403, "insufficient_permissions")
    supports = {"/process": "insufficient_permissions", "/schedule": "insufficient_permissions"}.get(path)
    status, reason = ask(house.make(), house.support)
    assert (status, reason) == ((403, supports) if supports else (200, ""))
    assert ask("nonsense", house.support)[0] == (403 if supports else 400)
    assert ask(house.make(description=path or "x"), house.admin)[0] in (200, 202)


def test_an_account_token_is_refused_everywhere(house: House) -> None:
    for method, path in (("POST", ""), ("GET", ""), ("POST", "/validate"), ("GET", "/stats")):
        reply = house.ask(method, path, {} if method == "POST" else None, house.server.token)
        assert reply.refusal == (403, "insufficient_permissions")


def test_validation_tells_and_writes_nothing(house: House) -> None:
    reply = house.validate()
    assert reply.status == 200
    told = reply.data
    assert set(told) == {"valid", "message", "payment", "account"}
    assert told["valid"] is True
    assert told["payment"] == {
        "user_id": house.user_id,
        "user_bank_account_id": house.account,
        "amount": "100.50",
        "currency": "USD",
        "direction": "DEBIT",
        "payment_type": "PAYMENT",
        "description": "Coffee shop payment",
    }
    assert (told["account"]["id"], told["account"]["available"]) == (house.account, "5000.00")
    assert house.validate(user_bank_account_id=UNKNOWN).refusal == (404, "account_not_found")
    assert house.validate(user_bank_account_id=house.strange).refusal == (403, "unauthorized_access")
    house.process(house.make())
    submitted = len(house.backend.submitted)
    house.state.balance = 50_000
    for more, reason, code in (
        ({"amount": "-5"}, "negative_amount", 422),
        ({"amount": "0.0"}, "negative_amount", 422),
        ({"amount": "10000.01"}, "amount_exceeds_limit", 422),
        ({"amount": "9" * 64}, "amount_exceeds_limit", 422),
        ({"amount": "500.01"}, "insufficient_funds", 422),
        ({}, "duplicate_transaction", 409),
    ):
        reply = house.validate(**more)
        told = reply.data
        assert (reply.status, told["valid"]) == (200, False)
        assert (told["error"]["reason"], told["error"]["code"]) == (reason, code)
        assert told["message"] == told["error"]["message"] != ""
    house.state.balance = 10**9
    assert house.validate(amount="899.51").data["error"]["reason"] == "daily_limit_exceeded"
    assert house.validate(amount="899.50").data["valid"] is True
    assert house.validate(amount="-12.5").data["payment"]["amount"] == "-12.50"
    assert len(house.store.made) == 1
    assert len(house.backend.submitted) == submitted


def test_where_it_stands(house: House) -> None:
    payment_id = house.make()
    status = house.ask("GET", f"/{payment_id}/status").data
    assert status == {
        "payment": house.ask("GET", f"/{payment_id}").data,
        "can_process": True,
        "is_duplicate": False,
    }
    twin = house.make()
    house.process(twin)
    job = house.schedule(payment_id).data
    status = house.ask("GET", f"/{payment_id}/status").data
    assert (status["can_process"], status["is_duplicate"], status["job"]) == (False, True, job)
    # Never a duplicate of itself.
    status = house.ask("GET", f"/{twin}/status", token=house.support).data
    assert (status["payment"]["status"], status["can_process"], status["is_duplicate"]) == ("COMPLETED", False, False)
    house.store.processing.add(payment_id)
    assert house.ask("GET", f"/{payment_id}/status").data["payment"]["status"] == "PROCESSING"


def test_scheduling(house: House) -> None:
    payment_id = house.make()
    reply = house.schedule(payment_id, priority=0, delay_seconds=90)
    assert reply.status == 202
    assert reply.data["args"] == {"payment_id": payment_id}
    assert (reply.data["queue"], reply.data["state"], reply.data["priority"]) == ("payments", "scheduled", 0)
    how = house.desk.queued[f"payment:{payment_id}"][1]
    assert (how["delay"], how["unique_for"]) == (90.0, 60.0)
    assert house.schedule(payment_id).data == reply.data
    assert house.schedule(house.make(), priority=None).data["priority"] == 5
    reply = house.ask("POST", f"/{house.make()}/schedule")  # without a body
    assert (reply.status, reply.data["state"], reply.data["priority"]) == (202, "available", 5)
    house.store.processing.add(payment_id)
    assert house.schedule(payment_id).status == 202
    for field, value in (
        *(("priority", value) for value in (-1, 10, "1", 1.5, True)),
        *(("delay_seconds", value) for value in (-1, 10**9, "1", 0.5)),
    ):
        reply = house.ask("POST", f"/{house.make()}/schedule", {field: value})
        assert reply.refusal == (400, "invalid_request")
        assert reply.error["details"]["field"] == field


@pytest.mark.parametrize("self_funding", [True, False])
def test_money_from_outside(self_funding: bool) -> None:
    house = House(self_funding=self_funding)
    credit = house.make(token=house.admin, direction="CREDIT")
    refused = (403, "insufficient_permissions")
    outcomes = [
        house.create(direction="credit"),
        house.create(direction="CREDIT", user_bank_account_id="nonsense"),
        house.validate(direction="CREDIT"),
        house.schedule(credit),
        house.process(credit),
    ]
    if self_funding:
        assert [reply.status for reply in outcomes] == [201, 400, 200, 202, 200]
        assert house.state.balance == 510_050
    else:
        assert [reply.refusal for reply in outcomes] == [refused] * 5
        assert house.create(direction="CREDIT", description="x" * 256).refusal == (400, "invalid_request")
        assert house.schedule(credit, house.admin).status == 202
        assert house.process(credit, house.admin).status == 200
    assert house.process(house.make()).status == 200  # a debit is no funding


def test_lists_are_the_callers_own_by_pages(house: House) -> None:
    made = [house.make(description=f"number {n}") for n in range(5)]
    house.create(house.strange_jwt, user_bank_account_id=house.strange)
    reply = house.ask("GET", "?page_size=2&page=2")
    assert [one["id"] for one in reply.data] == [made[2], made[1]]
    assert reply.json["metadata"]["pagination"] == {
        "page": 2,
        "page_size": 2,
        "total_count": 5,
        "total_pages": 3,
        "has_next": True,
        "has_prev": True,
    }
    assert house.ask("GET", "", token=house.admin).data == []
    query = "?direction=debit&status=processing&payment_type=Payment&date_from=2026-01-31&date_to=2026-02-01"
    assert house.ask("GET", f"{query}&sort=amount:desc,inserted_at:asc").status == 200
    user_id, wanted, order, limit, offset = house.store.asked[-1]
    assert (user_id, limit, offset) == (house.user_id, 20, 0)
    assert (wanted.direction, wanted.status, wanted.payment_type) == ("DEBIT", "PROCESSING", "PAYMENT")
    assert (wanted.since, wanted.before) == (datetime(2026, 1, 31, tzinfo=UTC), datetime(2026, 2, 2, tzinfo=UTC))
    assert list(order) == [("amount", True), ("inserted_at", False)]
    house.ask("GET", f"?date_from={quote('2026-01-31T12:00:00+02:00')}")
    assert house.store.asked[-1][1].since == datetime(2026, 1, 31, 10, tzinfo=UTC)
    assert house.ask("GET", "?date_from=0001-01-01&date_to=9999-12-31").status == 200
    assert house.store.asked[-1][1].before == datetime.max.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("query", "reason", "field"),
    [
        ("direction=OUT", "invalid_direction", "direction"),
        (f"payment_type={quote('depoſit')}", "invalid_payment_type", "payment_type"),
        ("status=DONE", "invalid_status", "status"),
        ("payment_type=CARD", "invalid_payment_type", "payment_type"),
        ("page=0", "invalid_pagination", "page"),
        ("page_size=x", "invalid_pagination", "page_size"),
        ("sort=description", "invalid_sort", "sort"),
        *((f"date_from={text}", "invalid_datetime_format", "date_from") for text in ("x", "2026-13-01", "1", "")),
        *(
            (f"date_to={text}", "invalid_datetime_format", "date_to")
            for text in ("9999-12-32", "2026-02-30", "2026-01-01T00:00:00", "0001-01-01T00:00:00%2B14:00")
        ),
    ],
)
def test_what_a_list_cannot_be_asked_for(house: House, query: str, reason: str, field: str) -> None:
    reply = house.ask("GET", f"?{query}")
    assert reply.refusal == (400, reason)
    assert reply.error["details"]["field"] == field


def test_stats_are_ones_own_or_an_admins(house: House) -> None:
    payment_id = house.make()
    stats = house.ask("GET", "/stats").data
    assert stats["financial_health"] == {
        "user_id": house.user_id,
        "currency": "USD",
        "total_balance": "5000.00",
        "balances": {"USD": "5000.00"},
        "total_accounts": 1,
        "active_accounts": 1,
        "frozen_accounts": 0,
        "suspended_accounts": 0,
        "is_healthy": True,
        "can_make_payments": True,
    }
    assert [one["id"] for one in stats["recent_payments"]] == [payment_id]
    query = f"/stats?user_id={house.user_id}"
    assert house.ask("GET", query).data == stats
    assert house.ask("GET", query, token=house.admin).data == stats
    for token in (house.strange_jwt, house.support):
        assert house.ask("GET", query, token=token).refusal == (403, "unauthorized_access")
        assert house.ask("GET", f"/stats?user_id={UNKNOWN}", token=token).refusal == (403, "unauthorized_access")
    assert house.ask("GET", f"/stats?user_id={UNKNOWN}", token=house.admin).refusal == (404, "user_not_found")
    assert house.ask("GET", "/stats?user_id=x", token=house.admin).refusal == (400, "invalid_uuid_format")
    house.state.status, house.state.balance = "FROZEN", 0
    health = house.ask("GET", "/stats").data["financial_health"]
    assert (health["frozen_accounts"], health["is_healthy"], health["can_make_payments"]) == (1, False, False)


def test_what_is_queued_too_long_was_not_done(house: House) -> None:
    payment_id = house.make()
    house.backend.trouble = unavailable()
    for reply in (house.process(payment_id), house.cancel(payment_id)):
        assert reply.refusal == (503, "service_unavailable")
        assert reply.error["details"]["outcome"] == "not_done"

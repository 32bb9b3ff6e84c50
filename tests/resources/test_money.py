"""POST /credit and POST /debit, through both adapters."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ledger.domain.errors import unavailable
from tests.resources.backend import MemoryBackend, Settings
from tests.resources.harness import Server

UNKNOWN = "01900000-0000-7000-8000-ffffffffffff"


def test_credit_answers_with_the_transaction(server: Server) -> None:
    reply = server.credit("50.5")
    assert reply.status == 201
    assert list(reply.json) == ["data", "success", "timestamp", "correlation_id"]
    data = reply.data
    assert re.fullmatch(r"[0-9a-f-]{36}", data.pop("id"))
    assert data.pop("transfer_id") == server.backend.submitted[0].id
    assert data == {
        "account_id": server.account.account_id,
        "user_id": server.user_id,
        "amount": "50.50",
        "type": "credit",
        "timestamp": "2026-01-02T03:04:05.678901Z",
        "balance": "50.50",
        "version": 1,
    }
    assert reply.json["timestamp"] == "2026-05-28T20:26:40.250Z"


def test_debit_takes_what_is_there_and_no_more(server: Server) -> None:
    server.credit("50")
    assert server.debit("20.01").data["balance"] == "29.99"
    reply = server.debit("30")
    assert reply.refusal == (422, "insufficient_funds")
    assert reply.error["details"] == {
        "account_id": server.account.account_id,
        "available": "29.99",
        "requested": "30.00",
    }
    assert server.debit("29.99").data["type"] == "debit"


@pytest.mark.parametrize("path", ["/credit", "/api/credit"])
def test_aliases_are_one_endpoint(server: Server, path: str) -> None:
    body = {"user_id": server.user_id, "amount": 1}
    first = server.ask("POST", path, body, {"Idempotency-Key": "k"})
    second = server.credit("1.00", key="k")
    assert (first.status, second.status) == (201, 201)
    assert second.header("Idempotent-Replayed") == "true"


def test_a_replay_is_byte_for_byte_what_was_answered_first(server: Server) -> None:
    first = server.credit(50, key="a key", description="x")
    server.credit(1)
    again = server.credit("50.00", key="a key", description="x")
    assert first.header("Idempotent-Replayed") is None
    assert again.header("Idempotent-Replayed") == "true"
    assert again.status == 201
    assert first.body.partition(b',"success"')[0] == again.body.partition(b',"success"')[0]
    assert server.debit("51.01").refusal == (422, "insufficient_funds")  # booked once


def test_a_replay_succeeds_when_the_account_is_frozen_by_now(server: Server) -> None:
    first = server.credit(50, key="k")
    server.backend.book.accounts[server.account.account_id].status = "FROZEN"
    assert server.credit(50, key="k").data == first.data
    assert server.credit(50, key="other").refusal == (422, "account_frozen")


@pytest.mark.parametrize(
    "change", [{"amount": "50.01"}, {"description": "other"}, {"account_id": "own", "amount": "51"}]
)
def test_a_key_used_for_another_request_is_refused(server: Server, change: dict[str, Any]) -> None:
    if change.get("account_id"):
        change = {**change, "account_id": server.account.account_id}
    first = server.credit(50, key="k")
    reply = server.credit(**{"amount": 50, "key": "k", **change})
    assert reply.refusal == (409, "duplicate_transaction")
    assert reply.error["details"]["transfer_id"] == first.data["transfer_id"]
    assert server.debit(50, key="k").refusal == (409, "duplicate_transaction")


def test_naming_the_account_does_not_make_it_another_request(server: Server) -> None:
    first = server.credit(50, key="k")
    again = server.credit(50, key="k", account_id=server.account.account_id.upper(), description=None)
    assert again.data == first.data


def test_a_request_that_failed_does_not_use_up_its_key(server: Server) -> None:
    assert server.debit(50, key="k").refusal == (422, "insufficient_funds")
    server.credit(100)
    assert server.debit(50, key="k").status == 201


def test_keys_of_different_users_do_not_meet(server: Server) -> None:
    other = server.backend.new_id()
    _, token = server.backend.open_account(other)
    server.credit(50, key="k")
    body = {"user_id": other, "amount": 70}
    reply = server.ask("POST", "/credit", body, {"Idempotency-Key": "k"}, token=token)
    assert reply.data["amount"] == "70.00"


@pytest.mark.parametrize("key", ["x" * 256, "h\xe9", "tab\there", "", "\x7f"])
def test_a_bad_idempotency_key_is_refused(server: Server, key: str) -> None:
    reply = server.credit(1, key=key)
    assert reply.refusal == (400, "invalid_idempotency_key")
    assert reply.error["details"]["field"] == "Idempotency-Key"
    assert server.backend.submitted == []


def test_a_key_has_up_to_255_printable_characters(server: Server) -> None:
    assert server.credit(1, key="x" * 254 + "~").status == 201
    assert server.backend.submitted[0].scope == server.user_id


@pytest.mark.parametrize(
    ("written", "minor"),
    [("50", 5000), (50, 5000), ("50.00", 5000), (50.5, 5050), ("0.01", 1), ("0000.10", 10), ("\\u0035", 500)],
)
def test_amounts_are_taken_as_written(server: Server, written: Any, minor: int) -> None:
    raw = b'{"user_id":"%b","amount":%b}'
    text = f'"{written}"' if isinstance(written, str) else str(written)
    reply = server.ask("POST", "/credit", raw=raw % (server.user_id.encode(), text.encode()))
    assert reply.status == 201
    assert server.backend.submitted[0].amount == minor  # type: ignore[attr-defined]


NO_DECIMALS = (
    *('"abc"', "5e1", "5E1", '"5e1"', '"NaN"', '"Infinity"', '"50.001"', "50.001", '"1,5"', '"+1"', '" 1"', '"1_0"'),
    *("true", "false", "[]", "{}", "[1]", '{"a":1}', '"0x1"', '"1."', '".5"', '"\\u0661"', '"--1"', '"1 "'),
    *('"' + "9" * 65 + '"', "9" * 65, '"0.' + "0" * 65 + '"'),
)


def test_what_is_no_plain_decimal_within_the_scale_is_refused(server: Server) -> None:
    for text in NO_DECIMALS:
        raw = b'{"user_id":"%b","amount":%b}' % (server.user_id.encode(), text.encode())
        reply = server.ask("POST", "/credit", raw=raw)
        assert reply.refusal == (400, "invalid_amount_format"), text
        assert reply.error["details"]["field"] == "amount"


def test_what_is_no_json_number_is_no_json(server: Server) -> None:
    for text in ("NaN", "Infinity", "-Infinity", "01", "+1", ".5", "1."):
        raw = b'{"user_id":"%b","amount":%b}' % (server.user_id.encode(), text.encode())
        assert server.ask("POST", "/credit", raw=raw).refusal == (400, "invalid_request"), text


def test_zero_and_less_is_refused(server: Server) -> None:
    for amount in ("0", 0, "0.00", "-0", -1, "-0.01", -0.0):
        assert server.credit(amount).refusal == (422, "negative_amount"), amount


def test_above_the_configured_limit_is_refused(server: Server) -> None:
    server.backend.config.max_amount = 10_000
    assert server.credit("100.00").status == 201
    assert server.credit("100.01").refusal == (422, "amount_exceeds_limit")
    assert server.credit("9" * 60).refusal == (422, "amount_exceeds_limit")


def test_a_replay_is_answered_although_the_limit_was_lowered_since(server: Server) -> None:
    firsts = [server.credit("100.00", key="c"), server.debit("90.00", key="d")]
    server.backend.config.max_amount = 1_000
    for first, again in zip(firsts, [server.credit("100.00", key="c"), server.debit("90.00", key="d")], strict=True):
        assert (again.status, again.data) == (201, first.data)
        assert again.header("Idempotent-Replayed") == "true"
    assert server.credit("100.00", key="another").refusal == (422, "amount_exceeds_limit")
    assert server.credit("99.00", key="c").refusal == (409, "duplicate_transaction")


@pytest.mark.parametrize("status", ["FROZEN", "SUSPENDED", "INACTIVE", "CLOSED"])
def test_an_account_that_is_not_active_is_refused(server: Server, status: str) -> None:
    server.backend.book.accounts[server.account.account_id].status = status
    reason = {"FROZEN": "account_frozen", "SUSPENDED": "account_suspended"}.get(status, "account_inactive")
    assert server.credit(1).refusal == (422, reason)


@pytest.mark.parametrize("named", ["known", "unknown"])
def test_another_users_id_is_refused_whether_or_not_that_user_exists(server: Server, named: str) -> None:
    other = server.backend.new_id()
    server.backend.open_account(other)
    body = {"user_id": other if named == "known" else UNKNOWN, "amount": "0"}  # before any business rule
    assert server.ask("POST", "/credit", body).refusal == (403, "unauthorized_access")


def test_an_account_token_acts_for_its_account_only(server: Server) -> None:
    second, token = server.backend.open_account(server.user_id)
    strange, _ = server.backend.open_account(server.backend.new_id())
    (world,) = [owner for owner in server.backend.owners.values() if owner.is_system]
    assert server.credit(1, account_id=second.account_id).refusal == (403, "insufficient_permissions")
    assert server.credit(1, account_id=strange.account_id).refusal == (403, "unauthorized_access")
    assert server.credit(1, account_id=UNKNOWN).refusal == (404, "account_not_found")
    assert server.credit(1, account_id=world.account_id).refusal == (404, "account_not_found")
    body = {"user_id": server.user_id, "amount": 1}
    assert server.ask("POST", "/credit", body, token=token).data["account_id"] == second.account_id


def test_an_admin_acts_for_any_user(server: Server) -> None:
    strange, _ = server.backend.open_account(server.backend.new_id())

    def credit(**body: Any) -> Any:
        return server.ask("POST", "/credit", {"amount": 1, **body}, token=server.backend.admin_token)

    assert credit(user_id=server.user_id).data["account_id"] == server.account.account_id
    assert credit(user_id=UNKNOWN).refusal == (404, "user_not_found")
    assert credit(user_id=UNKNOWN, account_id=server.account.account_id).refusal == (404, "user_not_found")
    assert credit(user_id=server.user_id, account_id=strange.account_id).refusal == (403, "unauthorized_access")
    assert credit(user_id=server.user_id, account_id=UNKNOWN).refusal == (404, "account_not_found")


@pytest.mark.parametrize("slowly", [False, True])
def test_without_self_funding_only_admins_bring_money_in(adapter: str, slowly: bool) -> None:
    server = Server(MemoryBackend(Settings(self_funding=False), slowly=slowly), plain=adapter == "plain")
    own = server.backend.log_in("user", server.user_id)
    for token in (server.token, own, server.backend.log_in("support")):
        reply = server.ask("POST", "/credit", raw=b"not even JSON", token=token)
        assert reply.refusal == (403, "insufficient_permissions")
    assert server.debit(1).refusal == (422, "insufficient_funds")
    body = {"user_id": server.user_id, "amount": 1}
    assert server.ask("POST", "/credit", body, token=server.backend.admin_token).status == 201


@pytest.mark.parametrize("field", ["user_id", "account_id"])
@pytest.mark.parametrize(
    "value", ["x", "0190a5b8-0000-7000-8000-00000000000", "{0190a5b8-0000-7000-8000-000000000000}"]
)
def test_a_malformed_id_is_refused(server: Server, field: str, value: str) -> None:
    reply = server.credit(1, **{field: value})
    assert reply.refusal == (400, "invalid_uuid_format")
    assert reply.error["details"]["field"] == field


@pytest.mark.parametrize(
    ("body", "missing"),
    [
        ({}, ["user_id", "amount"]),
        ({"user_id": None, "amount": "  "}, ["user_id", "amount"]),
        ({"user_id": "\u2003\t", "amount": 1}, ["user_id"]),
        ({"user_id": "x", "amount": None}, ["amount"]),
        ({"user_id": 7, "amount": ""}, ["amount"]),
        ({"amount": True}, ["user_id"]),
    ],
)
def test_missing_null_and_blank_fields_are_named(server: Server, body: dict[str, Any], missing: list[str]) -> None:
    reply = server.ask("POST", "/debit", body)
    assert reply.refusal == (400, "missing_fields")
    assert reply.error["details"] == {"field": missing[0], "fields": missing}


@pytest.mark.parametrize(
    ("field", "value"),
    [("user_id", 7), ("user_id", ["x"]), ("description", 7), ("description", "x" * 256), ("account_id", {})],
)
def test_a_field_of_the_wrong_type_or_length_is_named(server: Server, field: str, value: Any) -> None:
    reply = server.credit(**{"amount": 1, field: value})
    assert reply.refusal == (400, "invalid_request")
    assert reply.error["details"]["field"] == field


@pytest.mark.parametrize("place", ['"description":"%s"', '"other":{"deep":[{"%s":1}]}', '"%s":1'])
def test_nul_and_lone_surrogates_are_refused_wherever_they_stand(server: Server, place: str) -> None:
    for escape in ("\\u0000", "\\ud800", "\\udfff", "\\uDE00\\uD83D"):
        raw = f'{{"user_id":"{server.user_id}","amount":1,{place % escape}}}'.encode()
        reply = server.ask("POST", "/credit", raw=raw)
        assert reply.refusal == (400, "invalid_request")
        assert reply.error["details"]["field"] == ("" if place.startswith('"%') else place[1:].partition('"')[0])
        assert server.backend.submitted == []


def test_text_beyond_ascii_is_kept(server: Server) -> None:
    raw = f'{{"user_id":"{server.user_id}","amount":1,"description":"caf\\u00e9 \\ud83d\\ude00 ü"}}'.encode()
    assert server.ask("POST", "/credit", raw=raw).status == 201
    assert server.backend.submitted[0].description == "café 😀 ü"


def test_unknown_fields_are_ignored_and_of_a_key_given_twice_the_last_counts(server: Server) -> None:
    raw = f'{{"amount":1,"n":1e999,"user_id":"{server.user_id}","amount":"2"}}'.encode()
    assert server.ask("POST", "/credit", raw=raw).data["amount"] == "2.00"


def test_an_outage_is_told_with_its_outcome(server: Server) -> None:
    server.backend.trouble = unavailable(retry_after=7)
    reply = server.credit(1)
    assert reply.refusal == (503, "service_unavailable")
    assert reply.error["details"]["outcome"] == "not_done"
    assert reply.header("Retry-After") == "7"
    server.backend.trouble = unavailable("unknown")
    assert server.credit(1).error["details"]["outcome"] == "unknown"


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer nope", "Basic eDp5", "Bearer a b", "Bearer \xe9"]
)
def test_money_takes_a_token_even_from_this_machine(server: Server, authorization: str | None) -> None:
    for peer in ("127.0.0.1", "192.0.2.7"):
        body = {"user_id": server.user_id, "amount": 1}
        reply = server.ask("POST", "/credit", body, {"Authorization": authorization}, token=None, peer=peer)
        assert reply.refusal == (401, "invalid_token")
        assert reply.header("WWW-Authenticate") == "Bearer"
    assert server.backend.submitted == []


def test_authentication_comes_before_everything_in_the_body(server: Server) -> None:
    assert server.ask("POST", "/credit", raw=b"[", token="nope").refusal == (401, "invalid_token")
    assert server.ask("POST", "/credit", raw=b"[", headers={"Idempotency-Key": ""}).refusal[1] == (
        "invalid_idempotency_key"
    )


def test_the_scheme_of_a_token_is_read_without_case(server: Server) -> None:
    body = {"user_id": server.user_id.upper(), "amount": 1}
    headers = {"Authorization": f"bearer  {server.token}"}
    assert server.ask("POST", "/credit", body, headers, token=None).data["user_id"] == server.user_id

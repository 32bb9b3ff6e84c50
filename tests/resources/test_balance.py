"""GET /balance."""

from __future__ import annotations

import pytest

from ledger.domain.errors import unavailable
from tests.resources.backend import INSTANT
from tests.resources.harness import Server

UNKNOWN = "01900000-0000-7000-8000-ffffffffffff"


@pytest.mark.parametrize("path", ["/balance", "/api/balance"])
@pytest.mark.parametrize("named", [True, False])
def test_the_balance_of_ones_own_account(server: Server, path: str, named: bool) -> None:
    server.credit("12.5")
    account = server.backend.book.accounts[server.account.account_id]
    account.held, account.credit_limit = 250, 100
    reply = server.ask("GET", f"{path}?user_id={server.user_id.upper()}" if named else path)
    assert reply.status == 200
    assert reply.data == {
        "user_id": server.user_id,
        "account_id": server.account.account_id,
        "currency": "USD",
        "balance": "12.50",
        "available": "11.00",
        "version": 1,
        "as_of": INSTANT,
    }


def test_an_account_without_a_user_has_a_balance_too(server: Server) -> None:
    owner, token = server.backend.open_account(None, asset="JPY/0")
    reply = server.ask("GET", "/balance", token=token)
    assert (reply.data["user_id"], reply.data["account_id"]) == (None, owner.account_id)
    assert (reply.data["currency"], reply.data["balance"]) == ("JPY", "0")
    refused = server.ask("GET", f"/balance?user_id={server.user_id}", token=token)
    assert refused.refusal == (403, "unauthorized_access")


def test_another_users_balance_is_not_told(server: Server) -> None:
    other = server.backend.new_id()
    server.backend.open_account(other)
    for user_id in (other, UNKNOWN):
        assert server.ask("GET", f"/balance?user_id={user_id}").refusal == (403, "unauthorized_access")


def test_an_admin_sees_any_users(server: Server) -> None:
    token = server.backend.admin_token
    reply = server.ask("GET", f"/balance?user_id={server.user_id}", token=token)
    assert reply.data["account_id"] == server.account.account_id
    assert server.ask("GET", f"/balance?user_id={UNKNOWN}", token=token).refusal == (404, "user_not_found")
    admin = str(server.backend.tokens[token].user_id)
    own, _ = server.backend.open_account(admin)
    assert server.ask("GET", "/balance", token=token).data["account_id"] == own.account_id


def test_support_sees_any_users_and_moves_nothing_of_theirs(server: Server) -> None:
    token = server.backend.log_in("support")
    reply = server.ask("GET", f"/balance?user_id={server.user_id}", token=token)
    assert reply.data["account_id"] == server.account.account_id
    assert server.ask("GET", f"/balance?user_id={UNKNOWN}", token=token).refusal == (404, "user_not_found")
    for path in ("/credit", "/debit"):
        for user_id in (server.user_id, UNKNOWN):
            body = {"user_id": user_id, "amount": 1}
            assert server.ask("POST", path, body, token=token).refusal == (403, "unauthorized_access")


@pytest.mark.parametrize("named", [True, False])
def test_who_has_logged_in_sees_the_first_account(server: Server, named: bool) -> None:
    server.backend.open_account(server.user_id)
    token = server.backend.log_in("user", server.user_id)
    reply = server.ask("GET", f"/balance?user_id={server.user_id}" if named else "/balance", token=token)
    assert reply.data["account_id"] == server.account.account_id
    other = server.backend.log_in("user")
    assert server.ask("GET", f"/balance?user_id={server.user_id}", token=other).refusal == (403, "unauthorized_access")


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("user_id=x", "invalid_uuid_format"),
        ("user_id=", "invalid_uuid_format"),
        ("user_id=a%00b", "invalid_request"),
        ("user_id=%ff", "invalid_request"),
        ("user_id=%ed%a0%80", "invalid_request"),
        ("%00=1", "invalid_request"),
        ("&".join(f"a{n}=1" for n in range(101)), "invalid_request"),
        ("x=\xa0", "invalid_request"),
    ],
)
def test_a_query_that_cannot_be_read_is_refused(server: Server, query: str, reason: str) -> None:
    assert server.ask("GET", f"/balance?{query}").refusal == (400, reason)


def test_unknown_parameters_are_ignored_and_of_repeated_ones_the_last_counts(server: Server) -> None:
    reply = server.ask("GET", f"/balance?x=%C3%BC&user_id=nonsense&user_id={server.user_id}&y")
    assert reply.status == 200


def test_without_a_token_nothing_is_told(server: Server) -> None:
    assert server.ask("GET", "/balance?user_id=x", token=None).refusal == (401, "invalid_token")


def test_an_outage_is_told(server: Server) -> None:
    server.backend.trouble = unavailable()
    reply = server.ask("GET", "/balance")
    assert reply.refusal == (503, "service_unavailable")
    assert reply.header("Retry-After") == "1"

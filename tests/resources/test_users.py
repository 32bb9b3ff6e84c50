"""POST /users."""

from __future__ import annotations

from typing import Any

import pytest

from tests.resources.harness import Reply, Server


@pytest.fixture
def server() -> Server:
    """A server."""
    return Server()


def sign_up(server: Server, **changes: Any) -> Reply:
    """Sign somebody up."""
    body = {"name": "Ada", "email": "ada@example.com", "password": "correct horse", **changes}
    return server.ask("POST", "/users", body, token=None)


def test_a_new_user_has_an_account_and_its_token(server: Server) -> None:
    reply = sign_up(server, name="  Ada Lovelace ", email=" Ada@Example.COM\n", role="admin")
    assert reply.status == 201
    data = reply.data
    assert list(data) == ["id", "name", "email", "account", "token"]
    assert (data["name"], data["email"]) == ("Ada Lovelace", "ada@example.com")
    assert data["account"]["currency"] == "USD"
    assert data["account"]["balance"] == "0.00"
    body = {"user_id": data["id"], "amount": "3"}
    credited = server.ask("POST", "/credit", body, token=data["token"]).data
    assert credited["account_id"] == data["account"]["id"]
    assert server.backend.users.passwords == ["correct horse"]


def test_an_address_is_taken_once_whatever_its_case(server: Server) -> None:
    sign_up(server)
    assert sign_up(server, email="ADA@example.com").refusal == (409, "email_already_exists")


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"email": "ada"}, "invalid_email_format", "email"),
        ({"email": "a@b@c"}, "invalid_email_format", "email"),
        ({"email": "a b@c"}, "invalid_email_format", "email"),
        ({"email": "a" * 250 + "@b.com"}, "invalid_email_format", "email"),
        ({"name": "x" * 256}, "invalid_name_format", "name"),
        ({"password": "1234567"}, "invalid_password_format", "password"),
        ({"password": "x" * 73}, "invalid_password_format", "password"),
        ({"password": "ü" * 37}, "invalid_password_format", "password"),
        ({"name": "  "}, "missing_fields", "name"),
        ({"name": None, "email": ""}, "missing_fields", "name"),
        ({"password": None}, "missing_fields", "password"),
        ({"password": "         "}, "missing_fields", "password"),
        ({"password": 12345678}, "invalid_request", "password"),
        ({"email": ["a@b"]}, "invalid_request", "email"),
        ({"name": "a\0b"}, "invalid_request", "name"),
        ({"password": "12345678\ud800"}, "invalid_request", "password"),
    ],
)
def test_what_breaks_the_rules_is_refused(server: Server, changes: dict[str, Any], reason: str, field: str) -> None:
    reply = sign_up(server, **changes)
    assert reply.refusal == (400, reason)
    assert reply.error["details"]["field"] == field
    assert server.backend.users.passwords == []


def test_a_password_is_never_repeated(server: Server) -> None:
    for password in ("1234567", "correct horse battery", "x" * 80, "corr\0ect horse"):
        assert password.encode() not in sign_up(server, password=password).body


def test_limits_are_inclusive(server: Server) -> None:
    name, email = "x" * 255, "a" * 249 + "@b.com"
    for password in ("12345678", "x" * 72, "ü" * 36):
        assert sign_up(server, name=name, email=email, password=password).status == 201
        server.backend.users.emails.clear()

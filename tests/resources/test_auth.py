"""Logging in and out over HTTP, before sessions that answer what the test wants."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.domain.errors import Refused
from ledger.domain.policy import Caller
from ledger.domain.secret import Secret
from ledger.domain.users import User
from ledger.resources.auth import AuthEndpoints
from ledger.services.sessions import Tokens
from tests.resources.backend import MemoryBackend
from tests.resources.harness import Reply, Server

ADA = User(
    "01900000-0000-7000-8000-00000000000a",
    "ada@example.com",
    "Ada Lovelace",
    "user",
    "ACTIVE",
    True,
    "2026-01-02T03:04:05.678901Z",
    "2026-01-02T03:04:05.678901Z",
)
TOKENS = Tokens(Secret("an-access-token"), Secret("a-refresh-token"), 900, ADA)
VIEW = {
    "id": ADA.id,
    "email": "ada@example.com",
    "full_name": "Ada Lovelace",
    "role": "user",
    "status": "ACTIVE",
    "active": True,
    "verified": True,
    "suspended": False,
    "deleted": False,
    "inserted_at": ADA.inserted_at,
    "updated_at": ADA.updated_at,
}
SECRETS = ("correct horse", "a-refresh-token", "an-access-token")


class FakeSessions:
    """Notes what it is asked, and answers, or refuses with `trouble`."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.trouble: Refused | None = None

    def _note(self, *asked: object) -> None:
        self.asked.append(asked)
        if self.trouble is not None:
            raise self.trouble

    async def login(self, email: str, password: Secret, address: str) -> Tokens:
        """Log in."""
        self._note("login", email, password.reveal(), address)
        return TOKENS

    async def refresh(self, token: Secret) -> Tokens:
        """Refresh."""
        self._note("refresh", token.reveal())
        return TOKENS

    async def logout(self, token: Secret) -> str:
        """Log out."""
        self._note("logout", token.reveal())
        return ADA.id

    async def logout_all(self, caller: Caller) -> int:
        """Log out everywhere."""
        self._note("logout_all", caller.user_id)
        return 3

    async def me(self, caller: Caller) -> User:
        """Tell who asks."""
        self._note("me", caller.user_id)
        return ADA


class Desk:
    """A server with only these endpoints."""

    def __init__(self, plain: bool) -> None:
        self.sessions = FakeSessions()
        backend = MemoryBackend()
        backend.tokens["hers"] = Caller("user", None, ADA.id, "user", "s")
        endpoints = AuthEndpoints(self.sessions).endpoints()  # type: ignore[arg-type]
        self.server = Server(backend, plain=plain, endpoints=endpoints)

    def post(self, what: str, body: object = None, token: str | None = None, **more: Any) -> Reply:
        """Post something."""
        return self.server.ask("POST", f"/api/auth/{what}", body, token=token, **more)

    def audited(self) -> list[dict[str, Any]]:
        """The details of what was written down."""
        return [dict(event.details) for event in self.server.audited]


@pytest.fixture
def desk(adapter: str) -> Desk:
    """A desk behind either adapter."""
    return Desk(adapter == "plain")


def test_a_login(desk: Desk) -> None:
    reply = desk.post("login", {"email": " ADA@example.com", "password": "correct horse", "role": "admin"})
    assert reply.status == 200
    assert list(reply.data) == ["access_token", "refresh_token", "token_type", "expires_in", "user"]
    assert (reply.data["access_token"], reply.data["refresh_token"]) == ("an-access-token", "a-refresh-token")
    assert (reply.data["token_type"], reply.data["expires_in"]) == ("Bearer", 900)
    assert reply.data["user"] == VIEW
    assert reply.header("Cache-Control") == "no-store"
    assert desk.sessions.asked == [("login", " ADA@example.com", "correct horse", "192.0.2.7")]


def test_a_refresh_a_logout_and_me(desk: Desk) -> None:
    body = {"refresh_token": "a-refresh-token"}
    assert desk.post("refresh", body).data["user"] == VIEW
    assert desk.post("logout", body).data == {"message": "Logged out"}
    assert desk.post("logout-all", token="hers").data == {"message": "Logged out everywhere"}
    assert desk.server.ask("GET", "/api/auth/me", token="hers").data == VIEW
    assert desk.sessions.asked == [
        ("refresh", "a-refresh-token"),
        ("logout", "a-refresh-token"),
        ("logout_all", ADA.id),
        ("me", ADA.id),
    ]


@pytest.mark.parametrize("path", ["POST logout-all", "GET me"])
def test_these_need_a_user(desk: Desk, path: str) -> None:
    method, _, what = path.partition(" ")
    assert desk.server.ask(method, f"/api/auth/{what}").refusal == (403, "insufficient_permissions")
    for token in (None, "unknown"):
        reply = desk.server.ask(method, f"/api/auth/{what}", token=token)
        assert reply.refusal == (401, "invalid_token")
        assert reply.header("WWW-Authenticate") == "Bearer"
    assert desk.sessions.asked == []


@pytest.mark.parametrize(
    ("what", "body", "reason", "field"),
    [
        ("login", {"email": "a@b"}, "missing_fields", "password"),
        ("login", {"email": "a@b", "password": ""}, "missing_fields", "password"),
        ("login", {"email": " ", "password": "correct horse"}, "missing_fields", "email"),
        ("login", {"email": None, "password": "correct horse"}, "missing_fields", "email"),
        ("login", {"email": "a@b", "password": 12345678}, "invalid_request", "password"),
        ("login", {"email": "a@b", "password": {"$ne": ""}}, "invalid_request", "password"),
        ("login", {"email": ["a@b"], "password": "correct horse"}, "invalid_request", "email"),
        ("login", {"email": "a\0@b", "password": "correct horse"}, "invalid_request", "email"),
        ("login", {"email": "a@b", "password": "correct horse\0"}, "invalid_request", "password"),
        ("login", {"email": "a@b", "password": "correct horse\ud800"}, "invalid_request", "password"),
        ("login", ["a@b"], "invalid_request", None),
        ("refresh", {}, "missing_fields", "refresh_token"),
        ("refresh", {"refresh_token": None}, "missing_fields", "refresh_token"),
        ("refresh", {"refresh_token": 1}, "invalid_request", "refresh_token"),
        ("logout", {"refresh_token": " "}, "missing_fields", "refresh_token"),
        ("logout", {"refresh_token": ["a-refresh-token"]}, "invalid_request", "refresh_token"),
    ],
)
def test_what_cannot_be_read(desk: Desk, what: str, body: object, reason: str, field: str | None) -> None:
    reply = desk.post(what, body)
    assert reply.refusal == (400, reason)
    assert reply.error["details"].get("field") == field
    assert desk.sessions.asked == []
    assert not any(secret.encode() in reply.body for secret in SECRETS)


def test_too_much(desk: Desk) -> None:
    assert desk.post("login", {"email": "a@b", "password": "x" * (1 << 20)}).refusal == (413, "payload_too_large")
    nested = b'{"email": ' + b"[" * 500_000 + b"]" * 500_000 + b"}"
    assert desk.post("login", raw=nested).refusal == (400, "invalid_request")


@pytest.mark.parametrize(
    ("what", "reason", "status"),
    [
        ("login", "invalid_credentials", 401),
        ("login", "account_inactive", 422),
        ("login", "rate_limit_exceeded", 429),
        ("refresh", "token_revoked", 401),
        ("refresh", "token_expired", 401),
        ("logout", "invalid_token_type", 401),
        ("logout", "service_unavailable", 503),
    ],
)
def test_refusals_tell_no_secret(desk: Desk, what: str, reason: str, status: int) -> None:
    desk.sessions.trouble = Refused(reason)
    body = {"email": "ada@example.com", "password": "correct horse", "refresh_token": "a-refresh-token"}
    reply = desk.post(what, body)
    assert reply.refusal == (status, reason)
    assert not any(secret.encode() in reply.body for secret in SECRETS)
    assert not any(secret in repr(desk.server.audited) for secret in SECRETS)
    if status in (401, 429):
        assert desk.audited() == [{"email": "ada@example.com"} if what == "login" else {}]


def test_a_password_in_the_wrong_place_is_not_written_down(desk: Desk) -> None:
    desk.sessions.trouble = Refused("invalid_credentials")
    desk.post("login", {"email": "correct horse", "password": "ada@example.com"})
    assert desk.audited() == [{}]


def test_every_reason_is_declared() -> None:
    login, refresh, logout, everywhere, me = AuthEndpoints(FakeSessions()).endpoints()  # type: ignore[arg-type]
    assert {"invalid_credentials", "account_inactive", "rate_limit_exceeded"} < set(login.refuses)
    for endpoint in (refresh, logout):
        assert {"invalid_token", "token_expired", "token_revoked", "invalid_token_type"} < set(endpoint.refuses)
    assert (everywhere.is_open, me.is_open) == (False, False)

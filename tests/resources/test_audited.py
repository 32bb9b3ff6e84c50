"""What of the requests goes into the audit log, through both adapters: who was turned away, and what admins did."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ledger.domain.errors import CATALOGUE, Category, Refused, unavailable
from ledger.domain.policy import Action
from ledger.domain.secret import Secret
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.services.audit import AuditEvent
from tests.cleanliness import LoggedErrors
from tests.resources.backend import Away, MemoryBackend, Settings
from tests.resources.harness import Server

HERE = "192.0.2.7"
MINE = {"X-Correlation-ID": "mine"}
UNKNOWN = "01900000-0000-7000-8000-ffffffffffff"


@pytest.fixture
def server(adapter: str) -> Server:
    """A server that takes ten requests a minute of each client."""
    return Server(plain=adapter == "plain", limit=(10, 60))


@pytest.mark.parametrize("token", [None, "nobody's"])
def test_whoever_is_not_known(server: Server, token: str | None) -> None:
    for method, path in (("POST", "/api/debit"), ("GET", "/api/users"), ("DELETE", f"/api/users/{UNKNOWN}")):
        server.ask(method, path, headers=MINE, token=token)
    names = ["POST /debit", "GET /api/users", "DELETE /api/users/<id>"]
    assert server.audited == [
        AuditEvent("authentication_failed", "invalid_token", name, None, None, HERE, "mine") for name in names
    ]


def test_whoever_may_not(server: Server) -> None:
    account_id, user_id = server.account.account_id, server.backend.new_id()
    user = server.backend.log_in("user", user_id)
    server.ask("GET", "/api/users", headers=MINE)
    server.ask("GET", "/api/audit", headers=MINE, token=user)
    server.ask("GET", f"/balance?user_id={UNKNOWN}", headers=MINE)
    server.ask("POST", "/credit", {"user_id": UNKNOWN, "amount": 1}, MINE, token=user)
    told = [(event.reason, event.endpoint, event.actor_kind, event.actor_id) for event in server.audited]
    assert told == [
        ("insufficient_permissions", "GET /api/users", "account", account_id),
        ("insufficient_permissions", "GET /api/audit", "user", user_id),
        ("unauthorized_access", "GET /balance", "account", account_id),
        ("unauthorized_access", "POST /credit", "user", user_id),
    ]
    common = {(event.event, event.address, event.correlation_id) for event in server.audited}
    assert common == {("authorization_failed", HERE, "mine")}


def test_whoever_asks_too_often(server: Server) -> None:
    for _ in range(11):
        server.credit(1)
    for _ in range(12):
        server.ask("GET", "/nothing", headers=MINE)
    (known, *unknown) = server.audited
    kept = msgspec.structs.replace(known, correlation_id=None)
    account_id = server.account.account_id
    assert kept == AuditEvent("rate_limited", "rate_limit_exceeded", "POST /credit", "account", account_id, HERE)
    assert unknown == [AuditEvent("rate_limited", "rate_limit_exceeded", "-", None, None, HERE, "mine")] * 2


def test_a_correlation_id_that_was_made_is_the_one_that_was_told(server: Server) -> None:
    reply = server.ask("GET", "/balance", token=None)
    assert [event.correlation_id for event in server.audited] == [reply.header("X-Correlation-ID")]


def test_which_refusals_are_written_down(adapter: str) -> None:
    events = {
        Category.AUTHENTICATION: "authentication_failed",
        Category.AUTHORIZATION: "authorization_failed",
        Category.RATE_LIMIT: "rate_limited",
    }
    server = Server(plain=adapter == "plain")
    for reason, row in CATALOGUE.items():
        server.audited.clear()
        server.backend.trouble = Refused(reason)
        server.credit(1)
        expected = [(events[row.category], reason)] if row.category in events else []
        assert [(event.event, event.reason) for event in server.audited] == expected


def test_what_is_done_as_it_should_be_is_not(server: Server) -> None:
    server.credit(2)
    server.debit(1)
    server.ask("GET", "/balance")
    server.ask("GET", "/balance", token=server.backend.admin_token)
    server.ask("GET", "/api/health")
    server.ask("OPTIONS", "/credit", token=None)
    server.ask("GET", "/nothing")
    assert server.audited == []


def test_the_address_is_the_clients_own(adapter: str) -> None:
    backend = MemoryBackend(Settings(trusted_proxies=("192.0.2.0/24",)))
    server = Server(backend, plain=adapter == "plain")
    forged = {"X-Forwarded-For": "198.51.100.9, 203.0.113.1"}
    for peer in (HERE, "203.0.113.5"):
        server.ask("GET", "/balance", headers=forged, token=None, peer=peer)
    server.ask("GET", "/balance", token=None, peer="::ffff:203.0.113.6")
    assert [event.address for event in server.audited] == ["203.0.113.1", "203.0.113.5", "203.0.113.6"]


class TestAdmins:
    """What admins do."""

    @pytest.fixture
    def server(self, adapter: str) -> Server:
        """A server with something to be done."""

        async def change(_caller: Any, call: Call[None, None]) -> Answer:
            call.notes["colour"] = "green"
            if call.params["id"] == "missing":
                raise Refused("user_not_found")
            if call.params["id"] == "forbidden":
                raise Refused("forbidden")
            if call.params["id"] == "away":
                raise unavailable()
            if call.params["id"] == "committing":
                raise unavailable("unknown")
            if call.params["id"] == "broken":
                raise LookupError(call.params["id"])
            return Answer({"message": "done"})

        paths = {"POST": "/api/things/<id>", "PUT": "/api/things/<id>", "GET": "/api/things/<id>"}
        endpoints = [
            Endpoint(method, path, change, summary="", policy=Action.MOVE_MONEY) for method, path in paths.items()
        ]
        return Server(plain=adapter == "plain", endpoints=endpoints)

    def test_what_they_change_is_written_down(self, server: Server) -> None:
        """With what it was done to, and what the handler notes besides."""
        admin = server.backend.tokens[server.backend.admin_token]
        for method in ("POST", "PUT"):
            server.ask(method, "/api/things/7", headers=MINE, token=server.backend.admin_token)
        assert server.audited == [
            AuditEvent(
                "admin_action",
                None,
                f"{method} /api/things/<id>",
                "user",
                admin.user_id,
                HERE,
                "mine",
                {"id": "7", "colour": "green"},
            )
            for method in ("POST", "PUT")
        ]

    def test_what_they_read_and_what_others_do_is_not(self, server: Server) -> None:
        """Nor what fails as such."""
        server.ask("GET", "/api/things/7", token=server.backend.admin_token)
        server.ask("PUT", "/api/things/missing", token=server.backend.admin_token)
        for token in ("own", server.backend.log_in("user"), server.backend.log_in("support")):
            server.ask("PUT", "/api/things/7", token=token)
        assert server.audited == []

    def test_what_they_may_have_done_is_written_down(self, server: Server, logged_errors: LoggedErrors) -> None:
        """Where nobody knows what became of it; what was not done is left out."""
        for place, (target, status) in enumerate((("committing", 503), ("broken", 500), ("away", 503))):
            reply = server.ask("PUT", f"/api/things/{target}", token=server.backend.admin_token)
            assert (reply.status, len(server.audited)) == (status, min(place + 1, 2))
        assert len(logged_errors(LookupError)) == 1
        assert {event.event for event in server.audited} == {"admin_action"}
        assert [event.details for event in server.audited] == [
            {"id": target, "colour": "green", "outcome": "unknown"} for target in ("committing", "broken")
        ]

    def test_what_they_are_refused_is_that_and_no_action(self, server: Server) -> None:
        """With the notes, too."""
        server.ask("PUT", "/api/things/forbidden", token=server.backend.admin_token)
        (event,) = server.audited
        assert (event.event, event.reason, event.actor_kind) == ("authorization_failed", "forbidden", "user")
        assert event.details == {"colour": "green"}

    def test_money_that_they_move_is_written_down(self, adapter: str) -> None:
        """Whosever it is."""
        server = Server(plain=adapter == "plain")
        body = {"user_id": server.user_id, "amount": 1}
        for path in ("/credit", "/api/debit"):
            assert server.ask("POST", path, body, token=server.backend.admin_token).status == 201
        told = [(event.event, event.endpoint) for event in server.audited]
        assert told == [("admin_action", "POST /credit"), ("admin_action", "POST /debit")]


class Suspicious(Away):
    """Sessions of nobody."""

    async def login(self, email: str, password: Secret, address: str) -> None:
        """Refuse."""
        assert (email, password.reveal(), address) == (" Eve@example.com", "s3cret-password", HERE)
        raise Refused("invalid_credentials")

    async def refresh(self, token: Secret) -> None:
        """Refuse."""
        assert token.reveal() == "s3cret-refresh"
        raise Refused("token_revoked")


def test_no_secret_is_among_it(adapter: str) -> None:
    backend = MemoryBackend()
    backend.sessions = Suspicious()
    server = Server(backend, plain=adapter == "plain", limit=(10, 60))
    login = {"email": " Eve@example.com", "password": "s3cret-password"}
    assert server.ask("POST", "/api/auth/login", login, token=None).refusal == (401, "invalid_credentials")
    refresh = {"refresh_token": "s3cret-refresh"}
    assert server.ask("POST", "/api/auth/refresh", refresh, token=None).refusal == (401, "token_revoked")
    assert server.ask("GET", "/balance?token=s3cret-query", token="s3cret-token").status == 401
    for _ in range(10):
        server.ask("GET", "/s3cret-path?s3cret-query", token="s3cret-token")
    reasons = [event.reason for event in server.audited]
    assert reasons[:3] == ["invalid_credentials", "token_revoked", "invalid_token"]
    assert set(reasons[3:]) == {"rate_limit_exceeded"}
    assert server.audited[0].details == {"email": "Eve@example.com"}
    assert "s3cret" not in repr(server.audited)

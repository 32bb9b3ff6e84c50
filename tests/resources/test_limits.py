"""The rate limit as clients meet it, through both adapters: whose requests count, and what each is told."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

import pytest

from ledger.domain.policy import Action
from ledger.resources.routes import all_endpoints
from tests.cleanliness import LoggedErrors
from tests.resources.backend import MemoryBackend, Settings
from tests.resources.harness import NOW, Reply, Server

LIMIT, WINDOW = 5, 60
HEALTH = ("/api/health", "/api/health/detailed", "/api/health/ready", "/api/health/live")
UNKNOWN = "01900000-0000-7000-8000-ffffffffffff"


@pytest.fixture
def server(adapter: str) -> Server:
    """A server that takes five requests a minute of each client."""
    return Server(plain=adapter == "plain", limit=(LIMIT, WINDOW))


def standing(reply: Reply) -> tuple[str | None, ...]:
    """What an answer tells of the limit."""
    return tuple(reply.header(f"X-RateLimit-{name}") for name in ("Limit", "Remaining", "Reset"))


def is_limited(reply: Reply) -> bool:
    """Whether it was one too many."""
    return reply.status == 429


def anonymous(server: Server, peer: str = "192.0.2.7", headers: Mapping[str, str | None] | None = None) -> Reply:
    """Ask without a token, from an address."""
    return server.ask("GET", "/balance", headers=headers, token=None, peer=peer)


def test_every_answer_tells_how_its_client_stands(server: Server) -> None:
    replies = [
        server.credit(1),
        server.credit(0),
        server.ask("POST", "/credit", raw=b"{"),
        server.ask("GET", f"/balance?user_id={UNKNOWN}"),
        server.ask("HEAD", "/balance"),
    ]
    assert [reply.status for reply in replies] == [201, 422, 400, 403, 200]
    reset = str(ceil(NOW + WINDOW))
    assert [standing(reply) for reply in replies] == [("5", str(left), reset) for left in (4, 3, 2, 1, 0)]


def test_a_failure_of_ours_tells_too(server: Server, logged_errors: LoggedErrors) -> None:
    server.backend.trouble = RuntimeError("a bug")
    reply = server.credit(1)
    assert (reply.status, standing(reply)[1]) == (500, "4")
    assert len(logged_errors(RuntimeError)) == 1


def test_one_too_many_is_refused_before_anything_is_done(server: Server) -> None:
    for _ in range(LIMIT):
        server.credit(1)
    server.clock.advance(0.5)
    for reply in (server.credit(1), server.ask("POST", "/credit", raw=b"{"), server.ask("GET", "/api/users")):
        assert reply.refusal == (429, "rate_limit_exceeded")
        assert reply.error["type"] == "rate_limit_exceeded"
        assert standing(reply) == ("5", "0", str(ceil(NOW + WINDOW)))
        assert reply.header("Retry-After") == "60"
        assert reply.error["details"] == {"retry_after": 60}
        assert reply.error["correlation_id"] == reply.header("X-Correlation-ID")
    assert len(server.backend.submitted) == LIMIT


def test_whoever_waits_as_long_as_told_is_admitted(server: Server) -> None:
    for _ in range(LIMIT):
        server.credit(1)
        server.clock.advance(10)
    refused = server.credit(1)
    assert refused.header("Retry-After") == "10"
    assert is_limited(refused)
    server.clock.advance(9.5)
    assert is_limited(server.credit(1))  # refused ones do not count
    server.clock.advance(0.5)
    assert server.credit(1).status == 201  # only the oldest has left
    assert is_limited(server.credit(1))
    server.clock.advance(WINDOW)
    assert standing(server.credit(1))[1] == "4"


def test_each_account_and_each_user_is_a_client_of_its_own(server: Server) -> None:
    _, second = server.backend.open_account(server.user_id)
    first_login, second_login = (server.backend.log_in("user", server.user_id) for _ in range(2))
    support = server.backend.log_in("support")
    for token in (server.token, second, first_login, support):
        replies = [server.ask("GET", "/balance", token=token) for _ in range(LIMIT)]
        assert not any(map(is_limited, replies))
        assert is_limited(server.ask("GET", "/balance", token=token))
    assert is_limited(server.ask("GET", "/balance", token=second_login))  # the same user
    assert anonymous(server).status == 401
    assert anonymous(server).header("X-RateLimit-Remaining") == "3"


def test_a_token_that_is_refused_counts_as_its_address(server: Server) -> None:
    for number in range(LIMIT):
        assert server.ask("GET", "/balance", token=f"guess-{number}").status == 401
    guess = server.ask("GET", "/balance", token="guess")
    assert guess.refusal == (429, "rate_limit_exceeded")
    assert guess.header("WWW-Authenticate") is None
    assert is_limited(anonymous(server))
    assert anonymous(server, peer="192.0.2.8").status == 401
    assert server.credit(1).header("X-RateLimit-Remaining") == "4"  # from the same address, but known


def test_what_is_open_to_anyone_counts_as_its_address(server: Server) -> None:
    for number in range(LIMIT):
        body = {"name": "Ada", "email": f"{number}@example.com", "password": "correct horse"}
        assert server.ask("POST", "/users", body, token=None).status == 201
    assert is_limited(server.ask("POST", "/users", {}, token=None))
    assert is_limited(server.ask("POST", "/users", {}))  # whatever token is sent along
    assert is_limited(server.ask("POST", "/api/auth/login", {}, token=None))


def test_what_reaches_no_endpoint_counts_as_its_address(server: Server) -> None:
    for method, path in (("GET", "/nothing"), ("GET", "/credit"), ("PUT", "/users"), ("GET", "/%ff"), ("POST", "/")):
        reply = server.ask(method, path)
        assert reply.status in (404, 405)
        assert reply.header("X-RateLimit-Remaining") is not None
    for method, path in (("GET", "/nothing"), ("GET", "/credit")):
        reply = server.ask(method, path)
        assert reply.refusal == (429, "rate_limit_exceeded")
        assert reply.header("X-RateLimit-Remaining") == "0"
    connection = server.connect()
    connection.send(b"nonsense\r\n\r\n")
    assert connection.replies()[0].refusal == (429, "rate_limit_exceeded")


def test_health_is_exempt(server: Server) -> None:
    for token in (None, server.backend.admin_token):
        for path in HEALTH * 3:
            reply = server.ask("GET", path, token=token)
            assert reply.status == 200
            assert standing(reply) == (None, None, None)
    assert anonymous(server).header("X-RateLimit-Remaining") == "4"


def test_all_but_health_metrics_and_signed_calls_is_limited() -> None:
    endpoints = all_endpoints(MemoryBackend(), lambda: NOW)
    unlimited = {endpoint.path for endpoint in endpoints if not endpoint.rate_limited}
    assert unlimited == {
        *HEALTH,
        "/metrics",
        *(endpoint.path for endpoint in endpoints if endpoint.policy is Action.PLAY),
    }


def test_without_a_limit_nothing_is_told(adapter: str) -> None:
    server = Server(plain=adapter == "plain")
    for reply in [anonymous(server) for _ in range(3 * LIMIT)]:
        assert (reply.status, standing(reply)) == (401, (None, None, None))


def test_a_network_of_ipv6_is_one_client(server: Server) -> None:
    for number in range(LIMIT):
        assert anonymous(server, f"2001:db8:0:1::{number}").status == 401
    assert is_limited(anonymous(server, "2001:db8:0:1:ffff::1"))
    assert not is_limited(anonymous(server, "2001:db8:0:2::1"))


class TestForwarded:
    """What a proxy says of its clients."""

    def test_nobody_is_believed_who_is_not_configured(self, server: Server) -> None:
        """Or everybody could be as many clients as they like."""
        for number in range(LIMIT):
            assert anonymous(server, headers={"X-Forwarded-For": f"203.0.113.{number}"}).status == 401
        assert is_limited(anonymous(server, headers={"X-Forwarded-For": "203.0.113.99"}))

    @pytest.fixture
    def behind(self, adapter: str) -> Server:
        """A server behind proxies."""
        backend = MemoryBackend(Settings(trusted_proxies=("192.0.2.0/24",)))
        return Server(backend, plain=adapter == "plain", limit=(LIMIT, WINDOW))

    def test_each_client_of_a_configured_proxy_is_one(self, behind: Server) -> None:
        """By the address that the proxy has seen itself."""
        for number in range(LIMIT):
            forged = {"X-Forwarded-For": f"198.51.100.{number}, 203.0.113.1, 192.0.2.9"}
            assert anonymous(behind, headers=forged).status == 401
        assert is_limited(anonymous(behind, headers={"X-Forwarded-For": "203.0.113.1"}))
        assert is_limited(anonymous(behind, peer="203.0.113.1"))
        assert not is_limited(anonymous(behind, headers={"X-Forwarded-For": "203.0.113.2"}))
        assert not is_limited(anonymous(behind))

    def test_who_is_not_behind_it_is_not_believed(self, behind: Server) -> None:
        """Although the proxy is."""
        for number in range(LIMIT):
            forged = {"X-Forwarded-For": f"198.51.100.{number}"}
            assert anonymous(behind, peer="203.0.113.7", headers=forged).status == 401
        assert is_limited(anonymous(behind, peer="203.0.113.7"))

"""Every endpoint asked by everybody: who is let in, and who is not, is what the table says."""

from __future__ import annotations

import re

import pytest

from ledger.domain.policy import ROLES, TABLE, Action, Reach, Role
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.resources.metrics import PATH as METRICS
from ledger.resources.routes import all_endpoints
from tests.resources.backend import MemoryBackend, Settings
from tests.resources.harness import NOW, Reply, Server

SOMEBODY = "01900000-0000-7000-8000-ffffffffffff"


def declared(backend: MemoryBackend | None = None) -> tuple[Endpoint, ...]:
    """All endpoints of the server."""
    return all_endpoints(backend or MemoryBackend(), lambda: NOW)


def by_caller(backend: MemoryBackend) -> list[Endpoint]:
    """Those that ask who calls; metrics ask from where, which has tests of its own."""
    return [endpoint for endpoint in declared(backend) if endpoint.path != METRICS]


def ask(server: Server, role: Role, method: str, path: str) -> Reply:
    """Ask as somebody in that role, for nothing in particular."""
    backend, token = server.backend, {"anyone": None, "account": "own"}.get(role)
    if role not in ("anyone", "account"):
        user_id = backend.new_id()
        backend.open_account(user_id)
        token = backend.log_in(role, user_id)
    return server.ask(method, re.sub("<[a-z_]+>", SOMEBODY, path), token=token)


GAMES = (
    *("POST /transaction/bet", "POST /transaction/win", "POST /transaction/rollback"),
    *("POST /user/balance", "POST /user/info"),
)


def test_an_endpoint_without_a_policy_cannot_be_declared() -> None:
    async def handler(_caller: object, _call: Call[None, None]) -> Answer:
        return Answer(None)

    with pytest.raises(TypeError, match="policy"):
        Endpoint("GET", "/api/anything", handler, summary="")  # type: ignore[call-arg]


def test_every_endpoint_names_an_action_of_the_table() -> None:
    assert {endpoint.policy for endpoint in declared()} <= TABLE.keys()
    assert TABLE.keys() == set(Action)
    open_ones = {endpoint.name for endpoint in declared() if endpoint.is_open}
    assert open_ones == {
        "POST /users",
        "POST /api/users",
        "POST /api/auth/login",
        "POST /api/auth/refresh",
        "POST /api/auth/logout",
        "GET /api/health",
        "GET /api/health/detailed",
        "GET /api/health/ready",
        "GET /api/health/live",
        "GET /metrics",
        "GET /api/openapi.json",
        "POST /api/register",
        *GAMES,
    }


@pytest.mark.parametrize("self_funding", [True, False], ids=["self-funding", "no self-funding"])
@pytest.mark.parametrize("role", ROLES)
def test_everybody_gets_what_the_table_says(adapter: str, role: Role, self_funding: bool) -> None:
    server = Server(MemoryBackend(Settings(self_funding=self_funding)), plain=adapter == "plain")
    for endpoint in by_caller(server.backend):
        reach = TABLE[endpoint.policy][role]
        for path in endpoint.paths:
            reply = ask(server, role, endpoint.method, path)
            if reach is not Reach.NONE:
                assert reply.status not in (401, 403, 405), f"{role}: {endpoint.name}: {reply.status}"
                assert reply.status != 404 or reply.refusal[1] == "account_not_found"
            elif role == "anyone":
                assert reply.refusal == (401, "invalid_token"), endpoint.name
                assert reply.header("WWW-Authenticate") == "Bearer"
            else:
                assert reply.refusal == (403, "insufficient_permissions"), endpoint.name


def test_a_token_of_nobody_is_refused_wherever_a_caller_is_asked_for(adapter: str) -> None:
    server = Server(plain=adapter == "plain")
    for endpoint in by_caller(server.backend):
        path = re.sub("<[a-z_]+>", SOMEBODY, endpoint.path)
        reply = server.ask(endpoint.method, path, token="nobody")
        if not endpoint.is_open or endpoint.knows_caller:
            assert reply.refusal == (401, "invalid_token"), endpoint.name
        else:
            assert reply.status not in (401, 403), endpoint.name

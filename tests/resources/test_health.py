"""GET /api/health and what is below it."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from twisted.internet.defer import Deferred

from ledger.domain.errors import Refused, unavailable
from ledger.resources.health import disk_is_free, memory_is_free
from ledger.services.child import ChildStatus, State
from ledger.services.outbound import Breakers
from ledger.version import VERSION
from tests.resources.harness import Server

NOW = "2026-05-28T20:26:42.250Z"


async def out_of_order() -> None:
    """What a service outside does that is out of order."""
    raise Refused("service_unavailable")


@pytest.fixture
def server() -> Server:
    """A server that has been up for two seconds."""
    server = Server()
    server.backend.services = [
        ChildStatus("database", "running", 2, "OSError: gone", 0.0),
        ChildStatus("writer", "running", 0, None, 0.0),
    ]
    server.clock.advance(2)
    return server


def test_the_short_form(server: Server) -> None:
    reply = server.ask("GET", "/api/health", token=None)
    assert reply.status == 200
    assert reply.json == {"status": "ok", "timestamp": NOW, "version": VERSION, "uptime": 2000}
    assert reply.header("X-Correlation-ID")


def test_the_long_form(server: Server) -> None:
    reply = server.ask("GET", "/api/health/detailed", token=None)
    assert reply.status == 200
    assert reply.json == {
        "status": "ok",
        "timestamp": NOW,
        "version": VERSION,
        "uptime": 2000,
        "checks": {"database": "ok", "memory": "ok", "disk": "ok"},
    }


def test_the_service_tree_and_the_breakers_are_for_admins(server: Server) -> None:
    breakers = Breakers(server.clock, lambda: 0.0)
    bank = breakers.to("bank")
    for _ in range(5):
        Deferred.fromCoroutine(bank.call(out_of_order)).addErrback(lambda _: None)
    server.clock.advance(10)
    server.backend.breakers = breakers.statuses()
    reply = server.ask("GET", "/api/health/detailed", token=server.backend.admin_token)
    assert reply.json["services"] == [
        {"name": "database", "state": "running", "restarts": 2, "last_failure": "OSError: gone"},
        {"name": "writer", "state": "running", "restarts": 0, "last_failure": None},
    ]
    assert reply.json["breakers"] == [{"name": "bank", "state": "open", "failures": 5, "wait": 20.0}]
    assert reply.json["status"] == "ok"  # what is outside is no reason to take this server out of service
    for token in (None, "own", server.backend.log_in("user"), server.backend.log_in("support")):
        for peer in ("192.0.2.7", "127.0.0.1"):
            reply = server.ask("GET", "/api/health/detailed", token=token, peer=peer)
            assert reply.status == 200
            assert not {"services", "breakers"} & set(reply.json)
    assert server.ask("GET", "/api/health/detailed", token="nonsense").refusal == (401, "invalid_token")


def test_only_the_service_tree_asks_who_calls(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_token: str) -> None:
        raise unavailable()

    monkeypatch.setattr(server.backend, "authenticate", refuse)
    for path in ("/api/health", "/api/health/detailed", "/api/health/ready", "/api/health/live"):
        reply = server.ask("GET", path, token=server.backend.admin_token)
        assert reply.status == 200
        assert "services" not in reply.json
    assert server.ask("GET", "/balance").refusal == (503, "service_unavailable")


def test_a_database_that_is_away_is_told(server: Server) -> None:
    server.backend.database = False
    detailed = server.ask("GET", "/api/health/detailed", token=None).json
    assert detailed["status"] == "degraded"
    assert detailed["checks"]["database"] == "error"
    ready = server.ask("GET", "/api/health/ready", token=None)
    assert (ready.status, ready.json) == (503, {"status": "not_ready"})
    assert server.ask("GET", "/api/health/live", token=None).status == 200


@pytest.mark.parametrize("state", get_args(State))
def test_work_is_taken_when_all_children_run(server: Server, state: State) -> None:
    server.backend.services.append(ChildStatus("feed", state, 0, None, 0.0))
    reply = server.ask("GET", "/api/health/ready", token=None)
    expected = (200, {"status": "ready"}) if state == "running" else (503, {"status": "not_ready"})
    assert (reply.status, reply.json) == expected


def test_liveness(server: Server) -> None:
    reply = server.ask("GET", "/api/health/live", token=None)
    assert (reply.status, reply.json) == (200, {"status": "alive", "uptime": 2000})
    head = server.ask("HEAD", "/api/health/live", token=None)
    assert (head.status, head.body) == (200, b"")


def test_a_wrong_method_is_refused_as_anywhere(server: Server) -> None:
    assert server.ask("POST", "/api/health", token=None).refusal == (405, "method_not_allowed")


@pytest.mark.parametrize(
    ("text", "free"),
    [
        ("MemTotal: 1000 kB\nMemAvailable: 500 kB\n", True),
        ("MemTotal: 1000 kB\nMemAvailable: 19 kB\n", False),
        ("MemTotal: 1000 kB\n", True),
        ("nonsense", True),
    ],
)
def test_memory(tmp_path: Path, text: str, free: bool) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(text)
    assert memory_is_free(meminfo) is free
    assert memory_is_free(tmp_path / "missing")


def test_disk(tmp_path: Path) -> None:
    assert disk_is_free(str(tmp_path))
    assert not disk_is_free(str(tmp_path / "missing"))

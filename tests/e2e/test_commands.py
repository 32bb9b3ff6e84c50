# mypy: disable-error-code="untyped-decorator"
"""The script beside a running server, on the same embedded PostgreSQL: what it makes can be used at once."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.e2e.client import Api, Clients
from tests.e2e.kept_secrets import new_secret
from tests.e2e.server import BIN, ROOT, Machine

_in_thread: Any = deferToThread


async def ledger(data_dir: Path, *arguments: str, typed: str = "") -> str:
    """Run a command of the script, and return what it says."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
    ended = await _in_thread(
        subprocess.run,
        [str(BIN / "ledger"), *arguments, "--data-dir", str(data_dir)],
        env={**environ, "PYTHONPATH": str(ROOT)},
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return str(ended.stdout)


async def log_in(api: Api, email: str, password: str) -> Any:
    """Log in, and return what is given out."""
    answer = await api.ask("POST", "/api/auth/login", {"email": email, "password": password})
    assert answer.status == 200, answer.json
    return answer.data


@pytest_twisted.ensureDeferred
async def test_sample_users_beside_a_server(machine: Machine, clients: Clients) -> None:
    data_dir = machine.new_data_dir()
    server = await machine.serve("--data-dir", str(data_dir)).ready()
    api = clients(server)
    said = await ledger(data_dir, "seed")
    assert said.startswith("alice@example.com: made with 1000 USD\n")
    alice = await log_in(api, "alice@example.com", "password123!")
    me = await api.ask("GET", "/api/auth/me", token=alice["access_token"])
    assert (me.data["full_name"], me.data["role"], me.data["verified"]) == ("Alice Example", "user", True)
    balance = await api.ask("GET", "/api/balance", token=alice["access_token"])
    assert (balance.data["balance"], balance.data["version"]) == ("1000.00", 1)
    spent = {"user_id": me.data["id"], "amount": "12.34"}
    assert (await api.ask("POST", "/api/debit", spent, alice["access_token"])).data["balance"] == "987.66"
    renewed = await api.ask("POST", "/api/auth/refresh", {"refresh_token": alice["refresh_token"]})
    ended = await api.ask("POST", "/api/auth/logout", {"refresh_token": renewed.data["refresh_token"]})
    assert ended.status == 200
    late = await api.ask("GET", "/api/auth/me", token=renewed.data["access_token"])
    assert (late.status, late.reason) == (401, "invalid_token")
    assert (await ledger(data_dir, "seed")).startswith("alice@example.com: nothing to do\n")
    await server.stop()
    await machine.verify("--data-dir", str(data_dir))


@pytest_twisted.ensureDeferred
async def test_an_admin_made_beside_a_server(machine: Machine, clients: Clients) -> None:
    data_dir = machine.new_data_dir()
    server = await machine.serve("--data-dir", str(data_dir)).ready()
    api = clients(server)
    password = new_secret()
    identity = ("--email", "root@example.com", "--name", "Root")
    said = await ledger(data_dir, "create-admin", *identity, typed=f"{password}\n")
    assert password not in said
    admin = await log_in(api, "root@example.com", password)
    listed = await api.ask("GET", "/api/users", token=admin["access_token"])
    assert [(user["email"], user["role"]) for user in listed.data] == [("root@example.com", "admin")]
    audit = await api.ask("GET", "/api/audit", token=admin["access_token"])
    assert [line["endpoint"] for line in audit.data] == ["ledger create-admin"]
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_commands_before_the_first_server(machine: Machine, clients: Clients) -> None:
    data_dir = machine.new_data_dir(empty=True)
    assert "bob@example.com: made with 500 USD\n" in await ledger(data_dir, "seed")
    server = await machine.serve("--data-dir", str(data_dir)).ready()
    bob = await log_in(clients(server), "bob@example.com", "password123!")
    balance = await clients(server).ask("GET", "/balance", token=bob["access_token"])
    assert balance.data["balance"] == "500.00"
    await server.stop()

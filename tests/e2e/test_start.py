# mypy: disable-error-code="untyped-decorator"
"""How a server starts, from nothing and in vain, and what becomes of one whose parts fail."""

from __future__ import annotations

import socket
from uuid import uuid4

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred

from ledger.services.postgres_layout import Layout
from tests.e2e.books import Books
from tests.e2e.client import Clients, Load
from tests.e2e.kept_secrets import new_secret
from tests.e2e.server import Machine, postmaster_of, until

# The product's own tree, one of whose children is made to fail.
SABOTAGED = """
import os
from twisted.application.service import Application
from twisted.internet import reactor
from twisted.python.failure import Failure
from ledger.app import build
from ledger.config import read_config

options = {"database": [%(url)r], "listen": ["tcp:0:interface=127.0.0.1"], "rate-limit": ["0"]}
config = read_config(options, os.environ)
ladder = build(config, reactor)
(victim,) = (child for child in ladder if child.name == %(child)r)
start, left = victim.start, [%(times)d]

async def start_and_raise():
    await start()
    if left[0]:
        left[0] -= 1
        reactor.callLater(0.05, victim.fail, Failure(OSError("sabotage")))

victim.start = start_and_raise
application = Application("ledger")
ladder.setServiceParent(application)
"""


def only_line(log: str, words: str) -> str:
    """The one line that says it."""
    (line,) = [line for line in log.splitlines() if words in line]
    return line


@pytest_twisted.ensureDeferred
async def test_the_walk_through_of_the_readme(machine: Machine, clients: Clients) -> None:
    data_dir = machine.new_data_dir(empty=True)
    server = await machine.serve("--data-dir", str(data_dir)).ready()
    api = clients(server)
    password = new_secret()
    made = await api.ask("POST", "/users", {"name": "Ada", "email": "Ada@Example.com ", "password": password})
    assert made.status == 201
    user_id, account, token = made.data["id"], made.data["account"], made.data["token"]
    assert made.data["email"] == "ada@example.com"
    assert account == {"id": account["id"], "currency": "USD", "balance": "0.00"}
    credit = {"user_id": user_id, "amount": "50.00"}
    first = await api.ask("POST", "/credit", credit, token, "first")
    assert (first.status, first.data["balance"]) == (201, "50.00")
    debit = {"user_id": user_id, "amount": "12.34", "description": "Lunch"}
    assert (await api.ask("POST", "/debit", debit, token)).data["balance"] == "37.66"
    balance = await api.ask("GET", f"/balance?user_id={user_id}", token=token)
    assert (balance.data["balance"], balance.data["version"]) == ("37.66", 2)
    again = await api.ask("POST", "/credit", {**credit, "amount": 50}, token, "first")
    assert (again.status, again.data, again.is_replay) == (201, first.data, True)
    other = await api.ask("POST", "/credit", {**credit, "amount": "51"}, token, "first")
    assert (other.status, other.reason) == (409, "duplicate_transaction")
    much = await api.ask("POST", "/debit", {**debit, "amount": "37.67"}, token)
    assert (much.status, much.reason, much.json["error"]["details"]["available"]) == (
        422,
        "insufficient_funds",
        "37.66",
    )
    await server.stop()
    assert postmaster_of(data_dir) is None
    later = await machine.serve("--data-dir", str(data_dir)).ready()
    assert (await clients(later).ask("GET", "/balance", token=token)).data["balance"] == "37.66"
    await machine.verify("--data-dir", str(data_dir))
    await later.stop()


@pytest_twisted.ensureDeferred
async def test_health(machine: Machine, clients: Clients) -> None:
    data_dir = machine.new_data_dir()
    server = await machine.serve("--data-dir", str(data_dir)).ready()
    api, books = clients(server), Books(Layout(data_dir).url())
    for path, status in (("", "ok"), ("/live", "alive"), ("/ready", "ready")):
        answer = await api.ask("GET", f"/api/health{path}")
        assert (answer.status, answer.json["status"]) == (200, status)
    detailed = (await api.ask("GET", "/api/health/detailed")).json
    assert detailed["checks"] == {"database": "ok", "memory": "ok", "disk": "ok"}
    assert "services" not in detailed
    (customer,) = books.seed(1)
    assert "services" not in (await api.ask("GET", "/api/health/detailed", token=customer.token)).json
    services = await api.services(await api.admin(books))
    below, above = (
        ["postgres", "database", "passwords", "feed", "writer"],
        ["audit", "jobs", "cron", "balance watcher", "reactor lag"],
    )
    assert list(services) == [*below, *above, "http"]
    assert {service["state"] for service in services.values()} == {"running"}
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_a_port_that_is_taken(machine: Machine, books: Books) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        server = machine.serve("--database", books.url, port=holder.getsockname()[1])
        assert await server.ended() == 1
    assert "Address already in use" in only_line(server.log, "--listen")


@pytest_twisted.ensureDeferred
async def test_bad_values_are_told_at_once(machine: Machine) -> None:
    values = (
        ("--listen", "tcp:nowhere"),
        ("--database", "mysql://u@h/d"),
        ("--pool-size", "0"),
        ("--rate-limit", "often"),
        ("--currency", "GOLD"),
        ("--log-format", "xml"),
    )
    servers = [machine.twistd("ledger", option, value) for option, value in values]
    for (option, _), server in zip(values, servers, strict=True):
        assert await server.ended() not in (0, None)
        assert only_line(server.log, option) + "\n" == server.log


@pytest_twisted.ensureDeferred
async def test_a_database_that_is_not_there(machine: Machine) -> None:
    password = new_secret()
    server = machine.serve("--database", f"postgresql://ledger:{password}@127.0.0.1:1/ledger")
    assert await server.ended() == 1
    assert "--database: connection to server" in only_line(server.log, "database cannot start, the process ends")


@pytest_twisted.ensureDeferred
async def test_a_newer_schema(machine: Machine, books: Books) -> None:
    books.rows(
        "INSERT INTO _yoyo_migration (migration_hash, migration_id, applied_at_utc) VALUES (%s, %s, now())",
        uuid4().hex,
        "9999-the-future",
    )
    server = machine.serve("--database", books.url)
    assert await server.ended() == 1
    assert "newer" in only_line(server.log, "9999-the-future")


@pytest_twisted.ensureDeferred
async def test_a_child_that_fails_once_is_restarted(machine: Machine, books: Books, clients: Clients) -> None:
    machine.expects_trouble = True
    for number, child in enumerate(("balance watcher", "writer", "feed", "database")):
        tac = machine.write(f"once{number}.tac", SABOTAGED % {"url": books.url, "child": child, "times": 1})
        server = await machine.twistd("--no_save", "-y", str(tac)).ready()
        api = clients(server)
        await until(lambda server=server: "sabotage" in server.log)  # type: ignore[misc]
        await api.until_ready()
        seen = (await api.services(await api.admin(books)))[child]
        assert (seen["state"], seen["restarts"]) == ("running", 1)
        assert seen["last_failure"] == "OSError: sabotage"
        (customer,) = books.seed(1)
        load = Load([api], [customer], clients=1).start()
        await load.more("done", 3)
        await load.stop()
        load.check(books)
        await server.stop()
    await machine.verify("--database", books.url)


@pytest_twisted.ensureDeferred
async def test_a_child_that_always_fails_ends_the_process(machine: Machine, books: Books) -> None:
    machine.expects_trouble = True
    tac = machine.write("always.tac", SABOTAGED % {"url": books.url, "child": "balance watcher", "times": 1_000})
    server = machine.twistd("--no_save", "-y", str(tac))
    assert await server.ended(90) == 1
    assert "failed too often, the process ends: OSError: sabotage" in server.log
    assert "Main loop terminated" in server.log


@pytest_twisted.ensureDeferred
async def test_five_hundred_debits_of_a_balance_for_a_hundred(machine: Machine, books: Books, clients: Clients) -> None:
    server = await machine.serve("--database", books.url).ready()
    api = clients(server, 500)
    (customer,) = books.seed(1)
    assert (await api.move("credit", customer, "100.00")).status == 201
    asked = [ensureDeferred(api.move("debit", customer, "1.00")) for _ in range(500)]
    replies = [await one for one in asked]
    done = [reply for reply in replies if reply.status == 201]
    assert len(done) == 100
    assert {reply.reason for reply in replies if reply.status != 201} == {"insufficient_funds"}
    assert sorted(reply.data["version"] for reply in done) == list(range(2, 102))
    balance = await api.ask("GET", "/balance", token=customer.token)
    assert (balance.data["balance"], balance.data["available"]) == ("0.00", "0.00")
    assert books.balances()[customer.account_id] == 0
    assert books.head() == 101
    await machine.verify("--database", books.url)
    await server.stop()


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest_twisted.ensureDeferred
async def test_secrets_stay_out_of_the_log(machine: Machine, books: Books, clients: Clients, log_format: str) -> None:
    server = await machine.serve("--database", books.url, "--log-format", log_format).ready()
    api = clients(server)
    customer, other = books.seed(2)
    secret = new_secret()
    user = {"name": "Eve", "email": "eve@example.com", "password": secret}
    assert (await api.ask("POST", "/users", user)).status == 201
    assert (await api.ask("POST", "/users", user)).status == 409
    assert (await api.ask("POST", "/users", {**user, "email": secret})).status == 400
    assert (await api.ask("POST", "/users", {**user, "email": "x@example.com", "password": secret * 5})).status == 400
    assert (await api.ask("GET", f"/balance?token={other.token}", token=secret)).status == 401
    assert (await api.ask("GET", f"/{secret}")).status == 404
    assert (await api.move("credit", customer, "1.00", key=new_secret())).status == 201
    with books.session(transaction=True) as cursor:
        cursor.execute("LOCK TABLE account_tokens, users IN ACCESS EXCLUSIVE MODE")
        register = ensureDeferred(api.ask("POST", "/users", {**user, "email": "y@example.com"}))
        balance = ensureDeferred(api.ask("GET", "/balance", token=other.token))
        await until(lambda: len(books.waiting("users")) + len(books.waiting("account_tokens")) >= 2)
        books.terminate()
        assert [(await one).status for one in (register, balance)] == [503, 503]
    await server.stop()
    assert "refused: service_unavailable" in server.log
    machine.check_logs()

# mypy: disable-error-code="untyped-decorator"
"""Payments in real servers: made, scheduled, and posted once, also where the server is killed at its work."""

from __future__ import annotations

import signal
from typing import Any

import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults

from ledger.services.postgres_layout import Layout
from tests.e2e.books import Books, Customer
from tests.e2e.client import Api, Clients
from tests.e2e.server import Machine, Server, until


async def make(api: Api, admin: str, customer: Customer, number: int) -> str:
    """Make a payment of 1.00 into a customer's account, and queue it; returns its id."""
    body = {
        "amount": "1.00",
        "direction": "CREDIT",
        "payment_type": "DEPOSIT",
        "description": f"number {number}",
        "user_bank_account_id": customer.account_id,
    }
    made = await api.ask("POST", "/api/payments", body, token=admin)
    assert made.status == 201, made.json
    payment_id: str = made.data["id"]
    queued = await api.ask("POST", f"/api/payments/{payment_id}/schedule", {"priority": number % 10}, token=admin)
    assert queued.status == 202, queued.json
    return payment_id


def states(books: Books) -> dict[str, int]:
    """How many payment jobs there are in each state."""
    return dict(books.rows("SELECT state, count(*) FROM jobs WHERE worker = 'payment' GROUP BY state"))


def posted(books: Books) -> dict[str, int]:
    """How many records moved money for each payment."""
    return dict(
        books.rows(
            "SELECT body::json #>> '{metadata,payment}', count(*) FROM journal WHERE kind = 'payment' GROUP BY 1"
        )
    )


async def killed(server: Server, books: Books) -> None:
    """Kill a server, and let the time of its leases go by."""
    server.send(signal.SIGKILL)
    assert await server.ended() == -signal.SIGKILL
    books.rows("UPDATE jobs SET leased_until = now() - interval '1 s' WHERE state = 'executing'")


@pytest_twisted.ensureDeferred
async def test_the_server_is_killed_at_its_payments(machine: Machine, clients: Clients) -> None:
    data_dir = machine.new_data_dir()

    async def start() -> tuple[Server, Api]:
        server = await machine.serve("--data-dir", str(data_dir)).ready()
        return server, clients(server)

    server, api = await start()
    books = Books(Layout(data_dir).url())
    customers = books.seed(10)
    admin = await api.admin(books)

    async def more(first: int) -> list[str]:
        work: list[Any] = [make(api, admin, customers[n % 10], n) for n in range(first, first + 40)]
        return list(await gatherResults([ensureDeferred(one) for one in work]))

    # While the writer waits for its turn, with jobs at their work.
    with books.lock_held():
        made = await more(0)
        await until(lambda: states(books).get("executing") == 2)
        shown = await api.ask("GET", "/api/payments/" + made[0], token=admin)
        assert shown.data["status"] in ("PENDING", "PROCESSING")
        await killed(server, books)
    server, api = await start()
    await until(lambda: len(posted(books)) >= 10)
    # Under load, wherever it is just then.
    made += await more(40)
    await killed(server, books)
    server, api = await start()
    await until(lambda: states(books) == {"completed": 80}, 90, lambda: str(states(books)))
    assert posted(books) == dict.fromkeys(made, 1)
    assert books.rows("SELECT DISTINCT status FROM payments") == [("COMPLETED",)]
    assert sum(books.balances().values()) == 8_000
    refused = await api.ask("POST", f"/api/payments/{made[0]}/process", token=admin)
    assert (refused.status, refused.reason) == (409, "already_processed")
    await machine.verify("--data-dir", str(data_dir))
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_the_rules_are_options(machine: Machine, books: Books, clients: Clients) -> None:
    for option, value in (("payment-limit", "-1"), ("daily-limit", "WORLD=5"), ("duplicate-window", "5m")):
        server = machine.twistd("ledger", f"--{option}", value)
        assert await server.ended() == 1
        assert f"--{option}: must be" in server.log
    options = ("--payment-limit", "5", "--daily-limit", "CHECKING=3.50", "--duplicate-window", "0")
    server = await machine.serve("--database", books.url, *options).ready()
    api, (customer,) = clients(server), books.seed(1)
    await books.fill([customer], 1_000)
    admin = await api.admin(books)

    async def pay(amount: str) -> str:
        body = {
            "amount": amount,
            "direction": "DEBIT",
            "payment_type": "WITHDRAWAL",
            "description": "rent",
            "user_bank_account_id": customer.account_id,
        }
        made = await api.ask("POST", "/api/payments", body, token=admin)
        if made.status != 201:
            return made.reason
        done = await api.ask("POST", f"/api/payments/{made.data['id']}/process", token=admin)
        return str(done.data["status"]) if done.status == 200 else done.reason

    outcomes = [await pay(amount) for amount in ("5.01", "3.51", "1.75", "1.75", "0.01")]
    assert outcomes == [
        *("amount_exceeds_limit", "daily_limit_exceeded"),
        *("COMPLETED", "COMPLETED", "daily_limit_exceeded"),
    ]
    await machine.verify("--database", books.url)
    await server.stop()

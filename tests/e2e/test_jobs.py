# mypy: disable-error-code="untyped-decorator"
"""Jobs in real servers: the server's own are run once however many servers there are, and admins see them."""

from __future__ import annotations

import pytest_twisted

from tests.e2e.books import Books
from tests.e2e.client import Clients
from tests.e2e.server import Machine, until


@pytest_twisted.ensureDeferred
async def test_the_servers_own_jobs_are_run_once(machine: Machine, books: Books, clients: Clients) -> None:
    starting = [machine.serve("--database", books.url, "--queue", "default=2") for _ in range(2)]
    servers = [await server.ready() for server in starting]
    api = clients(servers[0])
    admin = await api.admin(books)
    ended = "SELECT worker, attempt FROM jobs WHERE state = 'completed' ORDER BY worker"
    await until(lambda: books.rows(ended) == [("prune_jobs", 1), ("prune_sessions", 1)])
    assert books.rows("SELECT count(*) FROM jobs") == [(2,)]
    listed = (await api.ask("GET", "/api/jobs?queue=default&state=completed", token=admin)).data
    assert {job["worker"] for job in listed} == {"prune_jobs", "prune_sessions"}
    job_id = listed[0]["id"]
    assert (await api.ask("GET", f"/api/jobs/{job_id}", token=admin)).data == listed[0]
    assert (await api.ask("POST", f"/api/jobs/{job_id}/retry", token=admin)).reason == "already_processed"
    stats = (await api.ask("GET", "/api/jobs/stats", token=admin)).data
    assert stats["queues"]["default"]["completed"] == 2
    assert stats["breakers"] == []
    # A job of nobody's waits; an admin may end it, and have it wait again.
    books.rows(
        "INSERT INTO jobs (id, queue, worker, max_attempts, timeout)"
        " VALUES (gen_random_uuid(), 'payments', 'nobody', 1, 1)"
    )
    ((nobodys,),) = books.rows("SELECT id::text FROM jobs WHERE worker = 'nobody'")
    for action, state in (("cancel", "cancelled"), ("retry", "available")):
        assert (await api.ask("POST", f"/api/jobs/{nobodys}/{action}", token=admin)).data["state"] == state
    for server in servers:
        await server.stop()


@pytest_twisted.ensureDeferred
async def test_a_queue_that_is_none_is_told_of_at_once(machine: Machine) -> None:
    for value in ("payments", "payments=x", "payments=101", "payment=1"):
        server = machine.twistd("ledger", "--queue", value)
        assert await server.ended() == 1
        assert "--queue: must be NAME=N" in server.log

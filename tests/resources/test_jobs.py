"""The endpoints of jobs: who may use them, how they are asked, and how a job is told."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest

from ledger.domain.errors import Refused
from ledger.domain.jobs import STATES, Job
from ledger.resources.jobs import JobEndpoints
from ledger.services.job_desk import JobStats
from ledger.services.outbound import BreakerStatus
from ledger.store.job_desk import JobFilter
from tests.resources.backend import INSTANT, MemoryBackend
from tests.resources.harness import Reply, Server

ERROR = {"attempt": 1, "at": INSTANT, "reason": "timeout", "message": "It took longer than 1 s"}


def job(number: int, state: Any = "retryable") -> Job:
    """A job."""
    identifier = str(UUID(int=number))
    return Job(identifier, "payments", "pay", {"n": number}, state, 0, 1, 4, INSTANT, INSTANT, None, [ERROR])


class MemoryDesk:
    """A few jobs, newest first, and what was done to them."""

    def __init__(self) -> None:
        self.jobs = [job(number) for number in range(45, 0, -1)]
        self.asked: list[JobFilter] = []
        self.done: list[tuple[str, str]] = []

    async def read(self, wanted: JobFilter, after: str | None, limit: int) -> list[Job]:
        """The jobs after a place."""
        self.asked.append(wanted)
        return [one for one in self.jobs if after is None or one.id < after][:limit]

    async def stats(self) -> JobStats:
        """Count nothing."""
        return JobStats({"default": dict.fromkeys(STATES, 0)}, [BreakerStatus("bank", "open", 5, 12.5)])

    async def find(self, job_id: str) -> Job:
        """Look one up."""
        for one in self.jobs:
            if one.id == job_id:
                return one
        raise Refused("job_not_found")

    async def retry(self, job_id: str) -> Job:
        """Note it."""
        self.done.append(("retry", job_id))
        return job(UUID(job_id).int, "available")

    async def cancel(self, job_id: str) -> Job:
        """Refuse."""
        assert await self.find(job_id)
        raise Refused("already_processed", state="completed")


class House:
    """A server with nothing but jobs."""

    def __init__(self) -> None:
        self.desk = MemoryDesk()
        desk: Any = self.desk
        self.server = Server(MemoryBackend(), endpoints=JobEndpoints(desk).endpoints())

    def ask(self, path: str, method: str = "GET", token: str | None = None) -> Reply:
        """Ask as an admin, or with another token."""
        return self.server.ask(method, f"/api/jobs{path}", token=token or self.server.backend.admin_token)


@pytest.fixture
def house() -> House:
    return House()


def test_a_job_as_it_is_told(house: House) -> None:
    reply = house.ask(f"/{str(UUID(int=7)).upper()}")
    assert reply.status == 200
    assert reply.data == {
        "id": str(UUID(int=7)),
        "queue": "payments",
        "worker": "pay",
        "args": {"n": 7},
        "state": "retryable",
        "priority": 0,
        "attempt": 1,
        "max_attempts": 4,
        "scheduled_at": INSTANT,
        "attempted_at": INSTANT,
        "completed_at": None,
        "errors": [ERROR],
    }


@pytest.mark.parametrize(("query", "limit"), [("", 20), ("limit=7", 7), ("limit=45", 45), ("limit=999", 100)])
def test_pages_follow_each_other(house: House, query: str, limit: int) -> None:
    seen: list[int] = []
    cursor = None
    while True:
        reply = house.ask(f"?{query}" if cursor is None else f"?{query}&cursor={quote(cursor)}")
        pagination = reply.json["metadata"]["pagination"]
        assert (pagination["type"], pagination["limit"]) == ("keyset", limit)
        seen += [one["args"]["n"] for one in reply.data]
        cursor = pagination["next_cursor"]
        if cursor is None:
            break
    assert seen == list(range(45, 0, -1))


def test_filters(house: House) -> None:
    for state in STATES:
        house.ask(f"?queue=payments&state={state}")
    assert house.desk.asked == [JobFilter("payments", state) for state in STATES]


NO_ID = '{"id":"x"}'


def cursor(text: str) -> str:
    return quote(urlsafe_b64encode(text.encode()).decode())


@pytest.mark.parametrize(
    ("query", "reason", "field"),
    [
        ("limit=0", "invalid_pagination", "limit"),
        ("cursor=x", "invalid_cursor", "cursor"),
        (f"cursor={cursor('{}')}", "invalid_cursor", "cursor"),
        (f"cursor={cursor(NO_ID)}", "invalid_cursor", "cursor"),
        ("state=lost", "invalid_status", "state"),
        ("state=", "invalid_status", "state"),
        (f"queue={'x' * 256}", "invalid_request", "queue"),
    ],
)
def test_what_cannot_be_asked(house: House, query: str, reason: str, field: str) -> None:
    reply = house.ask(f"?{query}")
    assert reply.refusal == (400, reason)
    assert reply.error["details"]["field"] == field
    assert house.desk.asked == []


def test_stats(house: House) -> None:
    assert house.ask("/stats").data == {
        "queues": {"default": dict.fromkeys(STATES, 0)},
        "breakers": [{"name": "bank", "state": "open", "failures": 5, "wait": 12.5}],
    }


def test_what_admins_do_to_jobs_is_audited(house: House) -> None:
    one = str(UUID(int=7))
    reply = house.ask(f"/{one}/retry", "POST")
    assert (reply.status, reply.data["state"]) == (200, "available")
    assert house.desk.done == [("retry", one)]
    refused = house.ask(f"/{one}/cancel", "POST")
    assert refused.refusal == (409, "already_processed")
    assert refused.error["details"] == {"state": "completed"}
    told = [(event.event, event.endpoint, event.details) for event in house.server.audited]
    assert told == [("admin_action", "POST /api/jobs/<id>/retry", {"id": one})]


@pytest.mark.parametrize(("path", "method"), [("/x", "GET"), ("/x/retry", "POST"), ("/x/cancel", "POST")])
def test_ids(house: House, path: str, method: str) -> None:
    assert house.ask(path, method).refusal == (400, "invalid_uuid_format")
    assert house.ask(f"/{UUID(int=99)}").refusal == (404, "job_not_found")


@pytest.mark.parametrize("role", ["user", "support"])
def test_they_are_for_admins(house: House, role: Any) -> None:
    backend = house.server.backend
    for path, method in (("", "GET"), ("/stats", "GET"), ("/x", "GET"), ("/x/retry", "POST"), ("/x/cancel", "POST")):
        for token in (backend.log_in(role), house.server.token):
            assert house.ask(path, method, token).refusal == (403, "insufficient_permissions")
    assert house.desk.asked == []
    assert house.desk.done == []

"""The jobs, for admins to watch and to mend."""

from __future__ import annotations

from typing import Any

from ledger.domain.errors import Refused
from ledger.domain.jobs import STATES, Job
from ledger.domain.policy import Action, Caller
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.resources.paging import KeysetQuery, id_of, limit_of, stretch
from ledger.resources.reading import Text, identifier
from ledger.services.job_desk import JobDesk, JobStats
from ledger.store.job_desk import JobFilter

_OF_ONE = ("insufficient_permissions", "invalid_uuid_format", "job_not_found", "service_unavailable")


class JobsQuery(KeysetQuery, frozen=True, kw_only=True):
    """Which jobs: of a queue, in a state."""

    queue: Text | None = None
    state: str | None = None


class JobEndpoints:
    """Everything below /api/jobs."""

    def __init__(self, jobs: JobDesk) -> None:
        self._jobs = jobs

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare them; paths without a parameter come first."""

        def endpoint(method: str, path: str, handler: Any, summary: str, **more: Any) -> Endpoint:
            return Endpoint(method, path, handler, summary, Action.MANAGE_JOBS, **more)

        one = "/api/jobs/<id>"
        return (
            endpoint(
                "GET",
                "/api/jobs",
                self.read,
                "The jobs, newest first",
                query=JobsQuery,
                answer=list[Job],
                refuses=(
                    *("insufficient_permissions", "invalid_request", "invalid_pagination", "invalid_cursor"),
                    *("invalid_status", "service_unavailable"),
                ),
            ),
            endpoint(
                "GET",
                "/api/jobs/stats",
                self.stats,
                "How many jobs there are by queue and state, and how the breakers of external services stand",
                answer=JobStats,
                refuses=("insufficient_permissions", "service_unavailable"),
            ),
            endpoint("GET", one, self.find, "A job", answer=Job, refuses=_OF_ONE),
            endpoint(
                "POST",
                f"{one}/retry",
                self.retry,
                "Make a job due now; one that is dead or cancelled begins anew",
                answer=Job,
                refuses=(*_OF_ONE, "already_processed"),
            ),
            endpoint(
                "POST",
                f"{one}/cancel",
                self.cancel,
                "End a job that has not come to its end",
                answer=Job,
                refuses=(*_OF_ONE, "already_processed"),
            ),
        )

    async def read(self, _caller: Caller, call: Call[None, JobsQuery]) -> Answer:
        """Read the jobs after a place, and one more to see whether there are any."""
        query = call.query
        limit, after = limit_of(query), id_of(query.cursor)
        if query.state is not None and query.state not in STATES:
            raise Refused("invalid_status", field="state", states=list(STATES))
        wanted = JobFilter(query.queue, query.state)
        found = await self._jobs.read(wanted, after, limit + 1)
        told, metadata = stretch(found, limit, lambda job: job.id)
        return Answer(told, metadata=metadata)

    async def stats(self, _caller: Caller, _call: Call[None, None]) -> Answer:
        """Count the jobs."""
        return Answer(await self._jobs.stats())

    async def find(self, _caller: Caller, call: Call[None, None]) -> Answer:
        """Show a job."""
        return Answer(await self._jobs.find(_named(call)))

    async def retry(self, _caller: Caller, call: Call[None, None]) -> Answer:
        """Have a job run now."""
        return Answer(await self._jobs.retry(_named(call)))

    async def cancel(self, _caller: Caller, call: Call[None, None]) -> Answer:
        """Have a job not run any more."""
        return Answer(await self._jobs.cancel(_named(call)))


def _named(call: Call[Any, Any]) -> str:
    return identifier(call.params["id"], "id")

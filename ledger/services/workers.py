"""Workers: what a job is done by, found by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, Protocol, runtime_checkable

from ledger.domain.errors import Refused
from ledger.domain.jobs import ATTEMPTS

_TIMEOUT: Final = 60.0


class Worker(Protocol):
    """Does the jobs that bear its name, `timeout` seconds long at most, each begun `max_attempts` times at most.

    `run` may be called again for a job that it has done, or that another process is still at: what it does must be
    the same done twice. Returning means done. It raises `Refused`, whose category decides whether it is tried again,
    `Cancel` where there is nothing left to do, or `Snooze` to be called later.
    """

    @property
    def name(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def timeout(self) -> float: ...
    @property
    def max_attempts(self) -> int: ...

    async def run(self, args: Mapping[str, Any]) -> None: ...


@runtime_checkable
class LastWords(Protocol):
    """A worker that wants to know when a job of its is given up.

    Called once it is certain that the job is never run again, before the job is `dead`, and again until it returns.
    """

    async def gave_up(self, args: Mapping[str, Any], refused: Refused) -> None: ...


class Chore:
    """A worker around one function that takes no arguments."""

    def __init__(
        self, name: str, work: Callable[[], Awaitable[object]], queue: str = "default", timeout: float = _TIMEOUT
    ) -> None:
        self.name = name
        self.queue = queue
        self.timeout = timeout
        self.max_attempts = ATTEMPTS
        self._work = work

    async def run(self, _args: Mapping[str, Any]) -> None:
        """Do it."""
        await self._work()


class Workers:
    """All workers that this version of the server knows; complete before any job is claimed."""

    def __init__(self, *workers: Worker) -> None:
        self._workers: dict[str, Worker] = {}
        for worker in workers:
            self.add(worker)

    def add(self, worker: Worker) -> None:
        """Make a worker known; names are unique."""
        if worker.name in self._workers:
            raise ValueError(f"there is a worker {worker.name} already")
        self._workers[worker.name] = worker

    def __getitem__(self, name: str) -> Worker:
        return self._workers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._workers)

"""The embedded PostgreSQL as a child of the service tree."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from ledger.services.child import Child
from ledger.services.postgres_cluster import NO_SETTINGS, START_PATIENCE, Cluster, PostgresFailed
from ledger.services.postgres_process import Postmaster

WATCH_INTERVAL = 0.2


class EmbeddedPostgres(Child):
    """PostgreSQL in the data directory: started or joined, watched, and stopped by its last user."""

    name = "postgres"
    start_deadline = START_PATIENCE + 10.0
    stop_deadline = 45.0

    def __init__(self, data_dir: Path, reactor: Any, *, settings: Mapping[str, str] = NO_SETTINGS) -> None:
        self._reactor = reactor
        self._cluster = Cluster(data_dir, settings)
        self._abandoned = threading.Event()
        self._postmaster: Postmaster | None = None
        self._watch = LoopingCall(self._look)
        self._watch.clock = reactor

    @property
    def url(self) -> str:
        """The libpq URL of the database, known before it runs."""
        return self._cluster.url

    @property
    def pid(self) -> int | None:
        """The postmaster's process number while it is in use."""
        return self._postmaster.pid if self._postmaster else None

    async def start(self) -> None:
        """Return when the database answers."""
        self._abandoned = threading.Event()
        self._postmaster = await self._in_thread(self._cluster.acquire, self._abandoned)
        self._watch.start(WATCH_INTERVAL, now=False)

    async def stop(self) -> None:
        """Stop PostgreSQL unless somebody else uses it; ends a start that is under way."""
        self._abandoned.set()
        self._postmaster = None
        if self._watch.running:
            self._watch.stop()
        await self._in_thread(self._cluster.release)

    def _look(self) -> None:
        if self._postmaster is not None and not self._postmaster.alive():
            self._watch.stop()
            died = PostgresFailed(f"PostgreSQL died: process {self._postmaster.pid} is gone")
            self.fail(Failure(died))  # type: ignore[no-untyped-call]

    def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), function, *arguments)

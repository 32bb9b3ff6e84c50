"""Memory, time and open files of the process, as the client library reads them; on a thread, for files are many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import Metric
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger


class ProcessMeter:
    """What was read last of the process, and what its garbage collector has done."""

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._process = ProcessCollector(registry=None)
        self._collector = GCCollector(registry=CollectorRegistry())
        self._read: Sequence[Metric] = ()

    async def renew(self) -> None:
        """Read: each open file is an entry of a directory, and with thousands of clients that takes a while."""
        pool = self._reactor.getThreadPool()
        reading: Deferred[list[Metric]] = deferToThreadPool(self._reactor, pool, self._collect)
        try:
            self._read = await reading
        except Exception:
            self._log.failure("the process could not be read")
            self._read = ()

    def metrics(self) -> Iterator[Metric]:
        """Tell of the process and of its garbage."""
        yield from self._read
        yield from self._collector.collect()

    def _collect(self) -> list[Metric]:
        return list(self._process.collect())

"""The audit log: who was turned away, and what admins did, written beside the requests and never in their way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ledger.domain.addresses import client_of
from ledger.domain.errors import Refused
from ledger.services.audit_event import AuditEvent, Event, row_of
from ledger.services.child import Child, Clock
from ledger.services.deadline import Overrun, within
from ledger.services.periodic import Periodic
from ledger.store.audit import AuditFilter, AuditLine, AuditRow, forget, keep, read
from ledger.store.pool import Pool
from ledger.store.postgres import StatementFailed

__all__ = ["Audit", "AuditEvent", "Event"]

DAYS: Final = 90
MINUTE: Final = 60.0
DISTINCT: Final = 1_000  # rows of failures begun in a minute; all others share one row for each event and reason
KEPT: Final = 10_000  # rows of each sort that wait while the database is away
_SHARED: Final = 100
_EVERY: Final = 1.0
_HOURLY: Final = 3600.0
_LAST: Final = 2.0  # seconds for what is left at the end
_BATCH: Final = 500
_SLICE: Final = 1_000
_MOST_COUNT: Final = 2**31 - 1

_Key = tuple[str | None, ...]


class Audit(Child):
    """Takes events at once, and writes them about once a second.

    Failures of one client with the same event and reason make one row a minute, which tells how many there were.
    What admins do has a row each, and a bound of its own. Where the database is away, rows wait within these bounds.
    """

    name = "audit"
    leans_on = ("database",)

    _log = Logger()

    def __init__(self, pool: Pool, clock: Clock, new_id: Callable[[], str]) -> None:
        """`new_id` makes UUIDs of version 7."""
        self.dropped = 0
        self._pool = pool
        self._clock = clock
        self._new_id = new_id
        self._open: dict[_Key, AuditRow] = {}  # rows of failures that still count, oldest first
        self._shared: dict[_Key, AuditRow] = {}
        self._failures: dict[str, AuditRow] = {}  # what is to be written, by id
        self._actions: dict[str, AuditRow] = {}
        self._told_of = 0
        self._under_way = 0
        self._is_on = False
        self._writing = Periodic("audit writing", _EVERY, self._write, clock)
        self._clearing = Periodic("audit clearing", _HOURLY, self._clear, clock, at_once=True)

    async def start(self) -> None:
        """Begin to write, and to delete what is too old."""
        self._is_on = True
        await self._writing.start()
        await self._clearing.start()

    async def stop(self) -> None:
        """Write what is left, unless the database is silent."""
        self._is_on = False
        Deferred.fromCoroutine(self._clearing.stop())  # what it does at the moment need not be waited for
        with suppress(Overrun):
            await within(self._clock, _LAST, Deferred.fromCoroutine(self._write_last()), "")
        if left := len(self._actions) + len(self._failures) + self._under_way:
            self._log.warn("{left} rows of the audit log could not be written", left=left)

    def record(self, event: AuditEvent) -> None:
        """Take note of an event; returns at once, and never raises."""
        try:
            if event.event == "admin_action":
                self._act(event)
            else:
                self._fail(event)
        except Exception:
            self.dropped += 1
            self._log.failure("An event could not be taken into the audit log")

    async def read(self, wanted: AuditFilter, after: tuple[str, str] | None, limit: int) -> list[AuditLine]:
        """Return at most so many rows, newest first, those after the row with this `at` and `id`."""
        return await read(self._pool, wanted, after, limit)

    def _act(self, event: AuditEvent) -> None:
        if len(self._actions) >= KEPT:
            self._drop()
            return
        row = row_of(event, self._new_id(), self._clock.seconds())
        self._actions[row.id] = row

    def _fail(self, event: AuditEvent) -> None:
        now = self._clock.seconds()
        client = None if event.address is None else client_of(event.address)
        key = (event.event, event.reason, event.actor_kind, event.actor_id, client)
        row = self._open.get(key)
        if row is None or not 0 <= now - row.at < MINUTE:
            self._close_old(now)
            if len(self._open) >= DISTINCT:
                self._share(event, now)
                return
            if len(self._failures) >= KEPT:
                self._drop()
                return
            row = self._open[key] = row_of(event, self._new_id(), now)
            self._failures[row.id] = row
        else:
            self._again(row, now)

    def _share(self, event: AuditEvent, now: float) -> None:
        """Count a failure in the row of all that came when there were too many to tell apart."""
        key = (event.event, event.reason)
        row = self._shared.get(key)
        if row is not None and 0 <= now - row.at < MINUTE:
            self._again(row, now)
            return
        if len(self._failures) >= KEPT or (row is None and len(self._shared) >= _SHARED):
            self._drop()
            return
        nobody = AuditEvent(event.event, event.reason, correlation_id=event.correlation_id)
        row = row_of(nobody, self._new_id(), now)
        self._shared[key] = self._failures[row.id] = row

    def _again(self, row: AuditRow, now: float) -> None:
        if row.id not in self._failures:
            if len(self._failures) >= KEPT:
                self._drop()
                return
            self._failures[row.id] = row
        row.count = min(row.count + 1, _MOST_COUNT)
        row.until = max(row.until, now)

    def _close_old(self, now: float) -> None:
        while self._open:
            key, row = next(iter(self._open.items()))
            if 0 <= now - row.at < MINUTE:
                return
            del self._open[key]

    def _drop(self) -> None:
        if not self.dropped:
            self._log.warn("The audit log cannot be written: from here on, rows are dropped")
        self.dropped += 1

    async def _write_last(self) -> None:
        await self._writing.stop()
        await self._write()

    async def _write(self) -> None:
        """Write what waits by now, what admins did first, or as much of it as the database takes."""
        for waiting in (self._actions, self._failures):
            rows = list(waiting.values())
            for start in range(0, len(rows), _BATCH):
                batch = rows[start : start + _BATCH]
                for row in batch:
                    del waiting[row.id]  # what is counted in it from now on is to be written again
                self._under_way = len(batch)
                try:
                    await self._keep(batch)
                except Refused:  # the database is away
                    waiting.update((row.id, row) for row in batch)
                    return
                finally:
                    self._under_way = 0
        if self.dropped > self._told_of:
            self._log.warn("{dropped} rows of the audit log were dropped", dropped=self.dropped - self._told_of)
            self._told_of = self.dropped

    async def _keep(self, rows: Sequence[AuditRow]) -> None:
        """Write rows; where the database takes some for none, only these are dropped."""
        try:
            await keep(self._pool, rows)
        except StatementFailed:
            if len(rows) == 1:
                self.dropped += 1
                self._log.failure("A row of the audit log was refused")
                return
            half = len(rows) // 2
            await self._keep(rows[:half])
            await self._keep(rows[half:])

    async def _clear(self) -> None:
        """Delete what is too old, a little at a time."""
        try:
            while await forget(self._pool, DAYS, _SLICE) == _SLICE and self._is_on:
                pass
        except Refused as refused:
            self._log.info("Old rows of the audit log stay: {reason}", reason=refused.reason)

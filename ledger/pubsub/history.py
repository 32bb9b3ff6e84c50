"""Reads the journal's past for followers: each stretch once for all who want it, and never too much at a time."""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ledger.domain.events import Committed
from ledger.pubsub.turns import Clock, Timer

_log = Logger()

_SLICE: Final = 250
_KEPT: Final = 32
_AT_ONCE: Final = 2
FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0


class JournalReader(Protocol):
    """Reads committed records."""

    async def head(self) -> int:
        """The number of the last committed record."""

    async def after(self, seq: int, limit: int) -> list[Committed]:
        """The records after `seq`, in order, at most `limit`."""


class History:
    """A few slices of the journal in memory, and a queue of those that somebody waits for."""

    def __init__(self, reader: JournalReader, clock: Clock) -> None:
        self._reader = reader
        self._clock = clock
        self._slices: OrderedDict[int, Sequence[Committed]] = OrderedDict()
        self._waiting: dict[int, list[Callable[[], None]]] = {}
        self._needed: dict[int, int] = {}
        self._wanted: deque[int] = deque()
        self._active = 0
        self._pause = FIRST_PAUSE
        self._timer: Timer | None = None
        self._running = False
        self._busy = False

    def start(self) -> None:
        """Read what is wanted."""
        self._running = True
        self._next()

    def stop(self) -> None:
        """Read nothing more until started again; whoever waits goes on waiting."""
        self._running = False
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def after(self, seq: int, limit: int) -> list[Committed] | None:
        """Return up to `limit` records that follow `seq`, or None where the next one is not in memory."""
        number = seq // _SLICE
        found = self._slices.get(number)
        if found is None:
            return None
        self._slices.move_to_end(number)
        offset = seq - number * _SLICE
        return list(found[offset : offset + limit]) or None

    def fetch(self, seq: int, then: Callable[[], None]) -> None:
        """Bring the record after `seq`, which is known to be committed, into memory; call `then` when it is there."""
        number = seq // _SLICE
        self._needed[number] = max(self._needed.get(number, 0), seq + 1 - number * _SLICE)
        waiting = self._waiting.get(number)
        if waiting is not None:
            waiting.append(then)
            return
        self._waiting[number] = [then]
        self._wanted.append(number)
        self._next()

    def _next(self) -> None:
        if self._busy:  # a reader that answers at once would nest us without end
            return
        self._busy = True
        while self._running and self._timer is None and self._active < _AT_ONCE and self._wanted:
            self._active += 1
            Deferred.fromCoroutine(self._load(self._wanted.popleft()))
        self._busy = False

    async def _load(self, number: int) -> None:
        first = number * _SLICE + 1
        try:
            records = await self._reader.after(first - 1, _SLICE)
            if [record.seq for record in records] != list(range(first, first + len(records))):
                raise LookupError(f"records from {first} on do not follow one another")
            if len(records) < self._needed[number]:
                raise LookupError(f"only {len(records)} records from {first} on")
        except Exception as failure:
            self._active -= 1
            self._wanted.appendleft(number)
            if self._running and self._timer is None:
                _log.warn("cannot read the journal from {first} on: {failure!r}", first=first, failure=failure)
                self._timer = self._clock.callLater(self._pause, self._again)
                self._pause = min(self._pause * 2, LONGEST_PAUSE)
            return
        self._active -= 1
        self._pause = FIRST_PAUSE
        self._slices[number] = records
        self._slices.move_to_end(number)
        if len(self._slices) > _KEPT:
            self._slices.popitem(last=False)
        del self._needed[number]
        for then in self._waiting.pop(number):
            then()
        self._next()

    def _again(self) -> None:
        self._timer = None
        self._next()

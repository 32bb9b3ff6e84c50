"""The journal as a live stream: the only publisher, strictly in order, each record once."""

from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ledger.domain.errors import Refused, unavailable
from ledger.domain.events import Committed
from ledger.pubsub.cursor import Cursor, read_cursor
from ledger.pubsub.following import Following, Outlet
from ledger.pubsub.history import FIRST_PAUSE, LONGEST_PAUSE, History, JournalReader
from ledger.pubsub.hub import Hub
from ledger.pubsub.ring import Ring
from ledger.pubsub.topics import Grant
from ledger.pubsub.turns import Clock, Timer, Turns

_log = Logger()

_RING: Final = 10_000
_PRELOAD: Final = 2_000  # the records before the start, for those who were here before a restart
_SLICE: Final = 500
_AHEAD: Final = 10_000
_BUDGET: Final = 0.003
_MOST: Final = 256
_GRACE: Final = 0.005  # a NOTIFY may overtake the writer's own hand-over, which spares a read


class Feed:
    """Publishes every committed record, whoever committed it; what it is handed is a cache, the database the truth."""

    def __init__(
        self, reader: JournalReader, hub: Hub, clock: Clock, *, ring: int = _RING, preload: int = _PRELOAD
    ) -> None:
        self.hub = hub
        self.turns = Turns(clock)
        self.published = -1
        self.broken: Callable[[Failure], None] = lambda failure: _log.failure("the feed broke", failure)
        self._reader = reader
        self._clock = clock
        self._history = History(reader, clock)
        self._ring = Ring(ring)
        self._preload = min(preload, ring)
        self._ahead: dict[int, Committed] = {}
        self._target = 0
        self._running = False
        self._reading = False
        self._checking = False
        self._patient = True
        self._pause = FIRST_PAUSE
        self._timers: dict[str, Timer] = {}

    @property
    def head(self) -> int:
        """The last record that is known to be in the journal."""
        return max(self._target, self.published)

    async def start(self) -> None:
        """Begin at the journal's head; started again, go on where it stopped."""
        head = await self._reader.head()
        if self.published < 0:
            seq = max(head - self._preload, 0)
            while seq < head:
                records = await self._reader.after(seq, min(_SLICE, head - seq))
                for committed in records:
                    self._ring.append(committed)
                if not records:
                    break
                seq = records[-1].seq
            self.published = head
        self._running = True
        self._history.start()
        self._aim(head)
        self._later("check", 0, self._check)  # for what was committed, and perhaps announced, while this was starting

    async def stop(self) -> None:
        """Publish nothing until started again."""
        self._running = False
        self._history.stop()
        for timer in self._timers.values():
            if timer.active():
                timer.cancel()
        self._timers.clear()
        self._ahead.clear()

    def committed(self, batch: Sequence[Committed]) -> None:
        """Take over records that have just been committed, in order; late, early or twice does no harm."""
        if self._running and batch:
            self._remember(batch, _AHEAD)
            self._aim(batch[-1].seq)

    def head_moved(self, seq: int) -> None:
        """Learn that the journal has grown to `seq`, in whatever process."""
        if self._running:
            self._aim(seq)

    def connected(self) -> None:
        """Learn that LISTEN works (again): whatever was missed meanwhile is read."""
        if self._running:
            self._later("check", 0, self._check)

    def disconnected(self) -> None:
        """Learn that LISTEN is away: other processes' commits wait until `connected`."""
        _log.info("not listening: what other processes commit is published later")

    async def follow(self, grants: Sequence[Grant], since: object, outlet: Outlet) -> Following:
        """Return a following of everything after `since`, or from now on where it is None; it delivers once begun."""
        if self.published < 0:
            raise unavailable()
        if since is None:
            return Following(self, grants, Cursor(self.published), outlet)
        cursor = read_cursor(since)
        if cursor.seq > self.published:
            try:
                head = await self._reader.head()
            except Exception as failure:
                _log.warn("cannot read the journal's head: {failure!r}", failure=failure)
                raise unavailable() from failure
            if cursor.seq > head:
                raise Refused("invalid_cursor", field="since")
        return Following(self, grants, cursor, outlet)

    def after(self, seq: int, limit: int) -> Sequence[Committed] | None:
        """Published records after `seq`, none at the head, None where they must be fetched first."""
        limit = min(limit, self.published - seq)
        if limit <= 0:
            return ()
        return self._ring.after(seq, limit) or self._history.after(seq, limit)

    def fetch(self, seq: int, then: Callable[[], None]) -> None:
        """Bring the published record after `seq` into memory, then call."""
        self._history.fetch(seq, then)

    def _remember(self, records: Sequence[Committed], room: int) -> None:
        for committed in records:
            seq = committed.record.seq
            if seq > self.published and len(self._ahead) < room:
                self._ahead[seq] = committed

    def _aim(self, seq: int) -> None:
        self._target = max(self._target, seq)
        if self._target > self.published:
            self._later("turn", 0, self._turn)

    def _later(self, name: str, delay: float, call: Callable[[], None]) -> None:
        timer = self._timers.get(name)
        if timer is None or not timer.active():
            self._timers[name] = self._clock.callLater(delay, call)

    def _turn(self) -> None:
        """Publish what follows without a gap, for a few milliseconds; read what is missing."""
        ahead, keep, publish, seconds = self._ahead, self._ring.append, self.hub.publish, self._clock.seconds
        deadline = seconds() + _BUDGET
        count = 0
        while (committed := ahead.pop(self.published + 1, None)) is not None:
            self.published += 1
            keep(committed)
            try:
                publish(committed)
            except Exception:
                self.broken(Failure())  # type: ignore[no-untyped-call]
                return
            count += 1
            if count == _MOST or seconds() >= deadline:
                self._later("turn", 0, self._turn)
                return
        if count:
            self._patient = True
            if (grace := self._timers.pop("grace", None)) is not None and grace.active():
                grace.cancel()
        if self.published >= self._target:
            return
        if self._patient and not self._ahead:
            self._later("grace", _GRACE, self._out_of_patience)
        elif not self._reading and "retry" not in self._timers:
            Deferred.fromCoroutine(self._read())

    def _out_of_patience(self) -> None:
        # A turn later: after a long one, the writer's own hand-over is due as well, and may only come next.
        self._later("no grace", 0, self._impatient)

    def _impatient(self) -> None:
        self._patient = False
        self._turn()

    async def _read(self) -> None:
        self._reading = True
        try:
            records = await self._reader.after(self.published, _SLICE)
        except Exception as failure:
            self._retry(repr(failure))
            return
        finally:
            self._reading = False
        if not self._running:
            return
        self._remember(records, _AHEAD + _SLICE)
        if self.published < self._target and self.published + 1 not in self._ahead:
            self._retry(f"record {self.published + 1} is not there")
            return
        self._pause = FIRST_PAUSE
        self._later("turn", 0, self._turn)

    def _retry(self, why: str) -> None:
        if self._running:
            _log.warn("cannot read the journal after {seq}: {why}", seq=self.published, why=why)
            self._later("retry", self._pause, self._retried)
            self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _retried(self) -> None:
        del self._timers["retry"]
        self._turn()

    def _check(self) -> None:
        if not self._checking:
            Deferred.fromCoroutine(self._read_head())

    async def _read_head(self) -> None:
        self._checking = True
        try:
            head = await self._reader.head()
        except Exception as failure:
            _log.warn("cannot read the journal's head: {failure!r}", failure=failure)
            if self._running:
                self._later("check", LONGEST_PAUSE, self._check)
            return
        finally:
            self._checking = False
        if head < self.published:
            _log.error("the journal ends at {head}, but {seq} was published", head=head, seq=self.published)
        if self._running:
            self._aim(head)

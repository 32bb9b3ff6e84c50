"""The writer: takes a batch from the lanes, reads its facts, decides, commits, and answers everyone."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from ledger.domain.commands import Book, Command, Outcome, Replayed, Sealed, decide
from ledger.domain.errors import ConfigurationError, Refused, unavailable
from ledger.domain.events import Committed
from ledger.services.child import Child
from ledger.services.lanes import LaneFull, Lanes
from ledger.services.replies import Replies, Waiting
from ledger.store.postgres import ConnectionLost, StatementFailed

log = Logger()

BATCH: Final = 1_000
_FIRST_SLICE, _LARGEST_SLICE = 64, 256
_SETTLE_WITHIN: Final = 30.0
_FIRST_RETRY, _LAST_RETRY = 0.1, 3.0


class BatchStore(Protocol):
    """Where batches are kept: PostgreSQL (`store.journal.JournalWriter`) or memory (`store.memory.MemoryJournal`)."""

    async def open(self) -> None: ...
    async def read_facts(self, commands: Sequence[Command]) -> Book: ...
    async def append_part(self, book: Book, batch: Sequence[Sealed]) -> None: ...
    async def append(self, book: Book, batch: Sequence[Sealed]) -> None: ...
    async def roll_back(self) -> None: ...
    async def kept(self, ids: Iterable[str]) -> set[str]: ...
    def close(self) -> None: ...


class Writer(Child):
    """The only place where the journal grows; any number of processes may run one on the same database."""

    name = "writer"
    leans_on = ("database",)
    stop_deadline = 40.0

    def __init__(
        self,
        store: BatchStore,
        reactor: Any,
        committed: Callable[[Sequence[Committed]], None],
        lanes: Lanes[Waiting] | None = None,
        batch: int = BATCH,
    ) -> None:
        self._store = store
        self._reactor = reactor
        self._committed = committed
        self._lanes: Lanes[Waiting] = Lanes() if lanes is None else lanes
        self._batch = batch
        self._again: deque[list[Waiting]] = deque()  # what is to be decided once more, before anything in the lanes
        self._accepting = False
        self._away = False
        self._work: Deferred[None] | None = None
        self._loop: Deferred[None] | None = None
        self._replies = Replies(reactor)

    @property
    def depth(self) -> int:
        """How many commands wait."""
        return len(self._lanes)

    def submit(self, command: Command) -> Deferred[Sealed | Replayed]:
        """Have a command decided and kept; fires after the commit, or fails with `Refused`."""
        waiting = Waiting(command)
        try:
            if not self._accepting or self._away:
                raise unavailable()
            self._lanes.put(command.lane, waiting)
        except LaneFull:
            waiting.answer.errback(unavailable())
        except Exception:
            waiting.answer.errback()
        else:
            self._wake()
        return waiting.answer

    async def start(self) -> None:
        """Return when the store is open and commands are taken."""
        await self._store.open()
        self._accepting, self._away = True, False
        self._loop = ensureDeferred(self._run())
        self._loop.addErrback(self._broken)

    async def stop(self) -> None:
        """Refuse what is new, finish what is queued, and close the store."""
        self._accepting = False
        self._wake()
        if self._loop is not None:
            await self._loop
            self._loop = None
        self._refuse_queued()
        await self._replies.quiet()
        self._store.close()

    def _broken(self, failure: Failure) -> None:
        self._accepting = False
        self._refuse_queued()
        self.fail(failure)

    def _wake(self) -> None:
        if self._work is not None:
            work, self._work = self._work, None
            # A turn later, so that all that arrives in this turn of the reactor makes one batch.
            self._reactor.callLater(0, work.callback, None)

    async def _run(self) -> None:
        while True:
            batch = self._again.popleft() if self._again else self._lanes.take(self._batch)
            if not batch:
                if not self._accepting:
                    return
                self._work = Deferred()
                await self._work
                continue
            try:
                await self._process(batch)
            except ConnectionLost as lost:
                log.warn("The writer lost its connection: {reason}", reason=str(lost))
                await self._reopen(batch)
            except Exception:
                # Nothing is known of this batch but that it broke: never say that it was not done.
                self._replies.give((waiting, unavailable("unknown")) for waiting in batch)
                raise

    async def _process(self, batch: list[Waiting]) -> None:
        commands = [waiting.command for waiting in batch]
        try:
            book = await self._store.read_facts(commands)
            outcomes: list[Outcome] = []
            sealed: list[Sealed] = []
            last: list[Sealed] = []
            for slice_of in _slices(commands):
                if last:
                    await self._store.append_part(book, last)
                decided = decide(book, slice_of)
                last = [outcome for outcome in decided if isinstance(outcome, Sealed)]
                outcomes += decided
                sealed += last
            if not sealed:
                await self._store.roll_back()
        except ConnectionLost:
            raise
        except Exception as error:
            await self._isolate(batch, error)
            return
        if sealed:
            try:
                await self._store.append(book, last)
            except StatementFailed as error:
                await self._isolate(batch, error)
                return
            except ConnectionLost as lost:
                verdict = await self._settle(sealed, lost)
                if verdict is not None:
                    # Refusals go with the rest: they may rest on what was decided, and then not kept.
                    self._replies.give((waiting, verdict) for waiting in batch)
                    if self._away:
                        await self._reopen([])
                    return
            # A turn later: the database can be at work on the next batch meanwhile.
            self._reactor.callLater(0, self._publish, sealed, book)
        self._replies.give(zip(batch, outcomes, strict=True))

    def _publish(self, batch: Sequence[Sealed], book: Book) -> None:
        try:
            self._committed([Committed(sealed.record, book.accounts) for sealed in batch])
        except Exception:
            log.failure("A committed batch could not be handed on; it will be read from the journal")

    async def _isolate(self, batch: list[Waiting], error: Exception) -> None:
        """Have a batch decided again in halves until what breaks it stands alone, unless the database cannot."""
        await self._store.roll_back()
        if isinstance(error, StatementFailed) and error.is_passing:
            log.warn("The database cannot: {reason}", reason=str(error))
            self._replies.give((waiting, unavailable()) for waiting in batch)
        elif len(batch) > 1:
            middle = len(batch) // 2
            self._again.extendleft((batch[middle:], batch[:middle]))
        elif isinstance(error, StatementFailed):
            log.error("The database refused a {kind}: {reason}", kind=batch[0].command.kind, reason=str(error))
            self._replies.give([(batch[0], Refused("database_error"))])
        else:
            self._replies.give([(batch[0], error)])

    async def _reopen(self, batch: list[Waiting]) -> None:
        """Connect again. A batch that was not sent to be committed is decided once more, if that succeeds at once."""
        delay = _FIRST_RETRY
        while True:
            self._store.close()
            try:
                await self._store.open()
            except (ConnectionLost, StatementFailed, ConfigurationError) as error:
                if not self._away:
                    log.warn("The writer cannot reach the database: {reason}", reason=str(error))
                self._away = True
                self._replies.give((waiting, unavailable()) for waiting in batch)
                batch = []
                self._refuse_queued()
                if not self._accepting:
                    return
                await deferLater(self._reactor, delay)
                delay = min(delay * 2, _LAST_RETRY)
            else:
                break
        self._away = False
        self._replies.give((waiting, unavailable()) for waiting in batch if waiting.tries)
        again = [waiting for waiting in batch if not waiting.tries]
        for waiting in again:
            waiting.tries += 1
        if again:
            self._again.appendleft(again)

    async def _settle(self, sealed: Sequence[Sealed], lost: ConnectionLost) -> Exception | None:
        """Find out what became of a commit whose answer was lost: None if it was done, else what to tell."""
        log.warn("The connection died in a commit of {count}: {reason}", count=len(sealed), reason=str(lost))
        deadline = self._reactor.seconds() + _SETTLE_WITHIN
        delay = _FIRST_RETRY
        self._away = True
        self._refuse_queued()
        while self._reactor.seconds() < deadline:
            self._store.close()
            try:
                await self._store.open()
                kept = await self._store.kept([sealed[0].record.id])
            except (ConnectionLost, StatementFailed, ConfigurationError):
                await deferLater(self._reactor, delay)
                delay = min(delay * 2, _LAST_RETRY)
            else:
                self._away = False
                return None if kept else unavailable()
        return unavailable("unknown")

    def _refuse_queued(self) -> None:
        again, self._again = self._again, deque()
        queued = chain(*again, self._lanes.drain())
        self._replies.give((waiting, unavailable()) for waiting in queued)


def _slices(commands: Sequence[Command]) -> Iterator[Sequence[Command]]:
    """Part a batch: while one slice is decided, the store is at work on the one before, so the first is small."""
    start, size = 0, _FIRST_SLICE if len(commands) > _LARGEST_SLICE else _LARGEST_SLICE
    while start < len(commands):
        yield commands[start : start + size]
        start, size = start + size, min(2 * size, _LARGEST_SLICE)

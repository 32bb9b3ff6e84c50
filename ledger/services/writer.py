"""The writer: takes a batch from the lanes, reads its facts, decides, commits, and answers everyone."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from ledger.domain.commands import Book, Command, Replayed, Sealed, decide
from ledger.domain.errors import ConfigurationError, Refused, unavailable
from ledger.domain.events import Committed
from ledger.services.child import Child
from ledger.services.lanes import LaneFull, Lanes
from ledger.services.replies import Replies, Waiting
from ledger.store.postgres import ConnectionLost, StatementFailed

log = Logger()

BATCH: Final = 1_000
_SETTLE_WITHIN: Final = 30.0
_FIRST_RETRY, _LAST_RETRY = 0.1, 3.0


class BatchStore(Protocol):
    """Where batches are kept: PostgreSQL (`store.journal.JournalWriter`) or memory (`store.memory.MemoryJournal`)."""

    async def open(self) -> None: ...
    async def read_facts(self, commands: Sequence[Command]) -> Book: ...
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
            if not len(self._lanes):
                if not self._accepting:
                    return
                self._work = Deferred()
                await self._work
                continue
            batch = self._lanes.take(self._batch)
            try:
                await self._process(batch)
            except ConnectionLost as lost:
                log.warn("The writer lost its connection: {reason}", reason=str(lost))
                await self._reopen(batch)
            except Exception as error:
                # Nothing is known of this batch but that it broke: never say that it was not done.
                self._replies.give((waiting, unavailable("unknown")) for waiting in batch)
                raise error

    async def _process(self, batch: list[Waiting]) -> None:
        commands = [waiting.command for waiting in batch]
        try:
            book = await self._store.read_facts(commands)
            outcomes = decide(book, commands)
            sealed = [outcome for outcome in outcomes if isinstance(outcome, Sealed)]
            if not sealed:
                await self._store.roll_back()
        except StatementFailed as error:
            await self._isolate(batch, error)
            return
        if sealed:
            try:
                await self._store.append(book, sealed)
            except StatementFailed as error:
                await self._isolate(batch, error)
                return
            except ConnectionLost as lost:
                verdict = await self._settle(sealed, lost)
                if verdict is not None:
                    # Refusals go with the rest: they may rest on what was decided, and then not kept.
                    self._replies.give((waiting, verdict) for waiting in batch)
                    return
            self._publish([Committed(s.record, book.accounts) for s in sealed])
        self._replies.give(zip(batch, outcomes, strict=True))

    def _publish(self, batch: Sequence[Committed]) -> None:
        try:
            self._committed(batch)
        except Exception:
            log.failure("A committed batch could not be handed on; it will be read from the journal")

    async def _isolate(self, batch: list[Waiting], error: StatementFailed) -> None:
        """Decide a batch again in halves until what breaks it stands alone, unless it is the database that cannot."""
        await self._store.roll_back()
        if error.is_passing:
            log.warn("The database cannot: {reason}", reason=str(error))
            self._replies.give((waiting, unavailable()) for waiting in batch)
        elif len(batch) == 1:
            log.error("The database refused a {kind}: {reason}", kind=batch[0].command.kind, reason=str(error))
            self._replies.give([(batch[0], Refused("database_error"))])
        else:
            middle = len(batch) // 2
            halves = deque([batch[:middle], batch[middle:]])
            while halves:
                try:
                    await self._process(halves[0])
                except ConnectionLost as lost:
                    await self._reopen(halves[0])
                    log.warn("The writer lost its connection: {reason}", reason=str(lost))
                halves.popleft()

    async def _reopen(self, batch: list[Waiting] | None = None) -> None:
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
                self._replies.give((waiting, unavailable()) for waiting in batch or ())
                batch = None
                self._refuse_queued()
                if not self._accepting:
                    return
                await deferLater(self._reactor, delay)
                delay = min(delay * 2, _LAST_RETRY)
            else:
                break
        self._away = False
        if batch is not None:
            for waiting in batch:
                waiting.tries += 1
            self._replies.give((waiting, unavailable()) for waiting in batch if waiting.tries > 1)
            again = [waiting for waiting in batch if waiting.tries == 1]
            if again:
                try:
                    await self._process(again)
                except ConnectionLost:
                    await self._reopen(again)

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
        await self._reopen()
        return unavailable("unknown")

    def _refuse_queued(self) -> None:
        self._replies.give((waiting, unavailable()) for waiting in self._lanes.drain())

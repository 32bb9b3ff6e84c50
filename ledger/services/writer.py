"""The writer: takes a batch from the lanes, reads its facts, decides, commits, and answers everyone."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from ledger.domain.book import Book
from ledger.domain.commands import Command, Replayed, Reply, Sealed
from ledger.domain.errors import ConfigurationError, Refused, unavailable
from ledger.domain.events import Committed
from ledger.domain.journal import Record
from ledger.services.ahead import Decider
from ledger.services.batch import Batch
from ledger.services.bundles import Bundle
from ledger.services.child import Child
from ledger.services.deciding import BatchStore
from ledger.services.intake import BATCH, Intake
from ledger.services.lanes import LaneFull, Lanes
from ledger.services.replies import Replies, Waiting
from ledger.services.writer_meter import WriterMeter
from ledger.store.guesses import Mistaken
from ledger.store.postgres import ConnectionLost, StatementFailed

log = Logger()

_SETTLE_WITHIN: Final = 30.0
_FIRST_RETRY, _LAST_RETRY = 0.1, 3.0


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
        self._intake = Intake(lanes, batch)
        self._accepting = False
        self._away = False
        self._work: Deferred[None] | None = None
        self._loop: Deferred[None] | None = None
        self._decider = Decider(store, self._intake, reactor)
        self._replies = Replies(reactor)
        self.meter = WriterMeter(self._intake.lanes, self._intake.bundles, self._replies, lambda: self._away)

    @property
    def depth(self) -> int:
        """How many commands wait."""
        return len(self._intake.lanes)

    def submit(self, command: Command) -> Deferred[Sealed | Replayed]:
        """Have a command decided and kept; fires after the commit, or fails with `Refused`."""
        waiting = Waiting(command)
        try:
            if not self._accepting or self._away:
                raise unavailable()
            self._intake.lanes.put(command.lane, waiting)
        except LaneFull:
            self.meter.turned_away += 1
            waiting.answer.errback(unavailable())
        except Exception:
            waiting.answer.errback()
        else:
            self._wake()
        return waiting.answer

    def submit_bundle(
        self, commands: Sequence[Command], *, is_whole: bool = False, is_answered: bool = False
    ) -> Deferred[list[Reply]]:
        """Have commands decided in their order; fires with their outcomes, those of a whole all or nothing.

        Of those that are to be answered, what is accepted becomes `Answered` as soon as it is decided.
        """
        bundle = Bundle(commands, is_whole, is_answered)
        try:
            if not self._accepting or self._away:
                raise unavailable()
            self._intake.bundles.put(bundle)
        except LaneFull:
            self.meter.turned_away += 1
            bundle.answer.errback(unavailable())
        except Refused:
            bundle.answer.errback()
        else:
            self._wake()
            self._decider.more_has_come()
        return bundle.answer

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
            batch = self._intake.take()
            if not batch.waiting:
                if not self._accepting:
                    return
                self._work = Deferred()
                await self._work
                continue
            began = self._reactor.seconds()
            try:
                await self._process(batch)
                self.meter.guessed = self._decider.guessed
                self.meter.batch(len(batch.commands), self._reactor.seconds() - began)
            except ConnectionLost as lost:
                self.meter.losses += 1
                log.warn("The writer lost its connection: {reason}", reason=str(lost))
                await self._reopen(batch)
            except Exception:
                # Nothing is known of this batch but that it broke: never say that it was not done.
                self._replies.give(waiting.alike(unavailable("unknown")) for waiting in batch.waiting)
                raise

    async def _process(self, batch: Batch) -> None:
        try:
            book, outcomes, records, rest, is_guess = await self._decider.decide(batch)
            if not records:
                await self._store.roll_back()
        except ConnectionLost:
            raise
        except Exception as error:
            await self._isolate(batch, error)
            return
        if records:
            refused = [
                one for one, outcome in zip(batch.commands, outcomes, strict=True) if isinstance(outcome, Exception)
            ]
            appending = ensureDeferred(self._store.append(book, rest, refused))
            self._decider.look_ahead(appending)
            try:
                await appending
            except Mistaken:
                self.meter.mistaken += 1
                self._intake.put_first(batch)
                return
            except StatementFailed as error:
                await self._isolate(batch, error)
                return
            except ConnectionLost as lost:
                verdict = await self._settle(records, lost)
                if verdict is not None and is_guess and not self._away:
                    self._once_more(batch)  # it was sent in one piece, perhaps into a connection that was dead before
                    return
                if verdict is not None:
                    # Refusals go with the rest: they may rest on what was decided, and then not kept.
                    self._replies.give(waiting.alike(verdict) for waiting in batch.waiting)
                    if self._away:
                        await self._reopen(Batch([]))
                    return
            # A turn later: the database can be at work on the next batch meanwhile.
            self._reactor.callLater(0, self._publish, records, book)
        self._replies.give(batch.told(outcomes))

    def _publish(self, records: Sequence[Record], book: Book) -> None:
        self.meter.records += len(records)
        try:
            self._committed([Committed(record, book.accounts) for record in records])
        except Exception:
            log.failure("A committed batch could not be handed on; it will be read from the journal")

    async def _isolate(self, batch: Batch, error: Exception) -> None:
        """Have a batch decided again in halves until what breaks it stands alone, unless the database cannot."""
        await self._store.roll_back()
        if isinstance(error, StatementFailed) and error.is_passing:
            log.warn("The database cannot: {reason}", reason=str(error))
            self._replies.give(waiting.alike(unavailable()) for waiting in batch.waiting)
            return
        halves = batch.halves()
        if halves is not None:
            self._intake.put_first(*halves)
            return
        if isinstance(error, StatementFailed):
            log.error("The database refused a {kind}: {reason}", kind=batch.commands[0].kind, reason=str(error))
            error = Refused("database_error")
        self._replies.give(waiting.alike(error) for waiting in batch.waiting)

    async def _reopen(self, batch: Batch) -> None:
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
                self._replies.give(waiting.alike(unavailable()) for waiting in batch.waiting)
                batch = Batch([])
                self._refuse_queued()
                if not self._accepting:
                    return
                await deferLater(self._reactor, delay)
                delay = min(delay * 2, _LAST_RETRY)
            else:
                break
        self._away = False
        self._once_more(batch)

    def _once_more(self, batch: Batch) -> None:
        """Have a batch of which nothing was kept decided again, but nobody more than once."""
        self._replies.give(waiting.alike(unavailable()) for waiting in batch.waiting if waiting.tries)
        again = [waiting for waiting in batch.waiting if not waiting.tries]
        for waiting in again:
            waiting.tries += 1
        if again:
            self._intake.put_first(Batch(again))

    async def _settle(self, records: Sequence[Record], lost: ConnectionLost) -> Exception | None:
        """Find out what became of a commit whose answer was lost: None if it was done, else what to tell."""
        self.meter.losses += 1
        log.warn("The connection died in a commit of {count}: {reason}", count=len(records), reason=str(lost))
        deadline = self._reactor.seconds() + _SETTLE_WITHIN
        delay = _FIRST_RETRY
        self._away = True
        self._refuse_queued()
        while self._reactor.seconds() < deadline:
            self._store.close()
            try:
                await self._store.open()
                kept = await self._store.kept([records[0].id])
            except (ConnectionLost, StatementFailed, ConfigurationError):
                await deferLater(self._reactor, delay)
                delay = min(delay * 2, _LAST_RETRY)
            else:
                self._away = False
                return None if kept else unavailable()
        return unavailable("unknown")

    def _refuse_queued(self) -> None:
        self._replies.give(waiting.alike(unavailable()) for waiting in self._intake.drain())

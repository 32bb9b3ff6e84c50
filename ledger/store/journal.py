"""The journal in PostgreSQL as its writer uses it: lock and read facts, append a batch, find out what became of one."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred, ensureDeferred

from ledger.domain.book import Book
from ledger.domain.commands import ACCOUNTS, Command, Sealed
from ledger.domain.errors import ConfigurationError
from ledger.store.facts import array, gather
from ledger.store.guesses import Guesses, Mistaken
from ledger.store.journal_rows import APPEND, APPEND_ENTRIES, UPDATE_ACCOUNTS, rows, states
from ledger.store.postgres import Session, StatementFailed
from ledger.store.prepared import Preparations
from ledger.store.questions import Question, keys_of, question_of
from ledger.store.recent_accounts import RecentAccounts
from ledger.store.writes import STATEMENTS, further_rows, statement

CHANNEL: Final = "ledger_journal"
_A_BATCH: Final = 4 * 2**20  # bytes, of a large one
_LOCK: Final = 0x4C45444745520001  # "LEDGER" and a number: the order of batches

_SETTINGS: Final[dict[str, str | int]] = {
    "synchronous_commit": "on",
    "idle_in_transaction_session_timeout": 5_000,
    "lock_timeout": 8_000,
    "statement_timeout": 25_000,
    # Every read of the writer is by index; a table that was never analysed must not talk the planner out of it.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",  # and it must not look for a better plan with every batch
}

_ANNOUNCE: Final = f"SELECT pg_notify('{CHANNEL}', %(head)s); COMMIT"
_BEGIN: Final = f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock({_LOCK}); "

_LOCK_NOT_AVAILABLE: Final = "55P03"
_EVICT: Final = f"""
SELECT pg_terminate_backend(held.pid) FROM pg_locks AS held JOIN pg_stat_activity AS backend USING (pid)
WHERE held.locktype = 'advisory' AND held.granted AND held.database = (SELECT oid FROM pg_database
      WHERE datname = current_database()) AND (held.classid::bigint << 32) + held.objid::bigint = {_LOCK}
      AND backend.xact_start < clock_timestamp() - interval '8 seconds'
"""

_REQUIRE_UNCHANGED: Final = """SELECT require_unchanged(%(left_by)s::bytea, %(instant)s::timestamptz,
    %(key_scopes)s::uuid[], string_to_array(%(keys)s, E'\\n')); """


class _Asked(NamedTuple):
    """A question in the words that are sent."""

    question: Question
    sql: bytes


class _Guess(NamedTuple):
    """A book that was made without asking, and what of its batch is to be sent once all of it is decided."""

    book: Book
    left_by: bytes
    parts: list[bytes]


class JournalWriter:
    """The writer's connection: one transaction at a time, under the lock that orders the batches of all processes."""

    def __init__(self, reactor: Any, url: str) -> None:
        self._reactor = reactor
        self._url = url
        self.session = Session(reactor)
        self._prepared = Preparations(self.session)
        self._part: Deferred[Any] | None = None
        self._recent = RecentAccounts()
        self._with_holds: set[str] = set()  # the accounts that were read so
        self._ahead: _Asked | None = None
        self._guesses = Guesses(reactor.seconds)
        self._book: Book | None = None  # that was read for the transaction which is open
        self._guess: _Guess | None = None
        self._last: Book | None = None  # as the batch that was sent last leaves it

    async def open(self) -> None:
        """Connect; raises `ConfigurationError` where a commit would not be durable."""
        self._forget()
        self.session = Session(self._reactor)
        await self.session.open(self._url, **_SETTINGS)
        self.session.take_at_once(_A_BATCH)
        ((fsync, full_page_writes, standby),) = await self.session.run(
            "SELECT current_setting('fsync'), current_setting('full_page_writes'), pg_is_in_recovery()"
        )
        if fsync != "on" or full_page_writes != "on":
            raise ConfigurationError("--database: the server runs with fsync or full_page_writes off")
        if standby:
            raise ConfigurationError("--database: the server is a standby; name the primary")
        self._prepared = Preparations(self.session)
        # All at once: later, a part of a batch may be under way on this connection.
        await self._prepared.have((APPEND, APPEND_ENTRIES, UPDATE_ACCOUNTS, *map(statement, STATEMENTS)))

    def look_ahead(self, commands: Sequence[Command]) -> Book | None:
        """Return the book that these commands will find, if the batch that was sent last is kept and leaves all of it.

        Where it cannot tell, it makes ready to read their facts, while the database is busy. To append to such a book
        may turn out `Mistaken`; to read facts, of whatever batch, gives it up.
        """
        with suppress(Exception):  # it will show again when the facts are read
            question = question_of(commands, self._recent)
            if question.is_answered and self._last is not None and (instant := self._guesses.instant()) is not None:
                book = Book(self._last.head, max(instant, self._last.instant), question.known)
                self._recent.lend(question.left_by)
                self._with_holds = set()
                self._guess = _Guess(book, question.left_by, [])
                return book
            self._ahead = self._asked(question)
        return None

    def join(self, book: Book, commands: Sequence[Command]) -> bool:
        """Have a book that was made so serve further commands, if memory holds all that they take as well."""
        wanted = gather(commands)
        accounts = wanted.get(ACCOUNTS, ())
        known = self._recent.lent(accounts)
        if self._guess is None or self._guess.book is not book or len(wanted) != 1 or len(known) < len(accounts):
            return False
        book.accounts.update(known)
        return True

    def _asked(self, question: Question) -> _Asked:
        return _Asked(question, self.session.render(_BEGIN + question.facts.execute, question.parameters()))

    async def read_facts(self, commands: Sequence[Command]) -> Book:
        """Begin a transaction, wait for the lock, and read all that the commands are decided on."""
        if self._guess is not None:  # it came to nothing
            self._guess = None
            self._guesses.mistaken()
            self._recent.forget()
        asked, self._ahead = self._ahead, None
        if asked is None or asked.question.commands is not commands:
            asked = self._asked(question_of(commands, self._recent))
        await self._prepared.have((asked.question.facts,))
        try:
            rows = await self.session.run(asked.sql)
        except StatementFailed as error:
            if error.sqlstate == _LOCK_NOT_AVAILABLE:
                await self._evict_stalled()
            raise
        self._book = book = asked.question.read(rows[0])
        self._with_holds = {account.id for account in book.accounts.values() if account.held}
        self._recent.lend(book.head.hash)
        self._guesses.read(book.instant)
        return book

    async def _evict_stalled(self) -> None:
        """End the backend of a process that has stopped while holding the lock, with its facts still unread."""
        await self.roll_back()
        await self.session.run(_EVICT)

    async def append_part(self, book: Book, batch: Sequence[Sealed]) -> None:
        """Send the first records of a batch on their way; what comes of it shows when more are sent."""
        rendered = self._rendered(book, batch, last=False)
        guess = self._guess_of(book)
        if guess is not None:
            guess.parts.append(rendered)
        else:
            await self._part_done()
            self._part = ensureDeferred(self.session.run(rendered))

    async def append(self, book: Book, batch: Sequence[Sealed], refused: Sequence[Command] = ()) -> None:
        """Keep the (other) records of a batch and the state it led to, announce it, and commit.

        Raises `Mistaken`, with nothing kept, where the book was a guess and a wrong one. It is wrong as well if
        something stands under the key of a command that was refused: that would be a replay.
        """
        rendered = self._rendered(book, batch, last=True)
        guess = self._guess_of(book)
        self._book = self._guess = None
        # Before it is committed, for whoever looks ahead; if it fails, all is forgotten.
        self._recent.follow(book.head.hash, book.accounts.values(), self._with_holds)
        self._last = book
        if guess is not None:
            await self._append_guessed(guess, rendered, refused)
        else:
            await self._part_done()
            await self.session.run(rendered)

    def _guess_of(self, book: Book) -> _Guess | None:
        """Return the guess that made a book, None if it was read; an older book is of no use any more."""
        if book is self._book:
            return None
        if self._guess is None or self._guess.book is not book:
            raise Mistaken("what it rests on is gone")
        return self._guess

    async def _append_guessed(self, guess: _Guess, rendered: bytes, refused: Sequence[Command]) -> None:
        parameters = {"left_by": f"\\x{guess.left_by.hex()}", "instant": guess.book.instant, **keys_of(refused)}
        opening = self.session.render(_BEGIN + _REQUIRE_UNCHANGED, parameters)
        try:
            await self.session.run(b"".join([opening, *guess.parts, rendered]))
        except StatementFailed as error:
            self._guesses.mistaken()
            await (self._evict_stalled() if error.sqlstate == _LOCK_NOT_AVAILABLE else self.roll_back())
            raise Mistaken(str(error)) from error
        self._guesses.kept()

    async def roll_back(self) -> None:
        """End the transaction without a trace."""
        self._forget()
        with suppress(StatementFailed):
            await self._part_done()
        await self.session.run("ROLLBACK")

    def _forget(self) -> None:
        self._recent.forget()
        self._ahead = self._guess = self._book = self._last = None

    def _rendered(self, book: Book, batch: Sequence[Sealed], *, last: bool) -> bytes:
        """Return the statements that keep some records, and for the last ones of a batch all that ends it."""
        try:
            statements, parameters = rows(book, batch) if batch else ([], {})
            further = further_rows(batch)
            statements += map(statement, further)
            parameters |= further
            if last and book.touched:
                statements.append(UPDATE_ACCOUNTS)
                parameters |= states(book)
            sql = "".join(f"{prepared.execute}; " for prepared in statements)
            if last:
                sql += _ANNOUNCE
                parameters["head"] = str(book.head.seq)
            return self.session.render(sql, parameters)
        except (KeyError, TypeError) as error:  # a kind that writes what cannot be written: nothing was sent yet
            raise StatementFailed("XX000", f"a record cannot be rendered: {error!r}") from error

    async def _part_done(self) -> None:
        part, self._part = self._part, None
        if part is not None:
            await part

    async def kept(self, ids: Iterable[str]) -> set[str]:
        """Return those of the records that are in the journal, once every batch under way has ended.

        A backend that died in its COMMIT holds the lock until that is done or undone, so the answer is final.
        """
        await self.session.run(_BEGIN)
        rows = await self.session.run("SELECT id::text FROM journal WHERE id = ANY (%s::uuid[])", (array(ids),))
        await self.roll_back()
        return {row[0] for row in rows}

    def close(self) -> None:
        """Close the connection."""
        if self._part is not None:
            self._part.addErrback(lambda _: None)  # nobody asks any more
            self._part = None
        self.session.close()

"""A pool, a writer and a few accounts on a database of their own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from ledger.domain.accounts import Account, Owner
from ledger.domain.commands import Command, Outcome
from ledger.domain.errors import Refused
from ledger.domain.events import Committed
from ledger.services.writer import Writer
from ledger.store.accounts import open_account, read_state
from ledger.store.journal import JournalWriter
from ledger.store.pool import Pool
from ledger.store.postgres import Session
from ledger.store.verify import Verdict, verify
from tests.postgres.cluster import DatabaseServer
from tests.strategies import Cast, Step

reactor: Any = _reactor


def on_reactor(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test that awaits."""
    run: Callable[..., None] = pytest_twisted.ensureDeferred(test)
    return run


async def pause(seconds: float = 0.01) -> None:
    """Let the reactor turn."""
    await deferLater(reactor, seconds)


async def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Wait until something is true, and return it."""
    deadline = reactor.seconds() + seconds
    while not (found := condition()):
        assert reactor.seconds() < deadline, "it did not become true in time"
        await pause()
    return found


async def outcome_of(deferred: Deferred[Any]) -> Outcome:
    """What a command came to, refusals included."""
    result: list[Any] = []
    await deferred.addBoth(result.append)
    value: Any = result[0].value if isinstance(result[0], Failure) else result[0]
    outcome: Outcome = value
    return outcome


async def refusal_of(work: Awaitable[Any]) -> Refused:
    """The refusal that some work ends with."""
    try:
        await work
    except Refused as refused:
        return refused
    raise AssertionError("it was not refused")


class House:
    """To be used as `async with`: opened with its accounts, closed with everything."""

    def __init__(self, url: str, server: DatabaseServer, pool_size: int = 3, **settings: Any) -> None:
        self.url = url
        self.server = server
        self.database = urlsplit(url).path[1:]
        self.pool = Pool(reactor, url, pool_size)
        self.published: list[Committed] = []
        self.store = JournalWriter(reactor, url)
        self.settings = settings
        self.writer = self.new_writer(self.store)
        self.cast = Cast.new()

    def new_writer(self, store: JournalWriter) -> Writer:
        """One more writer on this database."""
        return Writer(store, reactor, self.published.extend, **self.settings)

    async def __aenter__(self) -> House:
        self.pool.open()
        await self.admit(self.cast)
        await self.writer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.writer.stop()
        self.pool.close()

    async def admit(self, cast: Cast) -> None:
        """Open the accounts of a cast."""

        async def work(session: Session) -> None:
            for account in cast.accounts:
                await open_account(session, Owner(account.id, None, account.asset, False), account.type)

        await self.pool.transact(work)

    def sql(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser."""
        return self.server.execute(statement, *arguments, database=self.database)

    def credit(self, who: int = 0, amount: int = 100, key: str | None = None, kind: str = "credit") -> Command:
        """Make a command."""
        return self.cast.command(Step(kind, who, 0, None, amount, key, 0, None))

    async def submit(self, *commands: Command) -> list[Outcome]:
        """Submit commands together and wait for all of them."""
        return await self.gather(self.send(*commands))

    def send(self, *commands: Command) -> list[Deferred[Any]]:
        """Submit commands."""
        return [self.writer.submit(command) for command in commands]

    async def gather(self, answers: Iterable[Deferred[Any]]) -> list[Outcome]:
        """Wait for answers."""
        told = [Deferred.fromCoroutine(outcome_of(answer)) for answer in answers]
        return list(await gatherResults(told))

    async def state(self, who: int = 0) -> Account:
        """An account as it is committed."""
        found = await read_state(self.pool, self.cast.accounts[who].id)
        assert found is not None
        return found[0]

    async def verdict(self) -> Verdict:
        """What the audit says."""
        return await verify(self.pool)

    async def check_clean(self) -> None:
        """Check that the audit finds nothing, up to the head."""
        verdict = await self.verdict()
        assert verdict.ok, verdict
        assert verdict.checked == verdict.head

    def kept(self) -> dict[str, int]:
        """The journal: ids of records and their numbers, each once."""
        rows = self.sql("SELECT id::text, seq FROM journal ORDER BY seq")
        assert [seq for _, seq in rows] == list(range(1, len(rows) + 1))
        return dict(rows)

    def backend_of_writer(self) -> int:
        """The process that serves the writer's connection."""
        return int(self.store.session._connection.info.backend_pid)

    def kill(self, backend: int) -> None:
        """Terminate a backend."""
        self.sql("SELECT pg_terminate_backend(%s)", backend)

    async def check_told_the_truth(self, commands: Sequence[Command], outcomes: Sequence[Outcome]) -> None:
        """Check that what was acknowledged is there once, what was not done is not, and the journal is whole."""
        kept = self.kept()
        for command, outcome in zip(commands, outcomes, strict=True):
            if not isinstance(outcome, Exception):
                assert kept[outcome.record.id] == outcome.record.seq
            elif not (isinstance(outcome, Refused) and outcome.details.get("outcome") == "unknown"):
                assert command.id not in kept
        await self.check_clean()

"""A batch of bundles that was decided ahead takes in more of them until the one before it is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from twisted.internet.defer import Deferred

from ledger.domain.commands import Command, Sealed
from ledger.store.journal import JournalWriter
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, reactor, until
from tests.postgres.test_latecomers import bundled, seqs


class Stalled:
    """A house whose writer waits for the lock with one batch, with the one after it decided ahead."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.sent: list[Deferred[Any]] = []
        self.commands = 0
        self._other = JournalWriter(reactor, house.url)

    async def begin(self) -> None:
        """Keep the writer busy with nothing but bundles, and take the lock."""
        house = self.house
        await self._prepare()
        while True:
            for _ in range(10):
                self.send([house.credit(0, 1) for _ in range(256)])
            self.book = await self._other.read_facts([house.credit(1)])
            await until(lambda: self._waits() or all(bundle.called for bundle in self.sent))
            if house.writer._decider._next is not None:
                return
            await self._other.roll_back()  # it was too late: nothing was left to be decided ahead

    async def begin_with_one(self) -> None:
        """Take the lock, and have the writer wait for it with a batch, and nothing else in sight."""
        await self._prepare()
        self.book = await self._other.read_facts([self.house.credit(1)])
        self.send([self.house.credit(0, 1) for _ in range(3)])
        await until(self._waits)

    async def _prepare(self) -> None:
        house = self.house
        await house.submit(house.credit(0), house.credit(1))
        for _ in range(9):
            await bundled(house, [house.credit(1, 1)])
        await self._other.open()

    def _waits(self) -> bool:
        return bool(self.house.sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))

    def send(self, commands: Sequence[Command]) -> None:
        """Submit a bundle."""
        self.commands += len(commands)
        self.sent.append(Deferred.fromCoroutine(bundled(self.house, commands)))

    @property
    def ahead(self) -> list[Command]:
        """What was decided ahead."""
        following = self.house.writer._decider._next
        return [] if following is None else following.batch.commands

    async def end(self, *, writing: bool = False) -> list[int]:
        """Give the lock back, perhaps after having written; return the numbers of all records, in the order sent."""
        if writing:
            sealed = self.book.decide(self.house.credit(1))
            assert isinstance(sealed, Sealed)
            await self._other.append(self.book, [sealed])
        else:
            await self._other.roll_back()
        told = [number for bundle in self.sent for number in seqs(await bundle)]
        assert len(told) == self.commands
        self._other.close()
        await self.house.check_clean()
        return told

    def largest(self) -> int:
        """The records of the largest batch."""
        ((many,),) = self.house.sql(
            "SELECT max(count) FROM (SELECT count(*) FROM journal GROUP BY posted_at) AS batches"
        )
        return int(many)


@asynccontextmanager
async def stalled(url: str, server: DatabaseServer) -> AsyncIterator[Stalled]:
    """Open such a house."""
    async with House(url, server) as house:
        one = Stalled(house)
        await one.begin()
        yield one


@on_reactor
async def test_it_grows_and_is_kept_in_the_order_of_arrival(database_url: str, database_server: DatabaseServer) -> None:
    async with stalled(database_url, database_server) as one:
        for _ in range(12):
            one.send([one.house.credit(0, 1) for _ in range(256)])
        await until(lambda: len(one.ahead) > 1_744)
        assert len(one.ahead) <= 2_000
        told = await one.end()
        assert told == sorted(told)
        assert 1_744 < one.largest() <= 2_000
        assert one.house.writer.meter.mistaken == 0
        assert (await one.house.state(0)).balance == 100 + len(told)


@on_reactor
async def test_where_it_rested_on_a_mistake_all_of_it_is_decided_again(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with stalled(database_url, database_server) as one:
        for _ in range(8):
            one.send([one.house.credit(0, 1) for _ in range(256)])
        await until(lambda: len(one.ahead) > 1_000)
        told = await one.end(writing=True)
        assert len(told) == len(set(told))
        assert told == sorted(told)
        assert one.house.writer.meter.mistaken > 0
        assert (await one.house.state(0)).balance == 100 + len(told)


@on_reactor
async def test_what_has_to_be_read_waits_and_all_that_came_after_it(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with stalled(database_url, database_server) as one:
        house = one.house
        one.send([house.credit(0, 1) for _ in range(100)])
        one.send([house.credit(2, 1) for _ in range(100)])  # an account that no batch has seen
        one.send([house.credit(0, 1) for _ in range(100)])
        await until(lambda: len(house.writer._intake._first) == 2 or len(one.ahead) > 1_744)
        told = await one.end()
        assert told == sorted(told)
        assert (await house.state(2)).balance == 100


@on_reactor
async def test_what_comes_when_all_was_sent_is_decided_ahead_too(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        one = Stalled(house)
        await one.begin_with_one()
        assert one.ahead == []
        for _ in range(3):
            one.send([house.credit(0, 1) for _ in range(200)])
        await until(lambda: len(one.ahead) == 600)
        guessed = house.writer.meter.guessed
        told = await one.end()
        assert told == sorted(told)
        assert house.writer.meter.guessed > guessed
        assert one.largest() == 600

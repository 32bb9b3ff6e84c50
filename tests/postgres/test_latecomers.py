"""Single commands that come while a batch of bundles is decided ahead join it, if memory holds all that they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred

from ledger.domain.accounts import world_id
from ledger.domain.book import Book, decide
from ledger.domain.commands import Command, Leg, Reply, Sealed
from ledger.domain.transfers import Transfer
from ledger.store.journal import JournalWriter
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, pause, reactor, until
from tests.postgres.test_guesses import guessed, sealed


async def bundled(house: House, commands: Sequence[Command]) -> list[Reply]:
    """Submit a bundle and wait for its outcomes."""
    return await house.writer.submit_bundle(commands)


def seqs(outcomes: Sequence[Reply]) -> list[int]:
    """The numbers of records, all of which must have been kept."""
    return [outcome.record.seq for outcome in outcomes if isinstance(outcome, Sealed)]


@on_reactor
async def test_a_latecomer_goes_by_what_the_guess_has_led_to(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        following = [house.credit(0, 60)]
        book, appending = await guessed(house, following, house.credit(0, 100), house.credit(1, 5))
        records = sealed(book, following)
        late = [house.credit(0, 160, kind="debit"), house.credit(1, 5, kind="debit"), house.credit(0, 1, kind="debit")]
        assert house.store.join(book, late)
        outcomes = decide(book, late)
        assert [type(one).__name__ for one in outcomes] == ["Sealed", "Sealed", "Refused"]
        await appending
        await house.store.append(book, records + [one for one in outcomes if isinstance(one, Sealed)], late[2:])
        assert [(await house.state(who)).balance for who in (0, 1)] == [0, 0]
        await house.check_clean()


@on_reactor
async def test_who_has_to_be_read_cannot_join(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        book, appending = await guessed(house, [house.credit(0)], house.credit(0))
        account = house.cast.accounts[0]
        backdated = Transfer(
            id=house.credit().id,
            legs=(Leg(world_id(account.asset), account.id, 1),),
            assets=(account.asset,),
            effective_at="2026-01-01T00:00:00.000000Z",
        )
        assert house.store.join(book, [house.credit(0)])
        assert not house.store.join(book, [house.credit(0), house.credit(1)])
        assert not house.store.join(book, [backdated])
        await appending
        await house.store.append(book, sealed(book, [house.credit(0)]))
        assert not house.store.join(book, [house.credit(0)])
        read: Book = await house.store.read_facts([house.credit(0)])
        assert not house.store.join(read, [house.credit(0)])
        await house.store.roll_back()


@on_reactor
async def test_latecomers_do_not_wait_behind_a_bundle(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        await house.submit(house.credit(0), house.credit(1))
        bundles = [Deferred.fromCoroutine(bundled(house, [house.credit(0, 1) for _ in range(256)])) for _ in range(12)]
        singles: list[Deferred[Any]] = []
        rounds = 0
        while not bundles[-1].called:
            singles += house.send(house.credit(1, 1), house.credit(0, 1))
            rounds += 1
            if rounds == 10:
                singles += house.send(house.credit(2, 1))  # whose account no batch has seen, so that it joins none
            await pause(0.002)
        told = seqs(await house.gather(singles))
        posted = [number for bundle in bundles for number in seqs(await bundle)]
        assert len(told) == len(singles)
        assert len(posted) == 12 * 256
        assert posted == sorted(posted)
        assert house.writer.meter.guessed > 10
        between = [number for number in told if posted[0] < number < posted[-1]]
        assert len(between) > 20  # they went in among the bundles
        assert (await house.state(1)).balance == 100 + rounds
        await house.check_clean()


@on_reactor
async def test_where_the_guess_was_wrong_latecomers_are_decided_again_as_well(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        other = house.new_writer(JournalWriter(reactor, house.url))
        await other.start()
        await house.submit(house.credit(0), house.credit(1))
        bundle = ensureDeferred(bundled(house, [house.credit(0, 1) for _ in range(2_000)]))
        singles: list[Deferred[Any]] = []
        theirs: list[Deferred[Any]] = []
        while not bundle.called:
            singles += house.send(house.credit(1, 1))
            if len(singles) % 20 == 10:
                theirs.append(other.submit(house.credit(1, 1)))
            await pause(0.002)
        told = seqs([*await house.gather([*singles, *theirs]), *await bundle])
        assert len(told) == len(set(told)) == len(singles) + len(theirs) + 2_000
        await until(lambda: len(house.published) == len(told) + 2)
        assert house.writer.meter.mistaken > 0
        assert (await house.state(0)).balance == 100 + 2_000
        assert (await house.state(1)).balance == 100 + len(singles) + len(theirs)
        await house.check_clean()
        await other.stop()

"""A batch that was decided before the database was asked is kept where nothing came between, and else decided again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
import pytest
from twisted.internet.defer import Deferred, ensureDeferred

from ledger.domain.accounts import world_id
from ledger.domain.book import Book, decide
from ledger.domain.commands import Command, Leg, Replayed, Sealed
from ledger.domain.errors import Refused
from ledger.domain.periods import instant_of
from ledger.domain.transfers import Transfer
from ledger.store.guesses import Guesses, Mistaken
from ledger.store.journal import JournalWriter
from ledger.store.postgres import StatementFailed
from tests.domain.kinds import Hold
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, pause, reactor


async def kept(store: JournalWriter, *commands: Command) -> None:
    """Have commands decided on what is read, and kept."""
    book = await store.read_facts(commands)
    await store.append(book, sealed(book, commands))


def sealed(book: Book, commands: Sequence[Command]) -> list[Sealed]:
    """Decide commands, and return what is to be kept."""
    return [outcome for outcome in decide(book, commands) if isinstance(outcome, Sealed)]


async def guessed(house: House, following: Sequence[Command], *first: Command) -> tuple[Book, Deferred[None]]:
    """Have the first commands kept, and return the book that others will find, made while that is under way."""
    book = await house.store.read_facts(first)
    appending = ensureDeferred(house.store.append(book, sealed(book, first)))
    guess = house.store.look_ahead(following)
    assert guess is not None
    return guess, appending


@on_reactor
async def test_a_guess_that_is_right_is_kept(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        following = [house.credit(0, 60, kind="debit"), house.credit(0, 60, kind="debit"), house.credit(0, 5)]
        book, appending = await guessed(house, following, house.credit(0, 100))
        outcomes = decide(book, following)
        assert [type(one) for one in outcomes] == [Sealed, Refused, Sealed]
        await appending
        records = [one for one in outcomes if isinstance(one, Sealed)]
        await house.store.append_part(book, records[:1])
        await house.store.append(book, records[1:], following[1:2])
        assert (await house.state()).balance == 45
        assert list(house.kept().values()) == [1, 2, 3]
        await house.check_clean()


@on_reactor
async def test_a_guess_is_wrong_once_another_process_has_written(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        other = JournalWriter(reactor, house.url)
        await other.open()
        following = [house.credit(0, 100, kind="debit")]
        book, appending = await guessed(house, following, house.credit(0, 100))
        records = sealed(book, following)
        await appending
        await kept(other, house.credit(1))  # of another account, even
        with pytest.raises(Mistaken):
            await house.store.append(book, records)
        assert following[0].id not in house.kept()
        assert house.store.session.is_idle
        await kept(house.store, *following)
        assert (await house.state()).balance == 0
        await house.check_clean()
        other.close()


@pytest.mark.parametrize("amount", [1, 10**9])
@on_reactor
async def test_a_guess_is_wrong_where_a_key_is_taken_be_it_by_what_was_refused(
    database_url: str, database_server: DatabaseServer, amount: int
) -> None:
    async with House(database_url, database_server) as house:
        await kept(house.store, house.credit(0, 100), house.credit(0, amount, key="k", kind="credit"))
        following = [house.credit(0, 1), house.credit(0, 10**10 if amount > 1 else 1, key="k", kind="debit")]
        book, appending = await guessed(house, following, house.credit(0, 1))
        outcomes = decide(book, following)
        refused = [one for one, outcome in zip(following, outcomes, strict=True) if isinstance(outcome, Refused)]
        assert len(refused) == (amount > 1)
        await appending
        with pytest.raises(Mistaken):
            await house.store.append(book, [one for one in outcomes if isinstance(one, Sealed)], refused)
        assert len(house.kept()) == 3
        await house.check_clean()


@on_reactor
async def test_nothing_is_guessed_where_memory_does_not_hold_all(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        assert house.store.look_ahead([house.credit()]) is None
        account = house.cast.accounts[2]
        hold = Hold(id=house.cast.unknown, account_id=account.id, amount=1)
        legs, assets = (Leg(world_id(account.asset), account.id, 1),), (account.asset,)
        backdated = Transfer(id=house.credit().id, legs=legs, assets=assets, effective_at="2026-01-01T00:00:00.000000Z")
        first = [house.credit(0), house.credit(2), hold]
        book = await house.store.read_facts(first)
        appending = ensureDeferred(house.store.append(book, sealed(book, first)))
        assert house.store.look_ahead([house.credit(1)]) is None  # an account that it has not seen
        assert house.store.look_ahead([house.credit(2)]) is None  # one with a hold, which may end any time
        assert house.store.look_ahead([house.credit(0), backdated]) is None  # more facts than accounts
        assert house.store.look_ahead([house.credit(0)]) is not None
        await appending
        await house.store.read_facts([house.credit()])
        assert house.store.look_ahead([house.credit(0)]) is None  # nothing was sent that it could follow
        await house.store.roll_back()


@on_reactor
async def test_a_book_is_of_no_use_once_the_batch_before_it_failed(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        first = house.credit(0, 100)
        await kept(house.store, first)
        following = [house.credit(0, 100, kind="debit")]
        book, appending = await guessed(house, following, msgspec.structs.replace(first, key=None, scope=None))
        with pytest.raises(StatementFailed):
            await appending
        await house.store.roll_back()
        records = sealed(book, following)
        for appended in (house.store.append_part, house.store.append):
            with pytest.raises(Mistaken):
                await appended(book, records)
        assert len(house.kept()) == 1
        await kept(house.store, house.credit(0, 1))
        await house.check_clean()


@pytest.mark.parametrize("drift", [-60, 1])
@on_reactor
async def test_an_instant_of_another_time_is_a_mistake(
    database_url: str, database_server: DatabaseServer, drift: int
) -> None:
    async with House(database_url, database_server) as house:
        following = [house.credit()]
        book, appending = await guessed(house, following, house.credit())
        book.instant = instant_of(datetime.fromisoformat(book.instant) + timedelta(seconds=drift))
        await appending
        with pytest.raises(Mistaken):
            await house.store.append(book, sealed(book, following))
        await kept(house.store, *following)
        await house.check_clean()


@on_reactor
async def test_under_load_most_is_guessed_and_everyone_is_told_the_truth(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server, batch=20) as house:
        other = house.new_writer(JournalWriter(reactor, house.url))
        await other.start()
        commands = [house.credit(number % 3, 3, key=f"{number}") for number in range(1_200)]
        commands += [house.credit(number % 3, 2, key=f"d{number}", kind="debit") for number in range(600)]
        commands += [house.credit(number % 3, 3, key=f"{number}") for number in range(0, 1_200, 40)]
        answers = house.send(*commands)
        theirs = [house.credit(number % 3, 1) for number in range(5)]
        for command in theirs:
            answers.append(other.submit(command))
            await pause(0.05)
        outcomes = await house.gather(answers)
        assert all(isinstance(one, Sealed | Replayed) for one in outcomes)
        assert len(house.kept()) == 1_805
        assert sum([(await house.state(who)).balance for who in (0, 1, 2)]) == 3 * 1_200 - 2 * 600 + 5
        assert house.writer.meter.guessed > 20
        assert {one.record.id for one in house.published} == set(house.kept())
        await house.check_told_the_truth([*commands, *theirs], outcomes)
        await other.stop()


def test_the_clock_is_trusted_for_a_while_and_guessing_rests_after_mistakes() -> None:
    now = [1_000.0]
    clock = Guesses(lambda: now[0])
    assert clock.instant() is None
    clock.read("2026-05-01T12:00:00.000000Z")
    now[0] += 0.25
    assert clock.instant() == "2026-05-01T12:00:00.249950Z"  # rather too early than of the future
    clock.read("2026-05-01T12:00:00.240000Z")  # an answer that took longer
    assert clock.instant() == "2026-05-01T12:00:00.249950Z"
    now[0] += 5
    assert clock.instant() == "2026-05-01T12:00:05.248950Z"
    now[0] += 0.01
    assert clock.instant() is None
    now[0] -= 6  # set back
    assert clock.instant() is None
    rests = []
    for _ in range(9):
        clock.mistaken()
        rests.append(0)
        while clock.instant() is None:
            clock.read("2026-05-01T12:00:00.000000Z")
            rests[-1] += 1
    assert rests == [16, 32, 64, 128, 256, 512, 1024, 1024, 1024]
    clock.kept()
    clock.mistaken()
    assert clock.instant() is None
    for _ in range(16):
        clock.read("2026-05-01T12:00:00.000000Z")
    assert clock.instant() == "2026-05-01T12:00:00.000000Z"

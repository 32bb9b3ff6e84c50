"""Accounts that the writer remembers are never other than the tables say, whoever has written meanwhile."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from ledger.domain.accounts import Owner
from ledger.domain.book import decide
from ledger.domain.commands import Command, Outcome, Sealed
from ledger.domain.errors import Refused
from ledger.store.accounts import open_account
from ledger.store.journal import JournalWriter
from ledger.store.postgres import Session, StatementFailed
from tests.domain.kinds import Capture, Hold
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, reactor, until


def told(outcomes: Iterable[Outcome]) -> list[str]:
    """What became of commands, in a word each."""
    return [outcome.reason if isinstance(outcome, Refused) else type(outcome).__name__ for outcome in outcomes]


async def at_once(store: JournalWriter, *commands: Command) -> list[str]:
    """Have commands decided as one batch of a store."""
    book = await store.read_facts(commands)
    outcomes = decide(book, commands)
    sealed = [outcome for outcome in outcomes if isinstance(outcome, Sealed)]
    await (store.append(book, sealed) if sealed else store.roll_back())
    return told(outcomes)


def limit_behind_its_back(house: House, limit: int) -> None:
    """Change what only the writer may, so that it shows whether an account was read."""
    house.sql("UPDATE accounts SET credit_limit = %s WHERE id = %s", limit, house.cast.accounts[0].id)


async def limit_seen(house: House) -> int:
    """The limit that the writer goes by."""
    command = house.credit()
    book = await house.store.read_facts([command])
    await house.store.append(book, [one for one in decide(book, [command]) if isinstance(one, Sealed)])
    return book.accounts[house.cast.accounts[0].id].credit_limit


@on_reactor
async def test_what_the_last_batch_left_is_not_read_again(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        assert await at_once(house.store, house.credit()) == ["Sealed"]
        limit_behind_its_back(house, 7)
        assert await limit_seen(house) == 0
        assert await limit_seen(house) == 0
        limit_behind_its_back(house, 7)
        await at_once(house.store, house.credit(0, 10**9, kind="debit"))  # refused: the transaction is rolled back
        assert await limit_seen(house) == 7


@on_reactor
async def test_a_batch_of_another_process_makes_it_read_all(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        other = JournalWriter(reactor, house.url)
        await other.open()
        assert await at_once(house.store, house.credit()) == ["Sealed"]
        limit_behind_its_back(house, 7)
        assert await at_once(other, house.credit(1)) == ["Sealed"]  # of another account, even
        assert await limit_seen(house) == 7
        other.close()


@on_reactor
async def test_processes_in_turn_see_what_the_other_did(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        other = JournalWriter(reactor, house.url)
        await other.open()
        for _ in range(5):
            assert await at_once(house.store, house.credit(0, 100), house.credit(1, 1)) == ["Sealed"] * 2
            assert await at_once(other, house.credit(0, 100, kind="debit"), house.credit(2, 1)) == ["Sealed"] * 2
            assert await at_once(house.store, house.credit(0, 1, kind="debit")) == ["insufficient_funds"]
            assert await at_once(house.store, house.credit(1, 1)) == ["Sealed"]
            assert await at_once(other, house.credit(0, 1, kind="debit")) == ["insufficient_funds"]
        other.close()
        assert [(await house.state(who)).balance for who in (0, 1, 2)] == [0, 10, 5]
        await house.check_clean()


@on_reactor
async def test_what_was_asked_ahead_counts_for_nothing_once_another_has_written(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        other = JournalWriter(reactor, house.url)
        await other.open()
        following = [house.credit(0, 100, kind="debit"), house.credit(1, 1)]
        await at_once(house.store, house.credit(0, 100))
        house.store.look_ahead(following)
        assert await at_once(other, house.credit(0, 1, kind="debit")) == ["Sealed"]
        book = await house.store.read_facts(following)
        assert told(decide(book, following)) == ["insufficient_funds", "Sealed"]
        await house.store.roll_back()
        other.close()


@on_reactor
async def test_what_was_asked_ahead_ends_with_the_connection(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        await at_once(house.store, house.credit(0, 100))
        following = [house.credit(0, 100, kind="debit")]
        house.store.look_ahead(following)
        house.store.close()
        await house.store.open()
        assert await limit_seen(house) == 0
        assert (await house.store.read_facts(following)).accounts[house.cast.accounts[0].id].balance == 200
        await house.store.roll_back()


@on_reactor
async def test_a_batch_that_fails_leaves_nothing_in_memory(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        kept = house.credit(0, 100)
        await at_once(house.store, kept)
        book = await house.store.read_facts([house.credit()])
        twin = msgspec.structs.replace(house.credit(0, 50), id=kept.id)
        sealed = [one for one in decide(book, [twin]) if isinstance(one, Sealed)]
        with pytest.raises(StatementFailed):
            await house.store.append(book, sealed)
        await house.store.roll_back()
        debits = [house.credit(0, 101, kind="debit"), house.credit(0, 100, kind="debit")]
        assert await at_once(house.store, *debits) == ["insufficient_funds", "Sealed"]
        await house.check_clean()


@on_reactor
async def test_what_was_decided_and_not_kept_is_forgotten(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        await at_once(house.store, house.credit(0, 100))
        command = house.credit(0, 50)
        decide(await house.store.read_facts([command]), [command])
        await house.store.roll_back()
        debits = [house.credit(0, 101, kind="debit"), house.credit(0, 100, kind="debit")]
        assert await at_once(house.store, *debits) == ["insufficient_funds", "Sealed"]
        await house.check_clean()


@on_reactor
async def test_a_new_connection_begins_with_nothing(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        await house.submit(house.credit(0, 100))
        before = house.backend_of_writer()
        limit_behind_its_back(house, 7)
        house.kill(before)
        await until(lambda: not house.store.session.is_open)
        assert told(await house.submit(house.credit(1), house.credit(0, 107, kind="debit"))) == ["Sealed"] * 2
        assert house.backend_of_writer() != before
        assert (await house.state()).balance == -7


@on_reactor
async def test_an_account_opened_meanwhile_is_there(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        owner = Owner(house.cast.unknown, None, house.cast.accounts[0].asset, is_system=False)
        command = msgspec.structs.replace(house.credit(), account_id=owner.account_id)
        again = msgspec.structs.replace(command, id=house.credit().id)
        assert await at_once(house.store, house.credit(), command) == ["Sealed", "account_not_found"]

        async def work(session: Session) -> None:
            await open_account(session, owner, "CHECKING")

        await house.pool.transact(work)
        assert await at_once(house.store, house.credit(), again) == ["Sealed"] * 2
        await house.check_clean()


@on_reactor
async def test_accounts_with_holds_are_read_every_time(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        one, two = (account.id for account in house.cast.accounts[:2])
        names = [house.credit().id for _ in range(3)]
        await at_once(house.store, house.credit(0, 100), Hold(id=names[0], account_id=one, amount=40))
        limit_behind_its_back(house, 7)
        assert await limit_seen(house) == 7
        assert await at_once(house.store, Capture(id=names[1], account_id=one, target=two)) == ["Sealed"]
        limit_behind_its_back(house, 8)  # it had a hold when it was read last
        assert await limit_seen(house) == 8
        limit_behind_its_back(house, 9)
        assert await limit_seen(house) == 8

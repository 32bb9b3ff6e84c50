"""The writer when its connection dies: everyone is answered, what was acknowledged is there once, and nothing twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import msgspec
import psycopg2
import pytest

from ledger.domain.book import Book
from ledger.domain.commands import Command, Replayed, Sealed
from ledger.domain.errors import Refused
from ledger.store import journal
from ledger.store.journal import JournalWriter
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, pause, reactor, until

_IN_COMMIT = 42  # the advisory lock that the slow COMMIT below waits for


@contextmanager
def session(url: str) -> Iterator[Any]:
    """A session of somebody else, in a transaction of its own."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        yield cursor


def kinds(outcomes: Sequence[Any]) -> set[str]:
    """What sorts of outcome there were."""
    return {
        str(outcome.details.get("outcome", outcome.reason)) if isinstance(outcome, Refused) else type(outcome).__name__
        for outcome in outcomes
    }


@on_reactor
async def test_killed_while_idle(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        for _ in range(3):
            house.kill(house.backend_of_writer())
            commands = [house.credit() for _ in range(5)]
            assert kinds(await house.submit(*commands)) == {"Sealed"}
        assert len(house.kept()) == 15
        await house.check_clean()


@on_reactor
async def test_killed_while_it_holds_the_transaction(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with House(database_url, database_server) as house:
        append = house.store.append

        async def killed(book: Book, batch: Sequence[Sealed], refused: Sequence[Command] = ()) -> None:
            monkeypatch.setattr(house.store, "append", append)
            house.kill(house.backend_of_writer())
            await append(book, batch, refused)

        monkeypatch.setattr(house.store, "append", killed)
        commands = [house.credit() for _ in range(5)]
        outcomes = await house.submit(*commands)
        assert kinds(outcomes) == {"not_done"}
        await house.check_told_the_truth(commands, outcomes)
        assert kinds(await house.submit(*commands)) == {"Sealed"}


def make_commits_wait(house: House) -> None:
    """Have every COMMIT of a record wait for a lock."""
    house.sql(
        f"""CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_advisory_xact_lock_shared({_IN_COMMIT}); RETURN NULL; END';
            CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON journal DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION linger()"""
    )


def waits_in_commit(house: House) -> bool:
    """Whether the writer's backend stands in its COMMIT."""
    return bool(
        house.sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted", _IN_COMMIT)
    )


@on_reactor
async def test_killed_in_the_commit(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        make_commits_wait(house)
        with session(database_url) as other:
            other.execute("SELECT pg_advisory_xact_lock(%s)", (_IN_COMMIT,))
            commands = [house.credit(key="k"), *(house.credit() for _ in range(5))]
            answers = house.send(*commands)
            await until(lambda: waits_in_commit(house))
            house.kill(house.backend_of_writer())
            outcomes = await house.gather(answers)
        assert kinds(outcomes) == {"not_done"}
        await house.check_told_the_truth(commands, outcomes)


@on_reactor
async def test_the_connection_is_cut_in_the_commit_and_the_commit_goes_through(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        make_commits_wait(house)
        with session(database_url) as other:
            other.execute("SELECT pg_advisory_xact_lock(%s)", (_IN_COMMIT,))
            commands = [house.credit(key="k"), *(house.credit() for _ in range(5))]
            answers = house.send(*commands)
            await until(lambda: waits_in_commit(house))
            house.store.session.close()
            late = house.send(house.credit())
            for _ in range(20):
                await pause()
            assert not any(answer.called for answer in answers)  # the old backend has the lock: nothing is known yet
        outcomes = await house.gather(answers)
        assert kinds(outcomes) == {"Sealed"}
        await house.check_told_the_truth(commands, outcomes)
        assert kinds(await house.gather(late)) <= {"not_done", "Sealed"}
        assert {one.record.id for one in house.published} >= {command.id for command in commands}
        (replay,) = await house.submit(msgspec.structs.replace(commands[0], id=house.cast.unknown))
        assert isinstance(replay, Replayed)


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.003, 0.01, 0.03])
@on_reactor
async def test_killed_with_a_thousand_queued(database_url: str, database_server: DatabaseServer, delay: float) -> None:
    async with House(database_url, database_server, batch=50) as house:
        commands = [house.credit(number % 3, key=f"{number}") for number in range(1_000)]
        answers = house.send(*commands)
        await pause(delay)
        house.kill(house.backend_of_writer())
        await pause(delay)
        house.store.session.close()
        outcomes = await house.gather(answers)
        assert kinds(outcomes) <= {"Sealed", "not_done"}
        await house.check_told_the_truth(commands, outcomes)
        # Whoever was told that it was not done tries again; in the end each is there once.
        deadline = reactor.seconds() + 20
        again = commands
        while again:
            assert reactor.seconds() < deadline
            again = [msgspec.structs.replace(command, id=house.credit().id) for command in again]
            told = await house.submit(*again)
            assert kinds(told) <= {"Sealed", "Replayed", "not_done"}
            again = [command for command, one in zip(again, told, strict=True) if isinstance(one, Refused)]
            await pause()
        assert len(house.kept()) == 1_000
        assert sum([(await house.state(who)).balance for who in (0, 1, 2)]) == 100_000
        await house.check_clean()


@on_reactor
async def test_a_batch_that_cannot_be_committed_fails_in_the_commit(
    database_url: str, database_server: DatabaseServer
) -> None:
    """A deferred constraint fails in the COMMIT itself: only its own command is refused."""
    async with House(database_url, database_server) as house:
        bad = house.credit()
        house.sql(
            f"""CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN RAISE EXCEPTION ''no'' USING ERRCODE = ''check_violation''; END';
                CREATE CONSTRAINT TRIGGER no AFTER INSERT ON journal DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW WHEN (NEW.id = '{bad.id}') EXECUTE FUNCTION no()"""
        )
        good = [house.credit() for _ in range(40)]
        outcomes = await house.submit(*good[:20], bad, *good[20:])
        assert kinds(outcomes[:20] + outcomes[21:]) == {"Sealed"}
        assert kinds(outcomes[20:21]) == {"database_error"}
        await house.check_told_the_truth([*good[:20], bad, *good[20:]], outcomes)


@on_reactor
async def test_a_session_that_stopped_with_the_lock_loses_it(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        with session(database_url) as stopped:
            stopped.execute("SET idle_in_transaction_session_timeout = 400")
            stopped.execute("SELECT pg_advisory_xact_lock(%s)", (journal._LOCK,))
            answers = house.send(house.credit())
            await pause(0.1)
            assert not answers[0].called
            assert kinds(await house.gather(answers)) == {"Sealed"}
        await house.check_clean()


@on_reactor
async def test_a_lock_that_is_not_given_back_is_taken(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(journal._SETTINGS, "lock_timeout", 200)
    monkeypatch.setattr(journal, "_EVICT", journal._EVICT.replace("8 seconds", "0.1 seconds"))
    async with House(database_url, database_server) as house:
        with session(database_url) as stopped:
            stopped.execute("SELECT pg_advisory_xact_lock(%s)", (journal._LOCK,))
            first = house.credit()
            assert kinds(await house.submit(first)) <= {"not_done", "Sealed"}

            async def posted() -> bool:
                return kinds(await house.submit(house.credit())) == {"Sealed"}

            while not await posted():
                await pause()
        await house.check_clean()


@on_reactor
async def test_a_writer_can_be_killed_again_and_again_beside_another(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server, batch=20) as house:
        other = house.new_writer(JournalWriter(reactor, house.url))
        await other.start()
        commands: list[Command] = [house.credit(number % 3) for number in range(600)]
        answers = [(house.writer, other)[number % 2].submit(command) for number, command in enumerate(commands)]
        for _ in range(5):
            house.kill(house.backend_of_writer())
            await pause(0.01)
        outcomes = await house.gather(answers)
        await other.stop()
        assert kinds(outcomes[1::2]) == {"Sealed"}
        await house.check_told_the_truth(commands, outcomes)

"""Games on a real database: as the reference says, whole after anything, once for each uuid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.domain.book import decide
from ledger.domain.commands import Command, Outcome, Sealed
from ledger.domain.errors import Refused
from ledger.domain.game_dialect import Misread, accepted, declined, read_question, read_transaction
from ledger.domain.game_users import GAMES, WORLD, create_user, game_account_id, set_user_status
from ledger.domain.games import GameCommand, command_of
from ledger.services.ids import new_id
from ledger.store.accounts import read_state
from ledger.store.games import find_game_account, known_names
from ledger.store.journal import JournalWriter
from tests.game_strategies import STRANGER, USERS, Play, plays, uuid_of
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, reactor
from tests.postgres.test_plans import fill, plan
from tests.reference_games import ReferenceGames
from tests.strategies import examples

MANY = 200


def body(uuid: str, user: str = "ada", **more: Any) -> dict[str, Any]:
    """A bet of 1."""
    return {
        "user": user,
        "transaction_uuid": uuid,
        "request_uuid": str(uuid4()),
        "currency": "USD",
        "amount": 1,
        **more,
    }


def transaction(kind: str, given_body: dict[str, Any]) -> GameCommand:
    """The command of a body."""
    asked = read_transaction(kind, given_body)
    return command_of(asked, game_account_id(asked.user), new_id())


async def make(house: House, *names: str) -> None:
    """Make users."""
    outcomes = await house.submit(*(create_user(name, new_id()) for name in names))
    assert all(isinstance(outcome, Sealed) for outcome in outcomes), outcomes


async def at_once(store: JournalWriter, commands: Sequence[Command]) -> list[Outcome]:
    """Decide commands as one batch, in their order."""
    book = await store.read_facts(commands)
    outcomes = decide(book, commands)
    sealed = [outcome for outcome in outcomes if isinstance(outcome, Sealed)]
    await (store.append(book, sealed) if sealed else store.roll_back())
    return outcomes


async def ask(house: House, play: Play) -> GameCommand | dict[str, Any]:
    """Read a body: what it asks of the writer, or its answer."""
    try:
        asked: Any = read_question(play.body) if play.kind == "balance" else read_transaction(play.kind, play.body)
    except Misread as misread:
        return misread.answer
    account_id = await find_game_account(house.pool, asked.user)
    if account_id is None:
        return declined("RS_ERROR_UNKNOWN", play.body)
    if play.kind == "balance":
        state = await read_state(house.pool, account_id)
        assert state is not None
        return accepted(asked, state[0].balance)
    return command_of(asked, account_id, new_id())


def of_run(play: Play, run: str) -> Play:
    """The same with names and uuids of its own, as one database serves all examples."""
    fields = dict(play.body)
    if fields.get("user") in (*USERS, STRANGER):
        fields["user"] += f" {run}"
    for name in ("transaction_uuid", "reference_transaction_uuid"):
        if str(fields.get(name)).startswith("000000"):
            fields[name] = run[:8] + fields[name][8:]
    return Play(play.kind, fields)


@given(program=plays(40), size=st.integers(1, 15))
@settings(examples(30), suppress_health_check=[HealthCheck.function_scoped_fixture])
@on_reactor
async def test_batches_and_the_reference_agree(
    database_url: str, database_server: DatabaseServer, program: list[Play], size: int
) -> None:
    async with House(database_url, database_server) as house:
        run = uuid4().hex
        program = [of_run(play, run) for play in program]
        users = [f"{name} {run}" for name in USERS]
        reference = ReferenceGames()
        await make(house, *users)
        reference.create(users)
        for start in range(0, len(program), size):
            batch = [play for play in program[start : start + size] if play.kind != "balance"]
            commands: list[Command] = []
            expected, told = [], []
            for play in batch:
                if play.kind == "status":
                    name, status = play.body["user"], play.body["status"]
                    (reference.disabled.add if status == "DISABLED" else reference.disabled.discard)(name)
                    commands.append(set_user_status(name, status, new_id()))
                    continue
                expected.append(reference.ask(play.kind, play.body))
                asked = await ask(house, play)
                told.append(asked)
                if not isinstance(asked, dict):
                    commands.append(asked)
            outcomes = await at_once(house.store, commands) if commands else []
            answers = {
                id(command): command.told(outcome)
                for command, outcome in zip(commands, outcomes, strict=True)
                if isinstance(command, GameCommand)
            }
            assert [one if isinstance(one, dict) else answers[id(one)] for one in told] == expected
            for name in users:
                state = await read_state(house.pool, game_account_id(name))
                assert state is not None
                assert state[0].balance == reference.balances[name]
        used = house.sql("SELECT key FROM journal WHERE scope = %s AND key LIKE %s", GAMES, run[:8] + "%")
        assert {key for (key,) in used} == set(reference.used)
        await house.check_clean()


@on_reactor
async def test_users(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        names = ["ada", "Zoë \\ 'q' \"{,}\n", "x" * 255]
        outcomes = await at_once(house.store, [create_user(name, new_id()) for name in [*names, "ada"]])
        assert [type(outcome) for outcome in outcomes] == [Sealed] * 3 + [Refused]
        again = await house.submit(create_user("ada", new_id()))
        assert isinstance(again[0], Refused)
        assert again[0].reason == "already_processed"
        assert await known_names(house.pool, [*names, "nobody", ""]) == set(names)
        for name in names:
            account_id = await find_game_account(house.pool, name)
            assert account_id == game_account_id(name)
            state = await read_state(house.pool, account_id)
            assert state is not None
            assert (state[0].asset, state[0].balance, state[0].version) == ("USD/5", 100_000, 1)
        assert await find_game_account(house.pool, "nobody") is None
        world = await read_state(house.pool, WORLD)
        assert world is not None
        assert world[0].balance == -300_000
        assert house.sql("SELECT name FROM accounts WHERE id = %s", game_account_id("ada")) == [("ada",)]
        await house.check_clean()


@on_reactor
async def test_two_doors_make_a_user_once(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        other = house.new_writer(JournalWriter(reactor, database_url))
        await other.start()
        names = [f"user {number}" for number in range(MANY)]
        answers = [writer.submit(create_user(name, new_id())) for name in names for writer in (house.writer, other)]
        outcomes = await house.gather(answers)
        await other.stop()
        assert sum(isinstance(outcome, Sealed) for outcome in outcomes) == MANY
        assert {outcome.reason for outcome in outcomes if isinstance(outcome, Refused)} == {"already_processed"}
        assert await known_names(house.pool, names) == set(names)
        await house.check_clean()


@on_reactor
async def test_the_last_status_of_a_batch_counts(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        await make(house, "ada", "eve")
        bets = [transaction("bet", body(uuid_of(n))) for n in range(1, 4)]
        outcomes = await at_once(
            house.store,
            [
                set_user_status("ada", "DISABLED", new_id()),
                bets[0],
                set_user_status("ada", "ACTIVE", new_id()),
                bets[1],
                set_user_status("ada", "DISABLED", new_id()),
                create_user("new", new_id()),
                set_user_status("new", "DISABLED", new_id()),
            ],
        )
        assert [isinstance(outcome, Sealed) for outcome in outcomes] == [True, False, True, True, True, True, True]
        rows = house.sql("SELECT name, status FROM game_users ORDER BY name")
        assert rows == [("ada", "DISABLED"), ("eve", "ACTIVE"), ("new", "DISABLED")]
        (refused,) = await house.submit(bets[2])
        assert bets[2].told(refused)["status"] == "RS_ERROR_USER_DISABLED"
        await house.check_clean()


@on_reactor
async def test_many_at_once_with_one_uuid(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        await make(house, "ada", "eve")
        request = str(uuid4())
        same = [transaction("bet", body(uuid_of(1), amount=10, request_uuid=request)) for _ in range(MANY)]
        outcomes = await house.submit(*same)
        answers = [command.told(outcome) for command, outcome in zip(same, outcomes, strict=True)]
        assert answers == [{**answers[0], "status": "RS_OK", "balance": 99_990}] * MANY
        varied = [transaction("bet", body(uuid_of(2), amount=n, user=("ada", "eve")[n % 2])) for n in range(MANY)]
        outcomes = await house.submit(*varied)
        told = [command.told(outcome)["status"] for command, outcome in zip(varied, outcomes, strict=True)]
        assert sorted(told) == ["RS_ERROR_DUPLICATE_TRANSACTION"] * (MANY - 1) + ["RS_OK"]
        assert house.sql("SELECT count(*) FROM journal WHERE scope = %s", GAMES) == [(2,)]
        await house.check_clean()


@on_reactor
async def test_large_bodies_do_not_grow_the_journal(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        await make(house, "ada")
        meta = {f"field {n}": "\0\\é\n" * 250 for n in range(400)}
        bets = [transaction("bet", body(uuid_of(n), **meta)) for n in range(1, 50)]
        assert all(isinstance(outcome, Sealed) for outcome in await house.submit(*bets))
        ((largest,),) = house.sql("SELECT max(length(body)) FROM journal")
        assert largest < 20_000
        win = transaction("win", body(uuid_of(100), reference_transaction_uuid=uuid_of(1), meta="\0"))
        assert win.told((await house.submit(win))[0])["status"] == "RS_OK"
        await house.check_clean()


@pytest.mark.parametrize("analysed", [False, True])
@on_reactor
async def test_facts_of_games_are_read_by_index(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch, analysed: bool
) -> None:
    async with House(database_url, database_server) as house:
        fill(house)
        await make(house, "ada")
        if analysed:
            house.sql("ANALYZE")
        session, seen = house.store.session, list[tuple[str, Any]]()
        render = session.render

        def spy(sql: str, parameters: Any) -> bytes:
            seen.extend((part.strip(), parameters) for part in sql.split(";") if part.strip().startswith("EXECUTE"))
            return render(sql, parameters)

        monkeypatch.setattr(session, "render", spy)
        rollbacks = [
            transaction("rollback", body(uuid_of(n), reference_transaction_uuid=uuid_of(n + 1_000))) for n in range(100)
        ]
        await house.submit(*rollbacks)
        monkeypatch.undo()
        plans = [await plan(session, sql, parameters) for sql, parameters in seen]
        assert all("Seq Scan" not in text for text in plans), "\n\n".join(plans)
        for index in ("game_users_pkey", "game_undone_pkey", "journal_key"):
            assert index in plans[0]

"""The game wallet over a real database: answers as in process, each transaction once, and nothing forgotten."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, gatherResults

from ledger import games
from ledger.domain.game_users import GAMES
from ledger.domain.money import DEFAULT_MAX_AMOUNT
from ledger.services.game_wallets import GameWallets
from ledger.services.ids import new_id
from tests.game_strategies import USERS, Play, plays, uuid_of
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, refusal_of
from tests.postgres.test_games import of_run
from tests.reference_games import ReferenceGames
from tests.strategies import examples

MANY = 200


def wallets_of(house: House) -> GameWallets:
    """The service, which remembers nothing yet."""
    return GameWallets(house.pool, lambda command: house.writer.submit(command), new_id, DEFAULT_MAX_AMOUNT)


def body(number: int, user: str = "ada", **more: Any) -> dict[str, Any]:
    """A bet of 1."""
    return {
        "user": user,
        "transaction_uuid": uuid_of(number),
        "request_uuid": uuid_of(1_000_000 + number),
        "currency": "USD",
        "amount": 1,
        **more,
    }


async def at_once(*asked: Awaitable[Any]) -> list[Any]:
    """The answers to what is asked in one turn."""
    return list(await gatherResults([Deferred.fromCoroutine(one) for one in asked]))  # type: ignore[arg-type]


async def balance(wallets: GameWallets, user: str = "ada") -> int:
    """What a user has."""
    answer = await wallets.balance({"user": user, "request_uuid": uuid_of(1)})
    assert answer["status"] == "RS_OK"
    amount: int = answer["balance"]
    return amount


async def play_one(wallets: GameWallets, play: Play) -> dict[str, Any]:
    """Ask for one play."""
    return await (wallets.balance(play.body) if play.kind == "balance" else wallets.transact(play.kind, play.body))


@given(program=plays(60), fresh=st.booleans())
@settings(examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@on_reactor
async def test_all_doors_answer_alike(
    database_url: str, database_server: DatabaseServer, program: list[Play], fresh: bool
) -> None:
    async with House(database_url, database_server) as house:
        run = uuid4().hex
        users = [f"{name} {run}" for name in USERS]
        wallets, server, reference = wallets_of(house), games.start(), ReferenceGames()
        assert await wallets.create(users) == users
        games.create_users(server, users)
        reference.create(users)
        for play in (of_run(play, run) for play in program):
            if play.kind == "status":
                name, status = play.body["user"], play.body["status"]
                await wallets.set_status(name, status)
                server.set_status(name, status)
                (reference.disabled.add if status == "DISABLED" else reference.disabled.discard)(name)
                continue
            answer = await play_one(wallets_of(house) if fresh else wallets, play)
            assert answer == reference.ask(play.kind, play.body), play
            assert answer == (
                server.balance(play.body) if play.kind == "balance" else server.transact(play.kind, play.body)
            )
            assert list(answer) == [name for name in ("user", "status", "request_uuid", "currency", "balance")
                                    if name in answer]  # fmt: skip
        assert {name: await balance(wallets, name) for name in users} == reference.balances
        used = house.sql("SELECT key FROM journal WHERE scope = %s AND key LIKE %s", GAMES, run[:8] + "%")
        assert {key for (key,) in used} == set(reference.used)
        await house.check_clean()


@given(program=plays(60))
@settings(examples(10), suppress_health_check=[HealthCheck.function_scoped_fixture])
@on_reactor
async def test_all_at_once_each_is_booked_as_if_alone(
    database_url: str, database_server: DatabaseServer, program: list[Play]
) -> None:
    async with House(database_url, database_server) as house:
        run = uuid4().hex
        users = [f"{name} {run}" for name in USERS]
        wallets = wallets_of(house)
        await wallets.create(users)
        asked = [of_run(play, run) for play in program if play.kind not in ("status", "balance")]
        answers = await at_once(*(play_one(wallets, play) for play in asked))
        rows = house.sql(
            "SELECT key, kind FROM journal WHERE scope = %s AND key LIKE %s ORDER BY seq", GAMES, run[:8] + "%"
        )
        server = games.start()
        games.create_users(server, users)
        for key, kind in rows:  # what was booked is granted in process too, in this order, with the same answer
            granted = [
                (play, answer)
                for play, answer in zip(asked, answers, strict=True)
                if (play.kind, play.body.get("transaction_uuid"), answer["status"]) == (kind, key, "RS_OK")
            ]
            assert granted
            for play, answer in granted:
                assert server.transact(play.kind, play.body) == answer
        assert {name: await balance(wallets, name) for name in users} == {
            name: server.balance({"user": name, "request_uuid": uuid_of(1)})["balance"] for name in users
        }
        for play, answer in zip(asked, answers, strict=True):
            assert answer["status"] != "RS_ERROR_UNKNOWN" or play.body["user"] not in users
        await house.check_clean()


@on_reactor
async def test_users_are_made_once(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        wallets = wallets_of(house)
        odd = ["", None, 5, 1.5, True, ["x"], {"a": 1}, "\0", "\ud800", "x" * 256]
        assert await wallets.create([*odd, "ada", "ada", "Zoë", *odd, " ", "x" * 255]) == ["ada", "Zoë", " ", "x" * 255]
        await wallets.transact("bet", body(1))
        assert await wallets.create(["ada", "eve"]) == ["eve"]
        assert [await balance(wallets, name) for name in ("ada", "eve", " ")] == [99_999, 100_000, 100_000]
        assert await wallets.create([]) == []
        assert await wallets.create(odd) == []
        names = [f"user {number}" for number in range(1_000)]
        assert await wallets.create([*names, "ada"]) == names
        assert house.sql("SELECT count(*) FROM game_users") == [(1_005,)]
        rivals = [wallets_of(house).create([f"new {number}" for number in range(300)]) for _ in range(3)]
        made = [name for some in await at_once(*rivals) for name in some]
        assert sorted(made) == sorted(f"new {number}" for number in range(300))
        for name in odd:
            answer = await wallets.balance({"user": name, "request_uuid": uuid_of(1)})
            assert answer["status"] in ("RS_ERROR_UNKNOWN", "RS_ERROR_WRONG_TYPES", "RS_ERROR_WRONG_SYNTAX")
        await house.check_clean()


@on_reactor
async def test_a_restart_forgets_nothing(database_url: str, database_server: DatabaseServer) -> None:
    bet, win = body(1, amount=400), body(2, reference_transaction_uuid=uuid_of(1), amount=1_000)
    early = body(9, reference_transaction_uuid=uuid_of(7))
    async with House(database_url, database_server) as house:
        wallets = wallets_of(house)
        await wallets.create(["ada", "eve"])
        before = [await wallets.transact(*one) for one in (("bet", bet), ("win", win), ("rollback", early))]
        assert [answer["balance"] for answer in before] == [99_600, 100_600, 100_600]
        await wallets.set_status("eve", "DISABLED")
    async with House(database_url, database_server) as house:
        wallets = wallets_of(house)
        after = [await wallets.transact(*one) for one in (("bet", bet), ("win", win), ("rollback", early))]
        assert after == before
        changed = await wallets.transact("bet", {**bet, "amount": 401})
        assert changed["status"] == "RS_ERROR_DUPLICATE_TRANSACTION"
        late = await wallets.transact("bet", body(7))
        assert late["status"] == "RS_ERROR_TRANSACTION_DOES_NOT_EXIST"
        assert (await wallets.transact("bet", body(3, "eve")))["status"] == "RS_ERROR_USER_DISABLED"
        undo = await wallets.transact("rollback", body(4, reference_transaction_uuid=uuid_of(2)))
        assert undo["balance"] == await balance(wallets) == 99_600
        assert await wallets.create(["ada"]) == []
        await house.check_clean()


@on_reactor
async def test_many_at_once_with_one_uuid(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        await wallets_of(house).create(["ada", "eve"])
        doors = [wallets_of(house) for _ in range(4)]  # none of them knows the users yet
        same = await at_once(*(doors[n % 4].transact("bet", body(1, amount=10)) for n in range(MANY)))
        assert same == [{"user": "ada", "status": "RS_OK", "request_uuid": uuid_of(1_000_001), "currency": "USD",
                         "balance": 99_990}] * MANY  # fmt: skip
        varied = await at_once(*(doors[n % 4].transact("bet", body(2, amount=n)) for n in range(MANY)))
        statuses = [answer["status"] for answer in varied]
        assert sorted(statuses) == ["RS_ERROR_DUPLICATE_TRANSACTION"] * (MANY - 1) + ["RS_OK"]
        assert await balance(doors[0]) == 99_990 - statuses.index("RS_OK")
        whoever = await at_once(*(doors[0].transact("bet", body(3, ("ada", "eve")[n % 2])) for n in range(MANY)))
        told = {(answer["user"], answer["status"]) for answer in whoever}
        assert len(told) == 2
        assert {status for _, status in told} == {"RS_OK", "RS_ERROR_DUPLICATE_TRANSACTION"}
        assert house.sql("SELECT count(*) FROM journal WHERE scope = %s", GAMES) == [(3,)]
        await house.check_clean()


@on_reactor
async def test_a_disabled_user(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        wallets = wallets_of(house)
        await wallets.create(["ada"])
        await wallets.transact("bet", body(1, amount=10))
        await wallets.set_status("ada", "DISABLED")
        assert (await wallets.transact("bet", body(2)))["status"] == "RS_ERROR_USER_DISABLED"
        assert (await wallets.transact("bet", body(1, amount=10)))["balance"] == 99_990
        assert (await wallets.transact("win", body(3, reference_transaction_uuid=uuid_of(1))))["balance"] == 99_991
        assert (await wallets.transact("rollback", body(4, reference_transaction_uuid=uuid_of(1))))[
            "balance"
        ] == 100_001
        await wallets.set_status("ada", "ACTIVE")
        assert (await wallets.transact("bet", body(2)))["balance"] == 100_000
        for name in ("nobody", "\0", "x" * 300):
            assert (await refusal_of(wallets.set_status(name, "ACTIVE"))).reason == "user_not_found"
        assert (await refusal_of(wallets.set_status("ada", "GONE"))).reason == "invalid_status"
        await house.check_clean()


@pytest.mark.parametrize("most", [1, DEFAULT_MAX_AMOUNT])
@on_reactor
async def test_amounts_have_the_limit_that_is_configured(
    database_url: str, database_server: DatabaseServer, most: int
) -> None:
    async with House(database_url, database_server) as house:
        wallets = GameWallets(house.pool, house.writer.submit, new_id, most)
        await wallets.create(["ada"])
        assert (await wallets.transact("bet", body(1, amount=most + 1)))["status"] == "RS_ERROR_WRONG_TYPES"
        assert (await wallets.transact("bet", body(1, amount=1)))["balance"] == 99_999
        win = await wallets.transact("win", body(2, amount=most, reference_transaction_uuid=uuid_of(1)))
        assert win["balance"] == 99_999 + most


@on_reactor
async def test_an_outage_is_left_to_be_told_by_the_door(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        wallets = wallets_of(house)
        await wallets.create(["ada"])
        await wallets.transact("bet", body(1))
        await house.writer.stop()
        for work in (wallets.transact("bet", body(2)), wallets.create(["eve"]), wallets.set_status("ada", "DISABLED")):
            refused = await refusal_of(work)
            assert (refused.reason, refused.details["outcome"]) == ("service_unavailable", "not_done")
        assert await balance(wallets) == 99_999
        house.pool.close()
        refused = await refusal_of(wallets_of(house).transact("bet", body(2)))
        assert refused.reason == "service_unavailable"

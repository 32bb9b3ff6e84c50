# mypy: disable-error-code="untyped-decorator"
"""Games over real sockets: users by an admin, signed calls, and a server that is killed under their load."""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectError

from ledger import games
from ledger.domain.game_users import GAMES, game_account_id
from ledger.services.postgres_layout import Layout
from tests.e2e.books import Books
from tests.e2e.client import BROKEN, Api, Clients
from tests.e2e.server import Machine, pause, until
from tests.game_keys import SIGNATURE, key_file, sign
from tests.game_strategies import USERS, Player, uuid_of
from tests.postgres.test_games import of_run
from tests.reference_games import ReferenceGames

USERS_URL = "/api/games/users"
PATHS = {
    "bet": "/transaction/bet",
    "win": "/transaction/win",
    "rollback": "/transaction/rollback",
    "balance": "/user/balance",
}


async def call(api: Api, kind: str, body: object, signature: str | None = None) -> dict[str, Any]:
    """Make a signed call, which must be answered with 200; a connection that fails raises."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, told = await api.post(PATHS[kind], raw, {SIGNATURE: sign(raw) if signature is None else signature})
    assert status == 200, told
    answer: dict[str, Any] = told
    return answer


async def balance(api: Api, user: str) -> int:
    """What a user has."""
    answer = await call(api, "balance", {"user": user, "request_uuid": uuid_of(1)})
    assert answer["status"] == "RS_OK"
    return int(answer["balance"])


def bet(user: str, amount: int = 1, **more: Any) -> dict[str, Any]:
    """A bet with a uuid of its own."""
    return {
        "user": user,
        "transaction_uuid": str(uuid4()),
        "request_uuid": str(uuid4()),
        "currency": "USD",
        "amount": amount,
        **more,
    }


@pytest_twisted.ensureDeferred
async def test_games_from_their_users_on(machine: Machine, books: Books, clients: Clients, tmp_path: Path) -> None:
    options = ("--database", books.url, "--games-public-key", str(key_file(tmp_path)))
    server = await machine.serve(*options).ready()
    api = clients(server)
    admin = await api.admin(books)
    made = await api.ask("POST", USERS_URL, {"users": ["ada", "", 5, "eve", "ada"]}, admin)
    assert (made.status, made.data) == (201, {"created": ["ada", "eve"]})

    stake = bet("ada", 400)
    answer = await call(api, "bet", stake)
    assert answer == {
        "user": "ada",
        "status": "RS_OK",
        "request_uuid": stake["request_uuid"],
        "currency": "USD",
        "balance": 99_600,
    }
    won = bet("ada", 1_000, reference_transaction_uuid=stake["transaction_uuid"])
    assert (await call(api, "win", won))["balance"] == 100_600
    undo = bet("ada", reference_transaction_uuid=won["transaction_uuid"])
    assert (await call(api, "rollback", undo))["balance"] == await balance(api, "ada") == 99_600
    assert (await call(api, "bet", stake, sign(b"another")))["status"] == "RS_ERROR_INVALID_SIGNATURE"
    assert await call(api, "bet", b"[" * 2**20) == {"status": "RS_ERROR_WRONG_SYNTAX"}
    assert await call(api, "bet", b"x" * (2**20 + 1)) == {"status": "RS_ERROR_WRONG_SYNTAX"}

    same = await gatherResults([Deferred.fromCoroutine(call(api, "bet", stake)) for _ in range(200)])
    assert same == [answer] * 200
    one = bet("eve")
    varied = await gatherResults(
        [Deferred.fromCoroutine(call(api, "bet", {**one, "amount": amount})) for amount in range(200)]
    )
    statuses = [answer["status"] for answer in varied]
    assert sorted(statuses) == ["RS_ERROR_DUPLICATE_TRANSACTION"] * 199 + ["RS_OK"]
    assert await balance(api, "eve") == 100_000 - statuses.index("RS_OK")

    assert (await api.ask("PATCH", f"{USERS_URL}/ada", {"status": "DISABLED"}, admin)).status == 200
    assert (await call(api, "bet", bet("ada")))["status"] == "RS_ERROR_USER_DISABLED"
    await server.stop()
    again = await machine.serve(*options).ready()
    api = clients(again)
    assert await call(api, "bet", stake) == answer
    assert (await call(api, "bet", bet("ada")))["status"] == "RS_ERROR_USER_DISABLED"
    await again.stop()
    await machine.verify("--database", books.url)


@pytest_twisted.ensureDeferred
async def test_sequences_over_http_are_answered_as_in_process(
    machine: Machine, books: Books, clients: Clients, tmp_path: Path
) -> None:
    server = await machine.serve("--database", books.url, "--games-public-key", str(key_file(tmp_path))).ready()
    api = clients(server)
    admin = await api.admin(books)
    for seed in range(4):
        run = uuid4().hex
        users = [f"{name} {run}" for name in USERS]
        in_process, reference = games.start(), ReferenceGames()
        assert (await api.ask("POST", USERS_URL, {"users": users}, admin)).status == 201
        games.create_users(in_process, users)
        reference.create(users)
        for play in Player(random.Random(seed)).program(80):
            if play.kind == "status":
                continue
            asked = of_run(play, run)
            expected = reference.ask(asked.kind, asked.body)
            told = (
                in_process.balance(asked.body)
                if asked.kind == "balance"
                else in_process.transact(asked.kind, asked.body)
            )
            assert await call(api, asked.kind, asked.body) == told == expected, asked
        assert {user: await balance(api, user) for user in users} == reference.balances
    await server.stop()


@dataclass
class Round:
    """A transaction, and what its sender knows of it."""

    kind: str
    body: dict[str, Any]
    answer: dict[str, Any] | None = field(default=None)

    async def attempt(self, api: Api) -> None:
        """Ask for it (again); what is not told stays open."""
        try:
            answer = await call(api, self.kind, self.body)
        except (ConnectError, *BROKEN):
            return
        if answer["status"] != "RS_ERROR_UNKNOWN":
            self.answer = answer


@pytest_twisted.ensureDeferred
async def test_a_server_killed_mid_load_has_each_transaction_once(
    machine: Machine, clients: Clients, tmp_path: Path
) -> None:
    data_dir = machine.new_data_dir()
    options = ("--data-dir", str(data_dir), "--games-public-key", str(key_file(tmp_path)))
    server = await machine.serve(*options).ready()
    books, api = Books(Layout(data_dir).url()), clients(server)
    users = [f"player {number}" for number in range(10)]
    assert (await api.ask("POST", USERS_URL, {"users": users}, await api.admin(books))).status == 201
    rounds: list[Round] = []
    going = True

    async def play(user: str) -> None:
        chance = random.Random(user)
        while going:
            stake = Round("bet", bet(user, chance.randrange(50)))
            reference = {"reference_transaction_uuid": stake.body["transaction_uuid"]}
            after = Round(*chance.choice((("win", bet(user, chance.randrange(90), **reference)),
                                          ("rollback", bet(user, **reference)))))  # fmt: skip
            for one in (stake, after):
                rounds.append(one)
                await one.attempt(api)
                if one.answer is None:
                    await pause(0.02)

    def told() -> int:
        return sum(one.answer is not None for one in rounds)

    playing = gatherResults([Deferred.fromCoroutine(play(user)) for user in users * 2])
    await until(lambda: told() > 200)
    server.send(signal.SIGKILL)
    assert await server.ended() == -signal.SIGKILL
    again = await machine.serve(*options, port=server.port).ready()
    before = told()
    await until(lambda: told() > before + 200)
    going = False
    await playing

    assert any(one.answer is None for one in rounds)
    heard = [one for one in rounds if one.answer is not None and one.answer["status"] == "RS_OK"]
    kept = {key for (key,) in books.rows("SELECT key FROM journal WHERE scope = %s", GAMES)}
    assert {one.body["transaction_uuid"] for one in heard} <= kept
    for one in rounds:
        while one.answer is None:
            await one.attempt(api)
        answer = one.answer
        await one.attempt(api)  # once more: what was granted stays, answer and all
        if answer["status"] == "RS_OK":
            assert one.answer == answer

    sums = Counter(dict.fromkeys(users, 100_000))
    amounts = {one.body["transaction_uuid"]: one.body["amount"] for one in rounds}
    booked = [one for one in rounds if one.answer is not None and one.answer["status"] == "RS_OK"]
    bets = {one.body["transaction_uuid"] for one in booked if one.kind == "bet"}
    for one in booked:
        reference = one.body.get("reference_transaction_uuid")
        if one.kind == "rollback":
            sums[one.body["user"]] += amounts[reference] if reference in bets else 0
        else:
            sums[one.body["user"]] += one.body["amount"] * (-1 if one.kind == "bet" else 1)
    rows = books.rows("SELECT key FROM journal WHERE scope = %s", GAMES)
    assert Counter(key for (key,) in rows) == Counter(one.body["transaction_uuid"] for one in booked)
    kept_balances = books.balances()
    for user in users:
        assert await balance(api, user) == kept_balances[game_account_id(user)] == sums[user]
    await machine.verify("--data-dir", str(data_dir))
    await again.stop()


@pytest_twisted.ensureDeferred
async def test_a_key_that_cannot_be_used_ends_the_start_with_one_line(machine: Machine, tmp_path: Path) -> None:
    for path, complaint in (
        (tmp_path / "none.pem", "cannot read"),
        (machine.write("text.pem", "no key"), "holds no public key in PEM form"),
    ):
        server = machine.twistd("ledger", "--games-public-key", str(path))
        assert await server.ended() not in (0, None)
        (line,) = server.log.splitlines()
        assert "--games-public-key: " in line
        assert complaint in line

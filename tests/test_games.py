"""The game wallet in process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import games
from ledger.domain.errors import Refused
from ledger.domain.game_users import game_account_id
from ledger.domain.journal import body_of, read_body
from tests.game_strategies import USERS, Play, plays, uuid_of
from tests.reference_games import ReferenceGames
from tests.strategies import examples

DOORS: dict[str, Callable[[games.Server, Any], dict[str, Any]]] = {
    "bet": games.bet,
    "win": games.win,
    "rollback": games.rollback,
    "balance": games.balance,
}


@pytest.fixture
def server() -> games.Server:
    """A server with a few users."""
    running = games.start()
    games.create_users(running, list(USERS))
    return running


def body(number: int, **more: Any) -> dict[str, Any]:
    """A bet of 1."""
    return {
        "user": "ada",
        "transaction_uuid": uuid_of(number),
        "request_uuid": uuid_of(1_000 + number),
        "currency": "USD",
        "amount": 1,
        **more,
    }


def after(number: int, reference: int, **more: Any) -> dict[str, Any]:
    """What refers to another transaction."""
    return body(number, reference_transaction_uuid=uuid_of(reference), **more)


def balance(server: games.Server, user: str = "ada") -> int:
    """What a user has."""
    answer = games.balance(server, {"user": user, "request_uuid": uuid_of(1)})
    assert answer["status"] == "RS_OK"
    amount: int = answer["balance"]
    return amount


@given(plays(60))
@examples(300)
def test_as_the_reference_says_after_every_step(program: list[Play]) -> None:
    server, reference = games.start(), ReferenceGames()
    games.create_users(server, list(USERS))
    reference.create(list(USERS))
    for play in program:
        if play.kind == "status":
            server.set_status(play.body["user"], play.body["status"])
            (reference.disabled.add if play.body["status"] == "DISABLED" else reference.disabled.discard)(
                play.body["user"]
            )
        else:
            assert DOORS[play.kind](server, play.body) == reference.ask(play.kind, play.body), play
        assert {user: balance(server, user) for user in USERS} == reference.balances
        assert {record.key for record in server.memory.records() if record.key} == set(reference.used)
    for record in server.memory.records():
        assert read_body(body_of(record)) == record


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(object),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.none(), inner) | st.tuples(inner),
    max_leaves=8,
)
strange = st.dictionaries(
    st.sampled_from((*body(1), "reference_transaction_uuid", "meta", "round")) | st.text(), anything, max_size=4
)


@given(st.sampled_from(sorted(DOORS)), anything | strange | strange.map(lambda fields: after(1, 2) | fields))
@examples(300)
def test_nothing_raises(kind: str, given_body: Any) -> None:
    server = games.start()
    games.create_users(server, ["ada"])
    answer = DOORS[kind](server, given_body)
    assert answer["status"].startswith("RS_")


@pytest.mark.parametrize("extra", [{"meta": object()}, {"meta": "\ud800"}, {1: 2}, {"meta": {1: 2}}, {"\ud800": 1}])
def test_what_is_not_json_is_no_request(server: games.Server, extra: dict[Any, Any]) -> None:
    assert games.bet(server, {**body(1), **extra})["status"] == "RS_ERROR_WRONG_SYNTAX"
    assert games.bet(server, body(1))["balance"] == 99_999


def test_nesting_has_a_limit(server: games.Server) -> None:
    def nested(depth: int) -> Any:
        value: Any = 1
        for _ in range(depth):
            value = {"a": [value]}
        return value

    assert games.bet(server, body(1, meta={"b": nested(15)}))["status"] == "RS_OK"
    for meta in (nested(16), nested(5_000)):
        assert games.bet(server, body(2, meta=meta))["status"] == "RS_ERROR_WRONG_SYNTAX"
    wide: list[Any] = [[] for _ in range(100)]
    assert games.bet(server, body(2, meta=wide))["status"] == "RS_OK"


def test_names(server: games.Server) -> None:
    before = len(server.memory)
    names = ["", None, 5, b"bytes", ["list"], "ada", "new", "new", " ", "\0", "\ud800", "x" * 255, "x" * 256]
    games.create_users(server, names)
    assert len(server.memory) == before + 3
    assert [balance(server, name) for name in ("new", " ", "x" * 255)] == [100_000] * 3
    games.bet(server, body(1))
    games.create_users(server, ["ada"])
    assert balance(server) == 99_999


def test_servers_are_isolated(server: games.Server) -> None:
    other = games.start()
    assert games.bet(other, body(1))["status"] == "RS_ERROR_UNKNOWN"
    games.create_users(other, ["ada"])
    assert games.bet(server, body(1, amount=7))["balance"] == 99_993
    assert games.bet(other, body(1, amount=8))["balance"] == 99_992


def test_an_answer_in_full(server: games.Server) -> None:
    assert games.bet(server, body(1, amount=40)) == {
        "user": "ada",
        "status": "RS_OK",
        "request_uuid": uuid_of(1_001),
        "currency": "USD",
        "balance": 99_960,
    }
    games.bet(server, body(2))
    again = games.bet(server, body(1, amount=40, request_uuid=uuid_of(5), token="t"))
    assert (again["balance"], again["request_uuid"]) == (99_960, uuid_of(5))
    assert games.bet(server, body(3, amount=100_000)) == {
        "user": "ada",
        "status": "RS_ERROR_NOT_ENOUGH_MONEY",
        "request_uuid": uuid_of(1_003),
        "currency": "USD",
        "balance": 99_959,
    }
    assert games.bet(server, body(3, amount=99_959))["balance"] == 0
    assert games.bet(server, {"user": "ada"}) == {"user": "ada", "status": "RS_ERROR_WRONG_SYNTAX"}
    assert games.bet(server, {"user": 5, "request_uuid": "x"}) == {"status": "RS_ERROR_WRONG_SYNTAX"}


def test_a_rollback_that_came_first_is_of_its_own_user_alone(server: games.Server) -> None:
    assert games.rollback(server, after(1, 2))["balance"] == 100_000
    assert games.bet(server, body(2, amount=0))["status"] == "RS_ERROR_TRANSACTION_DOES_NOT_EXIST"
    assert games.bet(server, body(2, user="eve", amount=30))["balance"] == 99_970
    assert games.rollback(server, after(3, 2))["balance"] == 100_000
    assert games.rollback(server, after(4, 2, user="eve"))["balance"] == 100_000
    assert games.rollback(server, after(5, 2, user="eve"))["balance"] == 100_000
    assert games.win(server, after(6, 2, user="eve"))["status"] == "RS_ERROR_TRANSACTION_DOES_NOT_EXIST"


def test_the_rollback_of_a_bet_leaves_its_wins_and_that_of_a_win_needs_the_money(server: games.Server) -> None:
    games.bet(server, body(1, amount=100_000))
    assert games.win(server, after(2, 1, amount=500))["balance"] == 500
    assert games.win(server, after(3, 1, amount=0))["balance"] == 500
    assert games.rollback(server, after(4, 1))["balance"] == 100_500
    assert games.win(server, after(5, 1))["status"] == "RS_ERROR_TRANSACTION_DOES_NOT_EXIST"
    games.bet(server, body(6, amount=100_001))
    refused = games.rollback(server, after(7, 2))
    assert (refused["status"], refused["balance"]) == ("RS_ERROR_NOT_ENOUGH_MONEY", 499)
    games.win(server, after(8, 6, amount=1))
    assert games.rollback(server, after(7, 2))["balance"] == 0
    assert games.rollback(server, after(9, 3))["balance"] == 0


def test_a_disabled_user_does_not_bet_and_is_still_paid(server: games.Server) -> None:
    games.bet(server, body(1, amount=10))
    server.set_status("ada", "DISABLED")
    assert games.bet(server, body(2))["status"] == "RS_ERROR_USER_DISABLED"
    assert games.bet(server, body(2, currency="EUR"))["status"] == "RS_ERROR_WRONG_CURRENCY"
    assert games.bet(server, body(1, amount=10))["balance"] == 99_990
    assert games.win(server, after(3, 1, amount=5))["balance"] == 99_995
    assert games.rollback(server, after(4, 1))["balance"] == 100_005
    server.set_status("ada", "ACTIVE")
    assert games.bet(server, body(2))["balance"] == 100_004
    for name, status, reason in (("nobody", "ACTIVE", "user_not_found"), ("ada", "GONE", "invalid_status")):
        with pytest.raises(Refused) as refused:
            server.set_status(name, status)
        assert refused.value.reason == reason


def test_a_stopped_server_knows_nobody(server: games.Server) -> None:
    games.stop(server)
    games.stop(server)
    for kind in DOORS:
        assert DOORS[kind](server, after(1, 2)) == {
            "user": "ada",
            "status": "RS_ERROR_UNKNOWN",
            "request_uuid": uuid_of(1_001),
        }
    assert games.bet(server, {})["status"] == "RS_ERROR_WRONG_SYNTAX"
    with pytest.raises(RuntimeError, match="stopped"):
        games.create_users(server, ["ada"])


def test_the_metadata_that_is_kept_has_a_limit(server: games.Server) -> None:
    large = {f"field {n}": "x" * 1_000 for n in range(1_000)}
    assert games.bet(server, body(1, round="r", token="t", **large))["status"] == "RS_OK"
    record = list(server.memory.records())[-1]
    assert record.metadata is not None
    assert {"request_uuid", "round", "token"} < set(record.metadata) < set(body(1, round="r", token="t", **large))
    assert 10_000 < len(body_of(record)) < 20_000
    assert games.bet(server, body(2, round="r" * 2**20))["status"] == "RS_OK"
    assert games.bet(server, body(2, round="r" * 2**20 + "!"))["status"] == "RS_ERROR_DUPLICATE_TRANSACTION"


def test_from_many_threads(server: games.Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        same = list(pool.map(lambda _: games.bet(server, body(1, amount=10)), range(200)))
        varied = list(pool.map(lambda n: games.bet(server, body(2, amount=n)), range(200)))
        others = list(pool.map(lambda n: games.bet(server, body(n, user="eve")), range(1_000, 1_500)))
    assert same == [same[0]] * 200
    assert sorted({answer["status"] for answer in varied}) == ["RS_ERROR_DUPLICATE_TRANSACTION", "RS_OK"]
    booked = [amount for amount, answer in enumerate(varied) if answer["status"] == "RS_OK"]
    assert len(booked) == 1
    assert balance(server) == 99_990 - booked[0]
    assert sorted(answer["balance"] for answer in others) == list(range(99_500, 100_000))


def test_ten_thousand_users_are_made_at_once() -> None:
    server = games.start()
    begin = time.process_time()
    games.create_users(server, [f"user {n}" for n in range(10_000)])
    assert time.process_time() - begin < 1
    assert balance(server, "user 9999") == 100_000


def test_no_reactor_is_needed() -> None:
    code = """
import sys
from ledger import games
server = games.start()
games.create_users(server, ["ada"])
assert games.balance(server, {"user": "ada", "request_uuid": "%s"})["balance"] == 100_000
assert "twisted.internet.reactor" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code % uuid_of(1)], check=True, timeout=60)


def test_a_clock_that_goes_back_does_not_take_the_journal_with_it() -> None:
    instants = iter((5.25, 4.5, 7.999_999_9))
    server = games.start(seconds=lambda: next(instants))
    games.create_users(server, USERS)
    assert [record.posted_at[17:] for record in server.memory.records()] == [
        "05.250000Z",
        "05.250000Z",
        "07.999999Z",
    ]


def test_the_account_of_a_name_is_always_the_same() -> None:
    assert game_account_id("ada") == "fa238aad-4119-59be-9cc0-ad3cb1a63fae"

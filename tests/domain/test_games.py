"""Games, as they are read and decided in batches, and the page that tells of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ledger.domain import game_dialect as dialect
from ledger.domain.accounts import Account, world_id
from ledger.domain.book import Book, fingerprint_of
from ledger.domain.commands import Command, Replayed, Sealed
from ledger.domain.errors import Refused
from ledger.domain.game_dialect import Misread, read_json, read_question, read_transaction
from ledger.domain.game_users import (
    ASSET,
    GAME_USERS,
    GAMES,
    WORLD,
    GameUser,
    balance_in,
    create_user,
    game_account_id,
    set_user_status,
)
from ledger.domain.games import GAME_TRANSACTIONS, GAME_UNDONE, Booked, GameCommand, Undone, command_of, undone_id
from ledger.domain.journal import START, read_body
from tests.game_strategies import uuid_of

DOCUMENT = (Path(__file__).parents[2] / "docs" / "games.md").read_text()
INSTANT = "2026-01-02T03:04:05.678901Z"
ADA, EVE = game_account_id("ada"), game_account_id("eve")


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


def ask(kind: str, number: int, **more: Any) -> GameCommand:
    """A command."""
    asked = read_transaction(kind, body(number, **more))
    return command_of(asked, game_account_id(asked.user), uuid_of(50_000 + number))


def refer(kind: str, number: int, reference: int, **more: Any) -> GameCommand:
    """A command that refers to another transaction."""
    return ask(kind, number, reference_transaction_uuid=uuid_of(reference), **more)


def book_of(
    balance: int = 100,
    status: str = "ACTIVE",
    account_status: str = "ACTIVE",
    facts: Mapping[str, dict[str, Any]] | None = None,
) -> Book:
    """A book in which ada and eve are users of the same balance and status."""
    accounts = {WORLD: Account(WORLD, None, ASSET, "WORLD", "ACTIVE", -2 * balance, 0, 0, 2)}
    for name in (ADA, EVE):
        accounts[name] = Account(name, None, ASSET, "CHECKING", account_status, balance, 0, 0, 1)
    users = {name: GameUser(name, status) for name in (ADA, EVE)}
    every = {GAME_USERS: users, GAME_TRANSACTIONS: {}, GAME_UNDONE: {}}
    return Book(START, INSTANT, accounts, facts={**every, **(facts or {})})


def reason(book: Book, command: Command) -> str:
    """Why a command is refused."""
    outcome = book.decide(command)
    assert isinstance(outcome, Refused), outcome
    return outcome.reason


def sealed(book: Book, command: Command) -> Sealed:
    """The outcome of a command that is accepted."""
    outcome = book.decide(command)
    assert isinstance(outcome, Sealed), outcome
    return outcome


def test_the_page_lists_every_status() -> None:
    rows = re.findall(r"^\| `(RS_\w+)` \| (.+) \|$", DOCUMENT, re.MULTILINE)
    assert [status for status, _ in rows] == list(dialect.STATUSES)
    assert all(len(case) > 20 for _, case in rows)
    assert set(re.findall(r"RS_[A-Z_]+", DOCUMENT)) == set(dialect.STATUSES)
    source = Path(dialect.__file__).read_text()
    assert sorted(re.findall(r'"(RS_\w+)"', source)) == sorted(dialect.STATUSES)


def test_the_page_tells_the_limits() -> None:
    told = " ".join(DOCUMENT.split())
    for limit in (dialect.MAX_METADATA, dialect.MAX_NAME, dialect.MAX_DEPTH):
        assert f"{limit:,} " in told


@pytest.mark.parametrize("kind", ["bet", "win", "rollback"])
def test_whatever_is_required_is(kind: str) -> None:
    required = ["user", "transaction_uuid", "request_uuid"]
    if kind != "rollback":
        required += ["currency", "amount"]
    if kind != "bet":
        required += ["reference_transaction_uuid"]
    whole = body(1, reference_transaction_uuid=uuid_of(2))
    for name in whole:
        less = {other: value for other, value in whole.items() if other != name}
        for given, status in ((less, dialect.WRONG_SYNTAX), ({**whole, name: None}, dialect.WRONG_TYPES)):
            if name in required:
                with pytest.raises(Misread) as misread:
                    read_transaction(kind, given)
                assert misread.value.answer["status"] == status
            else:
                assert read_transaction(kind, given).user == "ada"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("user", [5, True, ["ada"], {}]),
        ("currency", [5, False, ["USD"]]),
        ("amount", [True, False, "1", 1.0, -1, 10**15 + 1, [1], float("inf")]),
        (
            "transaction_uuid",
            [
                "",
                uuid_of(1)[:-1],
                uuid_of(1) + "0",
                uuid_of(1) + "\n",
                uuid_of(1).replace("-", ""),
                uuid_of(10).upper(),
                "{" + uuid_of(1)[2:] + "}",
                "٠" * 8 + uuid_of(1)[8:],
                1,
            ],
        ),
    ],
)
def test_types(name: str, values: list[Any]) -> None:
    names = ("transaction_uuid", "request_uuid", "reference_transaction_uuid") if "uuid" in name else (name,)
    for one in names:
        for value in values:
            with pytest.raises(Misread) as misread:
                read_transaction("win", body(1, **{"reference_transaction_uuid": uuid_of(2), one: value}))
            assert misread.value.answer["status"] == dialect.WRONG_TYPES, (one, value)


def test_the_shape_comes_before_the_types() -> None:
    with pytest.raises(Misread) as misread:
        read_transaction("bet", {"user": 5, "amount": "x"})
    assert misread.value.answer["status"] == dialect.WRONG_SYNTAX
    values: tuple[Any, ...] = (None, [], "text", 5, b"{}")
    for given in values:
        for read in (read_question, partial(read_transaction, "bet")):
            with pytest.raises(Misread) as misread:
                read(given)
            assert misread.value.answer == {"status": dialect.WRONG_SYNTAX}


def test_the_limit_of_amounts() -> None:
    assert read_transaction("bet", body(1, amount=7), 7).amount == 7
    with pytest.raises(Misread):
        read_transaction("bet", body(1, amount=8), 7)
    assert read_transaction("bet", body(1, amount=0), 7).amount == 0


def test_json_is_read_whatever_its_numbers() -> None:
    for text in (b"", b"{", b"NaN", b'{"a":Infinity}', b'"\xff"', b"[" * 100_000, b"\xef\xbb\xbf{}", b"{'a':1}"):
        assert read_json(text) is None, text
    assert read_json(b'{"a":1e999,"b":-1' + b"0" * 9_000 + b"}") == {"a": ["1e999"], "b": ["-1" + "0" * 9_000]}
    assert read_json(b'{"a":[1,2.5,"\\u00e9"]}') == {"a": [1, 2.5, "é"]}
    with pytest.raises(Misread) as misread:
        read_transaction("bet", read_json(json.dumps(body(1)).replace('"amount": 1', '"amount": 1e999').encode()))
    assert misread.value.answer["status"] == dialect.WRONG_TYPES


def test_what_counts_as_the_same() -> None:
    first = fingerprint_of(ask("bet", 1, round="r", game_code="g", token="t"))
    again = ask("bet", 2, round="r", game_code="g", request_uuid=uuid_of(7), token="u", meta=[1])
    assert fingerprint_of(again) == first
    changes: tuple[dict[str, Any], ...] = (
        {"user": "eve"},
        {"currency": "EUR"},
        {"amount": 2},
        {"round": "s"},
        {"round": None},
        {"game_code": "h"},
        {"reference_transaction_uuid": uuid_of(3)},
    )
    others = [ask("bet", 1, **{"round": "r", "game_code": "g", **change}) for change in changes]
    others += [refer(kind, 1, 3, round="r", game_code="g") for kind in ("win", "rollback")]
    assert len({first, *map(fingerprint_of, others)}) == len(others) + 1


def test_what_is_very_long_is_compared_by_a_digest_whatever_stands_beside_it() -> None:
    long = "r" * 2_000
    first = fingerprint_of(ask("bet", 1, round=long))
    assert len(ask("bet", 1, round=long).asked.game_round[0]) == 32
    assert fingerprint_of(ask("bet", 1, round=long, meta="m" * 100_000)) == first
    assert fingerprint_of(ask("bet", 1, round=long + "!")) != first
    short = fingerprint_of(ask("bet", 1, round="r"))
    assert fingerprint_of(ask("bet", 1, round="r", meta="m" * 100_000)) == short


def test_a_record_tells_the_answer_and_all_that_came_with_it() -> None:
    book = book_of(balance=500)
    bet = ask("bet", 1, amount=200, round="r", meta={"a": 1})
    outcome = sealed(book, bet)
    record = read_body(outcome.body)
    assert record == outcome.record
    assert (record.scope, record.key, record.kind) == (GAMES, uuid_of(1), "bet")
    assert record.metadata == {"request_uuid": uuid_of(1_001), "round": "r", "meta": {"a": 1}}
    assert [(entry.account, entry.amount) for entry in record.entries] == [(ADA, -200), (WORLD, 200)]
    assert json.loads(bet.answer(record)) == bet.told(outcome) == bet.told(Replayed(record))
    free = sealed(book, ask("bet", 2, amount=0))
    assert free.record.entries == ()
    assert balance_in(read_body(free.body), ADA) == 300
    sealed(book, ask("bet", 3, amount=300))
    replayed = book.decide(ask("bet", 2, amount=0, currency="USD"))
    assert isinstance(replayed, Replayed)
    assert ask("bet", 2, amount=0).told(replayed)["balance"] == 300


def test_the_order_of_the_rules() -> None:
    undone = {undone_id(uuid_of(1), ADA): Undone(undone_id(uuid_of(1), ADA))}
    book = book_of(balance=0, status="DISABLED", facts={GAME_UNDONE: undone})
    assert reason(book, ask("bet", 1, currency="EUR")) == "currency_mismatch"
    assert reason(book, ask("bet", 1)) == "account_inactive"
    book = book_of(balance=0, facts={GAME_UNDONE: undone})
    assert reason(book, ask("bet", 1)) == "resource_not_found"
    assert reason(book, ask("bet", 2)) == "insufficient_funds"
    assert reason(book, refer("win", 2, 3, currency="EUR")) == "currency_mismatch"
    sealed(book, ask("bet", 2, amount=0))
    assert reason(book, ask("bet", 2, currency="EUR", amount=5)) == "duplicate_transaction"


def test_an_earlier_transaction_is_told_by_the_journal_as_by_the_batch() -> None:
    before = book_of()
    records = {
        uuid_of(n): Booked(uuid_of(n), sealed(before, command).record)
        for n, command in (
            (1, ask("bet", 1, amount=60)),
            (2, refer("win", 2, 1, amount=9)),
            (3, ask("bet", 3, user="eve")),
        )
    }
    book = book_of(balance=49, facts={GAME_TRANSACTIONS: records})
    assert refer("win", 4, 1).told(book.decide(refer("win", 4, 1)))["balance"] == 50
    for reference in (2, 3):
        assert reason(book, refer("win", 5, reference)) == "resource_not_found"
    others = sealed(book, refer("rollback", 5, 3))
    assert (balance_in(others.record, ADA), others.writes) == (50, ())
    assert sealed(book, refer("rollback", 6, 3)).writes == ()
    rolled = sealed(book, refer("rollback", 7, 1))
    assert balance_in(rolled.record, ADA) == 110
    row = {"transaction_uuid": uuid_of(1), "account_id": ADA, "seq": rolled.record.seq}
    assert rolled.writes == ((GAME_UNDONE, row),)
    assert balance_in(sealed(book, refer("rollback", 8, 1)).record, ADA) == 110
    assert reason(book, refer("win", 9, 1)) == "resource_not_found"
    assert balance_in(sealed(book, refer("rollback", 9, 7)).record, ADA) == 110  # of a rollback: nothing
    assert balance_in(sealed(book, refer("rollback", 10, 10)).record, ADA) == 110  # of itself: nothing


@pytest.mark.parametrize("metadata", [{"a": object()}, {"a": "\ud800"}])
def test_what_cannot_be_sealed_leaves_no_mark(metadata: dict[str, Any]) -> None:
    book = book_of()
    rollback = refer("rollback", 1, 2)
    broken = [
        type(rollback)(
            id=rollback.id, scope=GAMES, key=uuid_of(1), metadata=metadata, account_id=ADA, asked=rollback.asked
        ),
        type(create_user("new", uuid_of(1)))(id=uuid_of(1), metadata=metadata, name="new", account_id=uuid_of(9)),
        type(set_user_status("ada", "DISABLED", uuid_of(1)))(
            id=uuid_of(1), metadata=metadata, name="ada", account_id=ADA, status="DISABLED"
        ),
    ]
    for command in broken:
        assert isinstance(book.decide(command), Exception)
    assert book.facts[GAME_UNDONE] == {}
    assert book.facts[GAME_USERS] == {name: GameUser(name, "ACTIVE") for name in (ADA, EVE)}
    assert set(book.accounts) == {WORLD, ADA, EVE}
    assert (book.touched, book.head) == ({}, START)
    assert sealed(book, ask("bet", 2)).record.seq == 1


def test_users_are_made_once_and_changed_in_the_order_of_the_journal() -> None:
    book = book_of()
    made = sealed(book, create_user("new", uuid_of(1)))
    account_id = game_account_id("new")
    assert [(entry.account, entry.amount) for entry in made.record.entries] == [
        (WORLD, -100_000),
        (account_id, 100_000),
    ]
    assert made.record.metadata == {"name": "new"}
    assert made.writes == ((GAME_USERS, {"account_id": account_id, "name": "new", "status": "ACTIVE", "seq": 1}),)
    assert set(book.touched) == {WORLD, account_id}
    assert reason(book, create_user("new", uuid_of(2))) == "already_processed"
    off = sealed(book, set_user_status("new", "DISABLED", uuid_of(3)))
    assert off.writes == ((GAME_USERS, {"account_id": account_id, "name": "new", "status": "DISABLED", "seq": 2}),)
    assert (off.record.entries, balance_in(off.record, account_id)) == ((), 100_000)
    assert reason(book, ask("bet", 1, user="new")) == "account_inactive"
    assert sealed(book, refer("rollback", 1, 2, user="new")).record.seq == 3
    sealed(book, set_user_status("new", "ACTIVE", uuid_of(4)))
    assert balance_in(sealed(book, ask("bet", 2 * 3, user="new")).record, account_id) == 99_999
    assert reason(book, set_user_status("new", "GONE", uuid_of(5))) == "invalid_status"
    assert reason(book, set_user_status("nobody", "ACTIVE", uuid_of(5))) == "user_not_found"
    assert reason(book, ask("bet", 9, user="nobody")) == "user_not_found"


@pytest.mark.parametrize("status", ["FROZEN", "SUSPENDED", "INACTIVE", "CLOSED"])
def test_an_account_that_is_shut_by_other_means_is_told_as_disabled(status: str) -> None:
    command = ask("bet", 1)
    assert command.told(book_of(account_status=status).decide(command))["status"] == dialect.USER_DISABLED


def test_what_the_dialect_has_no_word_for_is_unknown() -> None:
    command = refer("win", 1, 2, amount=10**15)
    book = book_of(balance=2**63 - 1)
    sealed(book, ask("bet", 2, amount=0))
    outcome = book.decide(command)
    assert isinstance(outcome, Refused)
    assert outcome.reason == "amount_exceeds_limit"
    for failed in (outcome, Refused("service_unavailable"), ZeroDivisionError()):
        assert command.told(failed) == {"user": "ada", "status": dialect.UNKNOWN, "request_uuid": uuid_of(1_001)}


def test_the_names_of_the_world_and_the_scope_are_fixed() -> None:
    migration = (Path(__file__).parents[2] / "sql" / "0003-games.sql").read_text()
    assert f"'{WORLD}', '{ASSET}', 'WORLD'" in migration
    assert world_id("USD/5") == WORLD
    assert GAMES == "ddeeb81b-b605-507d-bb4b-da43944336ef"

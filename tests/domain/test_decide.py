"""Deciding: what holds after every batch, whatever was asked for."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.book import Book, decide, fingerprint_of
from ledger.domain.commands import Command, Outcome, Replayed, Sealed
from ledger.domain.errors import Refused
from ledger.domain.journal import START, Entry, Head, Record, body_of, read_body
from tests.domain.kinds import Broken
from tests.strategies import Cast, Step, copy_of, examples, programs

INSTANT = "2026-01-02T03:04:05.678901Z"


def state_of(book: Book) -> Any:
    """All that a refusal must not change."""
    return (
        book.head,
        {key: copy_of(account) for key, account in book.accounts.items()},
        dict(book.known),
        {key: copy_of(account) for key, account in book.touched.items()},
    )


def run(cast: Cast, program: list[list[Step]], check: bool = True) -> tuple[Book, list[tuple[Command, Outcome]]]:
    """Decide a program batch by batch, each on a book made of what the one before led to."""
    accounts = {account.id: account for account in cast.everyone}
    head = START
    known: dict[tuple[str | None, str | None], Record] = {}
    done: list[tuple[Command, Outcome]] = []
    book = Book(head, INSTANT, accounts)
    for batch in program:
        book = Book(head, INSTANT, accounts, known)
        for step in batch:
            command = cast.command(step)
            before = state_of(book) if check else None
            (outcome,) = decide(book, [command])
            if check and not isinstance(outcome, Sealed):
                assert state_of(book) == before
            done.append((command, outcome))
        head, known = book.head, book.known
    return book, done


def records_of(done: list[tuple[Command, Outcome]]) -> list[Sealed]:
    """The journal that came of it."""
    return [outcome for _, outcome in done if isinstance(outcome, Sealed)]


@given(programs())
@examples(120)
def test_what_holds_after_every_batch(program: list[list[Step]]) -> None:
    cast = Cast.new()
    book, done = run(cast, program)
    assets = {account.id: account.asset for account in cast.everyone}
    balances = dict.fromkeys(assets, 0)
    versions = dict.fromkeys(assets, 0)
    worlds = {account.id for account in cast.everyone if account.is_system}
    head = START
    for sealed in records_of(done):
        record = sealed.record
        assert record.seq == head.seq + 1
        assert read_body(sealed.body) == record
        assert sealed.hash == sha256(head.hash + sealed.body).digest()
        head = Head(record.seq, sealed.hash)
        sums: dict[str, int] = {}
        for item in record.items:
            if isinstance(item, Entry):
                assert item.amount != 0
                balances[item.account] += item.amount
                versions[item.account] += 1
                sums[assets[item.account]] = sums.get(assets[item.account], 0) + item.amount
            assert (item.balance, item.version) == (balances[item.account], versions[item.account])
            assert item.available >= 0 or item.account in worlds
        assert not any(sums.values())
    assert book.head == head
    for account in book.accounts.values():
        assert (account.balance, account.version) == (balances[account.id], versions[account.id])
        assert account.is_system or account.available >= 0
        assert account.held >= 0


@given(programs())
@examples(120)
def test_a_key_names_one_record_for_ever(program: list[list[Step]]) -> None:
    _, done = run(Cast.new(), program)
    first: dict[tuple[str | None, str], tuple[Command, Record]] = {}
    for command, outcome in done:
        assert not isinstance(outcome, Exception) or isinstance(outcome, Refused), outcome
        if command.key is None:
            assert not isinstance(outcome, Replayed)
            continue
        place = (command.scope, command.key)
        if place not in first:
            assert not isinstance(outcome, Replayed)
            if isinstance(outcome, Sealed):
                first[place] = (command, outcome.record)
            continue
        original, record = first[place]
        if fingerprint_of(command) == fingerprint_of(original):
            assert isinstance(outcome, Replayed)
            assert outcome.record == record
            assert command.answer(outcome.record) == original.answer(record)
        else:
            assert isinstance(outcome, Refused)
            named = "hold_id" if record.kind == "hold" else "transfer_id"
            assert (outcome.reason, outcome.details) == ("duplicate_transaction", {named: record.id})


@given(programs(), st.lists(st.integers(1, 30), min_size=1, max_size=4))
@examples(60)
def test_how_it_is_cut_into_batches_changes_nothing(program: list[list[Step]], sizes: list[int]) -> None:
    cast = Cast.new()
    commands = [cast.command(step) for batch in program for step in batch]
    journals = []
    for many in ([len(commands)], sizes, [1]):
        accounts = {account.id: account for account in cast.everyone}
        book = Book(START, INSTANT, accounts)
        outcomes: list[Outcome] = []
        turn = 0
        while len(outcomes) < len(commands):
            start = len(outcomes)
            book = Book(book.head, INSTANT, accounts, book.known)
            outcomes += decide(book, commands[start : start + many[turn % len(many)]])
            turn += 1
        journals.append([outcome.hash for outcome in outcomes if isinstance(outcome, Sealed)])
    assert journals[0] == journals[1] == journals[2]


@given(programs(20))
@examples(40)
def test_the_account_is_looked_up_after_the_key(program: list[list[Step]]) -> None:
    """A replay succeeds even if the accounts are frozen, or gone, by now."""
    cast = Cast.new()
    book, done = run(cast, program, check=False)
    later = Book(book.head, INSTANT, {}, book.known)
    for command, outcome in done:
        if isinstance(outcome, Sealed) and command.key is not None:
            replay = later.decide(msgspec.structs.replace(command, id=cast.unknown))
            assert isinstance(replay, Replayed)
            assert replay.record == outcome.record


@given(programs(30))
@examples(40)
def test_what_breaks_leaves_no_trace_either(program: list[list[Step]]) -> None:
    cast = Cast.new()
    book, _ = run(cast, program, check=False)
    for account in book.accounts.values():
        account.status = "ACTIVE"
    poor, rich = cast.accounts[0].id, cast.everyone[-2].id
    before = state_of(book)
    outcome = book.decide(Broken(id=cast.unknown, account_id=rich, target=poor, key="k", scope=cast.scopes[0]))
    assert isinstance(outcome, (ZeroDivisionError, Refused))
    assert state_of(book) == before


def test_what_cannot_be_written_down_breaks_alone() -> None:
    """A lone surrogate that got this far fails the one command that holds it."""
    cast = Cast.new()
    book = Book(START, INSTANT, {account.id: account for account in cast.everyone})
    step = Step("credit", 0, 0, None, 5, "k", 0, "\ud800")
    bad, keyless, good = (
        cast.command(step),
        cast.command(replace(step, key=None)),
        cast.command(replace(step, description="rent")),
    )
    outcomes = decide(book, [bad, keyless, good])
    assert [type(outcome) for outcome in outcomes] == [UnicodeEncodeError, UnicodeEncodeError, Sealed]
    assert book.account(cast.accounts[0].id).version == 1


def test_the_world_may_owe_more_than_an_integer_of_the_machine_holds() -> None:
    cast = Cast.new()
    book = Book(START, INSTANT, {account.id: account for account in cast.everyone})
    outcomes = [book.decide(cast.command(Step("credit", who, 0, None, 2**63 - 1, None, 0, None))) for who in (0, 1, 2)]
    sealed = [outcome for outcome in outcomes if isinstance(outcome, Sealed)]
    assert sealed[2].record.entries[0].balance == -3 * (2**63 - 1)
    assert read_body(sealed[2].body) == sealed[2].record


def test_a_scope_goes_with_a_key() -> None:
    cast = Cast.new()
    book = Book(START, INSTANT, {account.id: account for account in cast.everyone})
    command = cast.command(Step("credit", 0, 0, None, 5, None, 0, None))
    outcome = book.decide(msgspec.structs.replace(command, scope=cast.scopes[0]))
    assert isinstance(outcome, Sealed)
    assert outcome.record.scope is None


def test_refused_accounts_are_not_touched() -> None:
    cast = Cast.new()
    book = Book(START, INSTANT, {account.id: account for account in cast.everyone})
    decide(book, [cast.command(Step(kind, 0, 1, None, 5, None, 0, None)) for kind in ("debit", "transfer", "hold")])
    assert book.touched == {}
    book.decide(cast.command(Step("credit", 0, 0, None, 5, None, 0, None)))
    assert len(book.touched) == 2


def test_bodies_do_not_depend_on_how_metadata_is_ordered() -> None:
    cast = Cast.new()
    step = Step("credit", 0, 0, None, 5, "k", 0, None)
    one, two = (
        msgspec.structs.replace(cast.command(step), id=cast.unknown, metadata=metadata)
        for metadata in ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1})
    )
    assert fingerprint_of(one) == fingerprint_of(two)
    bodies = []
    for command in (one, two):
        outcome = Book(START, INSTANT, {account.id: account for account in cast.everyone}).decide(command)
        assert isinstance(outcome, Sealed)
        assert outcome.body == body_of(outcome.record)
        bodies.append(outcome.body)
    assert bodies[0] == bodies[1]

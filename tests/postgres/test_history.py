"""The transactions of an account over a real database: as they were answered, whole, in order, and by index."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.domain.accounts import Owner
from ledger.domain.cash import Cash, Charge, Credit, Debit, Topup
from ledger.domain.commands import Command, Leg, Sealed
from ledger.domain.journal import entry_id
from ledger.domain.money import format_amount
from ledger.domain.transactions import Kind, Transaction
from ledger.services.ids import new_id
from ledger.store import history
from ledger.store.history import Page, Wanted, read_transactions
from ledger.store.pool import Pool
from tests.domain.kinds import SetStatus, Transfer
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor
from tests.strategies import examples

ALL = Wanted()
MANY = 30_000


def owner_of(house: House, who: int = 0) -> Owner:
    """One of the house's accounts."""
    account = house.cast.accounts[who]
    return Owner(account.id, None, account.asset, is_system=False)


def cash(house: House, kind: type[Cash], amount: int, description: str | None = None) -> Cash:
    """A command for the first account."""
    owner = owner_of(house)
    return kind(
        id=new_id(),
        description=description,
        account_id=owner.account_id,
        user_id=None,
        asset=owner.asset,
        amount=amount,
    )


def told_of(account_id: str, outcomes: list[Any]) -> list[Transaction]:
    """What a list must tell of what was booked, newest first."""
    found = []
    for record in [one.record for one in outcomes if isinstance(one, Sealed)]:
        for index, entry in enumerate(record.entries):
            if entry.account == account_id:
                found.append(
                    Transaction(
                        id=entry_id(record.id, index),
                        type=entry.type,
                        kind=record.kind,
                        amount=format_amount(abs(entry.amount), 2),
                        balance=format_amount(entry.balance, 2),
                        description=record.description,
                        timestamp=record.posted_at,
                        transfer_id=record.id,
                    )
                )
    return found[::-1]


async def everything(house: House, wanted: Wanted, size: int) -> list[Transaction]:
    """All pages, one after the other; none is longer than it may be."""
    told: list[Transaction] = []
    below = None
    while True:
        page = await read_transactions(house.pool, owner_of(house), wanted, below, size)
        assert len(page.transactions) <= size
        told += page.transactions
        below = page.following
        if below is None:
            return told


@on_reactor
async def test_the_list_tells_what_the_answers_told(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        commands = [
            cash(house, Topup, 1_000, 'Salary \u20ac \\u0000 "description"'),
            cash(house, Credit, 50),
            cash(house, Charge, 7, "Tea"),
            cash(house, Debit, 3, "\n"),
            cash(house, Charge, 10**6),  # refused
        ]
        outcomes = [outcome for command in commands for outcome in await house.submit(command)]
        answered: list[Any] = [
            msgspec.json.decode(command.answer(outcome.record))
            for command, outcome in zip(commands, outcomes, strict=True)
            if isinstance(outcome, Sealed)
        ]
        assert len(answered) == 4
        page = await read_transactions(house.pool, owner_of(house), ALL, None, 20)
        assert page.following is None
        listed: list[Any] = msgspec.to_builtins(page.transactions)[::-1]
        for told, answer in zip(listed, answered, strict=True):
            common = told.keys() & answer.keys()
            assert common >= {"id", "type", "amount", "balance", "timestamp", "transfer_id"}
            assert {name: told[name] for name in common} == {name: answer[name] for name in common}
        assert [(one["kind"], one["description"]) for one in listed] == [
            (command.kind, command.description) for command in commands[:4]
        ]
        assert [one["balance"] for one in listed] == ["10.00", "10.50", "10.43", "10.40"]
        assert page.transactions == told_of(owner_of(house).account_id, outcomes)
        assert (await read_transactions(house.pool, owner_of(house, 1), ALL, None, 20)) == Page([], None)


@on_reactor
async def test_records_of_every_shape(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        first, second = (account.id for account in house.cast.accounts[:2])
        there_and_back = (Leg(first, second, 5), Leg(second, first, 2), Leg(first, second, 1))
        commands: list[Command] = [
            cash(house, Topup, 100),
            Transfer(id=new_id(), legs=there_and_back, description="NUL \0 and all", metadata={"description": "no"}),
            SetStatus(id=new_id(), account_id=first, status="ACTIVE"),
            Transfer(id=new_id(), legs=there_and_back[:1], metadata={"description": "no", "long": "x" * 100_000}),
        ]
        outcomes = [outcome for command in commands for outcome in await house.submit(command)]
        told = await everything(house, ALL, 2)
        assert told == told_of(first, outcomes)
        assert [(one.type, one.amount, one.description) for one in told] == [
            ("debit", "0.05", None),
            ("debit", "0.01", "NUL \0 and all"),
            ("credit", "0.02", "NUL \0 and all"),
            ("debit", "0.05", "NUL \0 and all"),
            ("credit", "1.00", None),
        ]


kinds = st.sampled_from([Topup, Charge, Credit, Debit])
moves = st.lists(st.tuples(kinds, st.integers(1, 20), st.none() | st.sampled_from(["a", "b"])), max_size=30)


@given(
    made=moves,
    cuts=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    type=st.none() | st.sampled_from(["credit", "debit"]),
    kind=st.none() | st.sampled_from(["topup", "charge", "credit", "debit", "bet"]),
    since=st.none() | st.tuples(st.integers(0, 29), st.integers(-1, 1)),
    before=st.none() | st.tuples(st.integers(0, 29), st.integers(-1, 1)),
    size=st.integers(1, 9),
    looked_through=st.integers(1, 40),
)
@settings(examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@on_reactor
async def test_the_pages_make_the_list(
    database_url: str,
    database_server: DatabaseServer,
    monkeypatch: pytest.MonkeyPatch,
    made: list[tuple[type[Cash], int, str | None]],
    cuts: list[int],
    type: str | None,
    kind: str | None,
    since: tuple[int, int] | None,
    before: tuple[int, int] | None,
    size: int,
    looked_through: int,
) -> None:
    monkeypatch.setattr(history, "LOOKED_THROUGH", looked_through)
    async with House(database_url, database_server) as house:
        commands = [cash(house, Topup, 50), *(cash(house, *one) for one in made)]
        outcomes: list[Any] = []
        while commands:  # batches, each of one instant
            cut = cuts[len(outcomes) % len(cuts)]
            outcomes += await house.submit(*commands[:cut])
            commands = commands[cut:]
        booked = told_of(owner_of(house).account_id, outcomes)

        def instant(point: tuple[int, int] | None) -> datetime | None:
            if point is None:
                return None
            which, microseconds = point
            return datetime.fromisoformat(booked[which % len(booked)].timestamp) + timedelta(microseconds=microseconds)

        wanted = Wanted(type, kind, instant(since), instant(before))
        told = await everything(house, wanted, size)
        assert told == [one for one in booked if is_wanted(one, wanted)]


def is_wanted(one: Transaction, wanted: Wanted) -> bool:
    """Whether a list tells this transaction."""
    at = datetime.fromisoformat(one.timestamp)
    return (
        wanted.type in (None, one.type)
        and wanted.kind in (None, one.kind)
        and (wanted.since is None or at >= wanted.since)
        and (wanted.before is None or at < wanted.before)
    )


@on_reactor
async def test_going_on_neither_repeats_nor_skips_while_money_moves(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        before = await house.submit(*(cash(house, Topup, n) for n in range(1, 31)))
        told: list[Transaction] = []
        below = None
        while True:
            page = await read_transactions(house.pool, owner_of(house), Wanted(type="credit"), below, 4)
            told += page.transactions
            below = page.following
            if below is None:
                break
            await house.submit(cash(house, Topup, 1), cash(house, Charge, 1))
        assert told == told_of(owner_of(house).account_id, before)


def test_the_kinds_that_can_be_asked_for() -> None:
    assert get_args(Kind) == (
        *("credit", "debit", "topup", "charge", "transfer", "bet", "win", "rollback", "payment", "capture"),
        *("reversal", "sync"),
    )
    assert {kind.kind for kind in (Credit, Debit, Topup, Charge)} <= set(get_args(Kind))


def fill(house: House) -> str:
    """Make an account with many transactions among the many of others, without any statistics; its journal is idle."""
    account_id = house.cast.accounts[0].id
    house.sql(
        f"""SET session_replication_role = replica;
            ALTER TABLE journal SET (autovacuum_enabled = off);
            ALTER TABLE transactions SET (autovacuum_enabled = off);
            INSERT INTO journal (seq, id, kind, posted_at, effective_at, body, hash)
            SELECT n, gen_random_uuid(), CASE WHEN n % 10000 = 0 THEN 'bet' ELSE 'topup' END,
                   '2026-01-01T00:00:00Z'::timestamptz + n * interval '1 second', now(),
                   format('{{"v":1,"seq":%s,"id":"","kind":"","posted_at":"","description":"n %s"}}', n, n), sha256('')
            FROM generate_series(1, {MANY}) AS n;
            INSERT INTO transactions (id, account_id, seq, amount, type, balance, held, version, "timestamp")
            SELECT gen_random_uuid(), account_id, seq, 1, 'credit', 0, 0, seq, posted_at
            FROM journal, unnest(ARRAY['{account_id}', '{house.cast.accounts[1].id}']::uuid[]) AS account_id"""
    )
    return account_id


@pytest.mark.parametrize("analysed", [False, True])
@on_reactor
async def test_lists_are_read_by_index_and_no_further_than_they_must(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch, analysed: bool
) -> None:
    async with House(database_url, database_server) as house:
        fill(house)
        if analysed:
            house.sql("ANALYZE")
        seen: list[tuple[str, Any]] = []
        query = Pool.query

        async def spy(pool: Pool, sql: str, parameters: Any = ()) -> Any:
            seen.append((sql, parameters))
            return await query(pool, sql, parameters)

        monkeypatch.setattr(Pool, "query", spy)
        owner = owner_of(house)
        two, one = datetime.fromisoformat("2026-01-01T02:00:00Z"), timedelta(seconds=1)

        async def described(wanted: Wanted, below: int | None = None) -> tuple[list[str | None], int | None]:
            page = await read_transactions(house.pool, owner, wanted, below, 3)
            return [transaction.description for transaction in page.transactions], page.following

        assert await described(ALL) == (["n 30000", "n 29999", "n 29998"], 29_998)
        assert await described(ALL, 3) == (["n 2", "n 1"], None)
        assert await described(Wanted(before=two)) == (["n 7199", "n 7198", "n 7197"], 7197)
        assert await described(Wanted(since=two, before=two + 2 * one)) == (["n 7201", "n 7200"], None)
        assert await described(Wanted(since=two + MANY * one)) == ([], None)
        assert await described(Wanted(since=two - MANY * one, before=two - 2 * MANY * one)) == ([], None)
        assert await described(Wanted(type="credit")) == (["n 30000", "n 29999", "n 29998"], 29_998)
        assert await described(Wanted(kind="bet")) == (["n 30000", "n 20000"], 10_001)
        assert await described(Wanted(kind="bet"), 10_001) == (["n 10000"], None)
        assert await described(Wanted(type="debit")) == ([], 10_001)
        monkeypatch.undo()
        assert len(seen) == 19
        for sql, parameters in seen:
            ((explained,),) = await house.pool.query(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", parameters)
            steps = list(nodes(explained[0]["Plan"]))
            assert not {step["Node Type"] for step in steps} & {"Seq Scan", "Sort", "Hash Join", "Merge Join"}, steps
            scans = [step for step in steps if step.get("Relation Name") in ("transactions", "journal")]
            assert {step["Index Name"] for step in scans} <= {"transactions_pkey", "journal_pkey"}
            is_sought = "j.kind = %s" in sql or "t.type = %s" in sql
            most = history.LOOKED_THROUGH if is_sought else 20
            assert all(step["Actual Rows"] * step["Actual Loops"] <= most for step in scans), explained


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """All steps of a plan."""
    return [plan, *(inner for part in plan.get("Plans", ()) for inner in nodes(part))]

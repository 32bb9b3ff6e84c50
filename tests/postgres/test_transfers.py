"""Transfers and reversals over a real database: races, replays, and the lists of what was booked."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.domain.accounts import Owner, world_id
from ledger.domain.commands import Command, Leg, Outcome, Replayed, Sealed
from ledger.domain.errors import Refused
from ledger.domain.journal import Record
from ledger.domain.policy import Caller
from ledger.domain.reversals import Reverse, legs_back
from ledger.domain.transfers import Expectation, Transfer, TransferTold
from ledger.resources.endpoint import Answer, Call
from ledger.resources.reading import Reader
from ledger.resources.reversals import ReversalEndpoints, ReversalRequest
from ledger.resources.transfer_forms import TransferRequest
from ledger.resources.transfers import TransferEndpoints, TransfersQuery
from ledger.services.ids import new_id
from ledger.store import transfers as store
from ledger.store.transfers import (
    TransfersWanted,
    find_transfer,
    transfers_of_account,
    transfers_of_journal,
    transfers_under,
)
from tests.domain.kinds import SetStatus
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, refusal_of
from tests.postgres.test_core import core_of
from tests.strategies import examples

ALL = TransfersWanted()
UNKNOWN = "01900000-0000-7000-8000-ffffffffffff"


def transfer(house: House, *legs: tuple[int | None, int | None, int], **more: Any) -> Transfer:
    """A command over the house's accounts; None is their world."""
    cast = house.cast.accounts
    assets = tuple(cast[source if source is not None else target or 0].asset for source, target, _ in legs)

    def named(who: int | None, asset: str) -> str:
        return world_id(asset) if who is None else cast[who].id

    booked = tuple(
        Leg(named(source, asset), named(target, asset), amount)
        for (source, target, amount), asset in zip(legs, assets, strict=True)
    )
    return Transfer(id=new_id(), legs=booked, assets=assets, **more)


def reverse(record: Record, amount: int | None = None, **more: Any) -> Reverse:
    """A command, all of it in USD."""
    legs = legs_back(record)
    return Reverse(id=new_id(), original=record, legs=legs, assets=("USD/2",) * len(legs), amount=amount, **more)


async def booked(house: House, *commands: Command) -> list[Record]:
    """The records of commands that are all accepted."""
    outcomes = await house.submit(*commands)
    assert all(isinstance(outcome, Sealed) for outcome in outcomes), outcomes
    return records_of(outcomes)


def records_of(outcomes: Sequence[Outcome]) -> list[Record]:
    """The records of what was accepted."""
    return [outcome.record for outcome in outcomes if isinstance(outcome, Sealed)]


def reasons_of(outcomes: Sequence[Outcome]) -> list[str]:
    """Why the others were refused."""
    return [outcome.reason for outcome in outcomes if isinstance(outcome, Refused)]


async def balances(house: House) -> list[int]:
    """What is in the accounts."""
    return [(await house.state(who)).balance for who in range(len(house.cast.accounts))]


@on_reactor
async def test_five_hundred_at_once_against_a_balance_for_a_hundred(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        second = house.new_writer(type(house.store)(house.writer._reactor, house.url))
        await second.start()
        try:
            await booked(house, transfer(house, (None, 0, 700)))
            commands = [transfer(house, (0, 1 + n % 2, 7), key=f"k{n}", scope=UNKNOWN) for n in range(500)]
            answers = [(second if n % 3 else house.writer).submit(command) for n, command in enumerate(commands)]
            outcomes = await house.gather(answers)
        finally:
            await second.stop()
        assert len(records_of(outcomes)) == 100
        assert reasons_of(outcomes) == ["insufficient_funds"] * 400
        found = await balances(house)
        assert found[0] == 0
        assert sum(found) == 700
        await house.check_told_the_truth(commands, outcomes)


@on_reactor
async def test_cycles_and_rings_at_once(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server, batch=20) as house:
        await booked(house, transfer(house, (None, 0, 100)))
        around = [(0, 1, 100), (1, 2, 100), (2, 0, 100)]
        turned = [around[1:] + around[:1], around[2:] + around[:2]]
        commands = [transfer(house, *(around if n % 3 else turned[n % 2])) for n in range(90)]
        outcomes = await house.submit(*commands)
        assert (len(records_of(outcomes)), len(reasons_of(outcomes))) == (60, 30)
        assert await balances(house) == [100, 0, 0, 0]
        assert (await house.state(1)).version == 120
        await house.check_clean()


@on_reactor
async def test_many_legs_of_several_assets_are_kept_whole(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        legs: list[tuple[int | None, int | None, int]] = [(None, 0, 10), (0, 1, 4), (None, 3, 7), (1, 2, 1)]
        (record,) = await booked(house, transfer(house, *legs, (3, None, 2), metadata={"a": 1.50}, description="\n"))
        assert await balances(house) == [6, 3, 1, 5]
        assert await find_transfer(house.pool, record.id) == record
        many = [(0, 1, 1), (1, 0, 1)] * 50
        (record,) = await booked(house, transfer(house, *many))
        assert len(record.entries) == 200
        assert await find_transfer(house.pool, record.id) == record
        await house.check_clean()


@on_reactor
async def test_an_expectation_is_met_by_one_of_many(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server, batch=7) as house:
        await booked(house, transfer(house, (None, 0, 1_000)))
        version = (await house.state()).version
        expect = Expectation(house.cast.accounts[0].id, version=version)
        outcomes = await house.submit(*(transfer(house, (0, 1, 1), expect=expect) for _ in range(50)))
        assert len(records_of(outcomes)) == 1
        assert reasons_of(outcomes) == ["version_conflict"] * 49
        versions = {outcome.details["version"] for outcome in outcomes if isinstance(outcome, Refused)}
        assert versions == {version + 1}
        least = Expectation(house.cast.accounts[0].id, available_at_least=990)
        outcomes = await house.submit(*(transfer(house, (0, 1, 1), expect=least) for _ in range(50)))
        assert len(records_of(outcomes)) == 10  # from 999 down to 989
        assert reasons_of(outcomes) == ["insufficient_funds"] * 40
        assert (await balances(house))[:2] == [989, 11]


@on_reactor
async def test_an_account_may_be_expected_something_of_that_takes_no_part(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        await booked(house, transfer(house, (None, 0, 10)))
        expect = Expectation(house.cast.accounts[2].id, version=0)
        outcomes = await house.submit(
            transfer(house, (0, 1, 1), expect=expect), transfer(house, (0, 2, 1), expect=expect)
        )
        again = await house.submit(transfer(house, (0, 1, 1), expect=expect))
        assert len(records_of(outcomes)) == 2
        assert reasons_of(again) == ["version_conflict"]


@on_reactor
async def test_a_replay_is_answered_byte_for_byte(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        keyed: dict[str, Any] = {
            "scope": UNKNOWN,
            "key": "k",
            "description": 'NUL \0 and "all" \u2028',
            "metadata": {"z": [1e22, -0.0, 10**30], "a": {"\u00e9": None}},
            "expect": Expectation(house.cast.accounts[0].id, version=0),
        }
        legs: list[tuple[int | None, int | None, int]] = [(None, 0, 100), (0, 1, 60), (1, 0, 5), (None, 3, 7)]
        command = transfer(house, *legs, **keyed)
        (record,) = await booked(house, command)
        told = command.answer(record)
        await booked(
            house,
            transfer(house, (0, 1, 1)),
            SetStatus(id=new_id(), account_id=house.cast.accounts[0].id, status="FROZEN"),
        )
        again = transfer(house, *legs, most=1, **keyed)
        (outcome,) = await house.submit(again)
        assert isinstance(outcome, Replayed)
        assert again.answer(outcome.record) == told
        (outcome,) = await house.submit(transfer(house, *legs[:3], **keyed))
        assert isinstance(outcome, Refused)
        assert (outcome.reason, outcome.details) == ("duplicate_transaction", {"transfer_id": record.id})
        assert await transfers_under(house.pool, [UNKNOWN, new_id()], "k") == [record]
        assert await transfers_under(house.pool, [new_id()], "k") == []


@on_reactor
async def test_two_reversals_of_one_transfer_at_once(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        second = house.new_writer(type(house.store)(house.writer._reactor, house.url))
        await second.start()
        try:
            await booked(house, transfer(house, (None, 1, 1_000)))
            for n in range(5):
                (record,) = await booked(house, transfer(house, (1, 0, 30)))
                pair = [house.writer.submit(reverse(record)), second.submit(reverse(record, 30 if n % 2 else None))]
                outcomes = await house.gather(pair)
                assert len(records_of(outcomes)) == 1
                assert reasons_of(outcomes) == ["already_processed"]
                assert records_of(outcomes)[0].reverses == record.id
            assert (await balances(house))[:2] == [0, 1_000]
        finally:
            await second.stop()
        await house.check_clean()


@pytest.mark.parametrize("batch", [1, 9, 1_000])
@on_reactor
async def test_parts_up_to_the_whole_exactly(database_url: str, database_server: DatabaseServer, batch: int) -> None:
    async with House(database_url, database_server, batch=batch) as house:
        first, other = await booked(house, transfer(house, (None, 0, 100)), transfer(house, (None, 0, 100)))
        commands = [reverse((first, other)[n % 2], 7) for n in range(40)]
        outcomes = await house.submit(*commands)
        assert len(records_of(outcomes)) == 28  # 98 of each
        assert set(reasons_of(outcomes)) == {"already_processed"}
        assert (await balances(house))[0] == 4
        outcomes = await house.submit(reverse(first, 3), reverse(first), reverse(first), reverse(other, 2))
        assert [len(records_of([outcome])) for outcome in outcomes] == [0, 1, 0, 1]
        rows = house.sql("SELECT transfer_id::text, amount::text, seq FROM reversed_transfers ORDER BY seq")
        assert [row[:2] for row in rows] == [(first.id, "100"), (other.id, "100")]
        last = house.sql("SELECT reverses::text, max(seq) FROM journal WHERE reverses IS NOT NULL GROUP BY 1")
        assert {row[0]: row[2] for row in rows} == dict(last)
        await house.check_clean()


@on_reactor
async def test_large_legs_are_reversed(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        largest = 2**63 - 1
        (record,) = await booked(house, transfer(house, *((None, who, largest) for who in range(3))))
        (back,) = await booked(house, reverse(record))
        assert back.reverses == record.id
        assert reasons_of(await house.submit(reverse(record))) == ["already_processed"]
        assert house.sql("SELECT amount::text FROM reversed_transfers") == [(str(3 * largest),)]
        await house.check_clean()


@on_reactor
async def test_a_transfer_and_its_reversal_that_is_spent_meanwhile(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        (record,) = await booked(house, transfer(house, (None, 0, 10)))
        for _ in range(5):
            outcomes = await house.submit(transfer(house, (0, 1, 6)), reverse(record, 6))
            assert len(records_of(outcomes)) == 1
            assert len(reasons_of(outcomes)) == 1
            await house.submit(transfer(house, (1, 0, 6)), transfer(house, (None, 0, 6)))
            (record,) = await booked(house, transfer(house, (None, 2, 10), (2, 0, 10)))
            await booked(house, reverse(record))
            (record,) = await booked(house, transfer(house, (None, 0, 10)))
            await booked(house, transfer(house, (0, None, (await balances(house))[0] - 10)))
        await house.check_clean()


@on_reactor
async def test_owners_are_looked_up_once(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house, core_of(house) as core:
        ids = [account.id for account in house.cast.accounts]
        asked = [*ids[:2], UNKNOWN]
        expected = {account_id: Owner(account_id, None, "USD/2", is_system=False) for account_id in ids[:2]}
        assert await core.owners(asked) == expected
        await core._database.stop()
        assert await core.owners(ids[:2]) == expected
        assert core.owner(ids[0]) == expected[ids[0]]
        await core._database.start()
        assert set(await core.owners([*ids, world_id("USD/2")])) == {*ids, world_id("USD/2")}


async def pages(house: House, account_id: str | None, wanted: TransfersWanted, size: int, end: int = 0) -> list[Record]:
    """All pages down to a place, one after the other; none is longer than it may be."""
    told: list[Record] = []
    below = None
    while True:
        if account_id is None:
            page = await transfers_of_journal(house.pool, wanted, below, size)
        else:
            page = await transfers_of_account(house.pool, account_id, wanted, below, size)
        assert len(page.records) <= size
        told += page.records
        if page.following is None or page.following <= end:
            return told
        assert below is None or page.following < below
        below = page.following


made_up = st.lists(
    st.tuples(
        st.sampled_from(("transfer", "cycle", "credit", "reversal", "status")),
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(1, 9),
    ),
    max_size=25,
)


@given(
    made=made_up,
    cuts=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    kind=st.none() | st.sampled_from(["transfer", "reversal", "credit", "bet"]),
    since=st.none() | st.tuples(st.integers(0, 24), st.integers(-1, 1)),
    before=st.none() | st.tuples(st.integers(0, 24), st.integers(-1, 1)),
    size=st.integers(1, 7),
    looked_through=st.integers(1, 30),
    bytes_told=st.integers(1, 4_000),
)
@settings(examples(20), suppress_health_check=[HealthCheck.function_scoped_fixture])
@on_reactor
async def test_the_pages_make_the_list(
    database_url: str,
    database_server: DatabaseServer,
    monkeypatch: pytest.MonkeyPatch,
    made: list[tuple[str, int, int, int]],
    cuts: list[int],
    kind: str | None,
    since: tuple[int, int] | None,
    before: tuple[int, int] | None,
    size: int,
    looked_through: int,
    bytes_told: int,
) -> None:
    monkeypatch.setattr(store, "LOOKED_THROUGH", looked_through)
    monkeypatch.setattr(store, "_MOST", bytes_told)
    async with House(database_url, database_server) as house:
        records: list[Record] = await booked(house, transfer(house, (None, 0, 90), (0, 1, 30), (0, 2, 30)))
        turn = 0
        while made:  # batches, each of one instant
            many = cuts[turn % len(cuts)]
            part, made = made[:many], made[many:]
            commands: list[Command] = []
            for name, first, second, amount in part:
                if name == "credit":
                    commands.append(house.credit(first, amount))
                elif name == "reversal":
                    commands.append(reverse(records[amount % len(records)], None))
                elif name == "status":
                    account_id = house.cast.accounts[first].id
                    more: dict[str, Any] = {"metadata": {"entries": [[1]]}}
                    commands.append(SetStatus(id=new_id(), account_id=account_id, status="ACTIVE", **more))
                elif first != second:
                    there = [(first, second, amount)]
                    commands.append(transfer(house, *there, *([(second, first, 1)] if name == "cycle" else [])))
            records += records_of(await house.submit(*commands))
            turn += 1
        records = sorted((record for record in records if record.entries), key=lambda record: record.seq)

        def moment(given: tuple[int, int] | None) -> datetime | None:
            if given is None:
                return None
            place, offset = given
            return datetime.fromisoformat(records[place % len(records)].posted_at) + timedelta(microseconds=offset)

        wanted = TransfersWanted(kind, moment(since), moment(before))
        expected = [
            record
            for record in records[::-1]
            if (kind is None or record.kind == kind)
            and (wanted.since is None or datetime.fromisoformat(record.posted_at) >= wanted.since)
            and (wanted.before is None or datetime.fromisoformat(record.posted_at) < wanted.before)
        ]
        before_all = records[0].seq - 1  # other programs have been here
        told = await pages(house, None, wanted, size, before_all)
        assert [one for one in told if one.seq > before_all] == expected
        for account in house.cast.accounts:
            told = await pages(house, account.id, wanted, size)
            assert told == [one for one in expected if account.id in {entry.account for entry in one.entries}]


@on_reactor
async def test_what_moved_nothing_is_no_transfer(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        account_id = house.cast.accounts[0].id
        command = SetStatus(id=new_id(), account_id=account_id, status="ACTIVE", key="k", scope=UNKNOWN)
        (record,) = await booked(house, command)
        assert await find_transfer(house.pool, record.id) is None
        assert await find_transfer(house.pool, UNKNOWN) is None
        assert await transfers_under(house.pool, [UNKNOWN], "k") == []
        assert (await transfers_of_journal(house.pool, ALL, None, 20)).records == []
        assert (await transfers_of_account(house.pool, account_id, ALL, None, 20)).records == []


@on_reactor
async def test_a_page_of_large_records_is_cut(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        large = {"long": "x" * 400_000}
        for _ in range(5):
            await booked(house, transfer(house, (None, 0, 1), metadata=large))
        page = await transfers_of_account(house.pool, house.cast.accounts[0].id, ALL, None, 20)
        assert (len(page.records), page.following) == (3, 3)
        page = await transfers_of_journal(house.pool, ALL, page.records[-1].seq, 20)
        assert (len(page.records), page.following) == (2, None)


@on_reactor
async def test_through_the_core(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house, core_of(house) as core:
        record, second = await booked(
            house, transfer(house, (None, 0, 5), key="k", scope=UNKNOWN), transfer(house, (0, 1, 5))
        )
        assert await core.transfers.find(record.id) == record
        assert await core.transfers.under([UNKNOWN], "k") == [record]
        assert (await core.transfers.page(None, ALL, None, 1)).records == [second]
        assert (await core.transfers.page(house.cast.accounts[1].id, ALL, None, 9)).records == [second]
        with pytest.raises(Refused) as refused:
            await core.transfers.find(UNKNOWN)
        assert refused.value.reason == "transfer_not_found"


@on_reactor
async def test_through_the_endpoints(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house, core_of(house) as core:
        first, second = (account.id for account in house.cast.accounts[:2])
        await booked(house, transfer(house, (None, 0, 10_000)))
        making, reversing = TransferEndpoints(core), ReversalEndpoints(core)
        mine, theirs = (Caller("account", account_id) for account_id in (first, second))
        text = '{"from": "%s", "to":  "%s" , "amount":  "12.50" , "expect": {"account_id": "%s", "version": 1}}'
        body = Reader(TransferRequest).body((text % (first.upper(), second, first)).encode())

        async def asked(work: Any, caller: Caller, body: Any, query: Any = None, **params: str) -> Answer:
            answer: Answer = await work(caller, Call(body, query, params, None if body is None else "k", "c"))
            return answer

        answers = [await asked(making.make, mine, body) for _ in range(2)]
        assert [answer.replayed for answer in answers] == [False, True]
        assert bytes(answers[0].data) == bytes(answers[1].data)
        made = msgspec.json.decode(answers[0].data, type=TransferTold)
        assert [(one.account_id, one.balance, one.version) for one in made.balances] == [(first, "87.50", 2)]
        part = ReversalRequest(amount=msgspec.Raw(b"2.5"))
        back = msgspec.json.decode((await asked(reversing.reverse, theirs, part, id=made.id)).data, type=TransferTold)
        assert (back.reverses, [leg.amount for leg in back.legs]) == (made.id, ["2.50"])
        assert (await asked(making.read, mine, None, id=made.id)).data == made
        listed = await asked(making.page, mine, None, TransfersQuery(limit=2))
        assert [one.id for one in listed.data] == [back.id, made.id]
        assert listed.metadata.pagination.has_more
        found = await asked(making.page, mine, None, TransfersQuery(idempotency_key="k"))
        assert found.data == [made]
        refused = await refusal_of(asked(making.read, Caller("account", house.cast.accounts[2].id), None, id=made.id))
        assert refused.reason == "unauthorized_access"
        await house.check_clean()

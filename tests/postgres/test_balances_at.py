"""Balances at an instant over a real database: whatever was backdated, what a naive list adds up to."""

from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import HealthCheck, given, settings

from ledger.domain.accounts import world_id
from ledger.domain.commands import Sealed
from ledger.domain.errors import Refused
from ledger.domain.periods import ClosePeriod
from ledger.services.ids import new_id
from ledger.store.balances import BalanceAt, read_balance_at
from ledger.store.journal import JournalWriter
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, reactor, refusal_of
from tests.postgres.past import LONG_AGO, Move, Past, batches, shifted
from tests.strategies import DOLLAR, examples


def instant(text: str) -> datetime:
    """The instant that a text stands for."""
    return datetime.fromisoformat(text)


@given(made=batches)
@settings(examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@on_reactor
async def test_a_balance_is_what_counted_by_then_of_what_was_known(
    database_url: str, database_server: DatabaseServer, made: list[list[Move]]
) -> None:
    async with House(database_url, database_server) as house:
        past = Past(house)
        for batch in made:
            await past.book(batch)
        entries = past.entries()
        points = past.points()
        for at in points[::2]:
            for known_at in points[::3]:
                found = await read_balance_at(house.pool, past.first, instant(at), instant(known_at))
                expected = sum(one.amount for one in entries if one.effective_at <= at and one.posted_at <= known_at)
                assert found == BalanceAt(expected, at, known_at)
            latest = await read_balance_at(house.pool, past.first, instant(at), None)
            assert latest.balance == sum(one.amount for one in entries if one.effective_at <= at)
        for known_at in points:
            found = await read_balance_at(house.pool, past.first, None, instant(known_at))
            assert found.balance == sum(one.amount for one in entries if one.posted_at <= known_at)
        now = await read_balance_at(house.pool, past.first, None, None)
        assert now.balance == (await house.state()).balance == sum(one.amount for one in entries)
        assert now.at == now.known_at
        await house.check_clean()


@on_reactor
async def test_what_is_to_come_and_what_never_was(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        past = Past(house)
        await past.book([Move(0, 1, 500, None, None), Move(0, 1, 70, None, (0, 0))])
        tomorrow = datetime.now().astimezone() + timedelta(days=1)
        for field, asked in (("at", (tomorrow, None)), ("known_at", (None, tomorrow)), ("at", (tomorrow, tomorrow))):
            refused = await refusal_of(read_balance_at(house.pool, past.first, *asked))
            assert (refused.reason, refused.details) == ("invalid_datetime_format", {"field": field})
        at = instant(LONG_AGO)
        assert (await read_balance_at(house.pool, past.first, at, None)).balance == 70
        assert (await read_balance_at(house.pool, past.first, at - timedelta(microseconds=1), None)).balance == 0
        assert (await read_balance_at(house.pool, past.first, at, at)).balance == 0
        assert (await read_balance_at(house.pool, world_id(DOLLAR), at, None)).balance == -70
        assert (await read_balance_at(house.pool, past.second, None, None)).balance == 0
        nobody = await read_balance_at(house.pool, new_id(), at, None)
        assert nobody.balance == 0
        # A clock that was set back: what is booked already is never in the future.
        ahead = past.instants[-1].replace("20", "30", 1)
        house.sql(
            """SET session_replication_role = replica;
               UPDATE journal SET posted_at = %s; UPDATE transactions SET "timestamp" = %s""",
            ahead,
            ahead,
        )
        assert (await read_balance_at(house.pool, past.first, instant(ahead), None)).balance == 570
        refused = await refusal_of(read_balance_at(house.pool, past.first, instant(shifted(ahead, 1)), None))
        assert refused.reason == "invalid_datetime_format"


@on_reactor
async def test_a_closed_period_stays_as_it_is(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        past = Past(house)
        await past.book([Move(0, 1, 500, None, None)])
        until = past.instants[-1]
        dates = [past.transfer(Move(0, 1, 9, None, (-1, shift))) for shift in (-1, -1, 0, 1)]
        (in_time,) = await house.submit(dates[0])
        (closed,) = await house.submit(ClosePeriod(id=new_id(), until=until))
        assert isinstance(in_time, Sealed)
        assert isinstance(closed, Sealed)
        other = house.new_writer(JournalWriter(reactor, database_url))
        await other.start()
        outcomes = await house.gather([other.submit(command) for command in dates[1:]])
        await other.stop()
        assert [isinstance(outcome, Sealed) for outcome in outcomes] == [False, True, True]
        assert isinstance(outcomes[0], Refused)
        assert (outcomes[0].reason, outcomes[0].details["until"]) == ("period_closed", until)
        assert house.sql("SELECT until, seq FROM closed_periods") == [(instant(until), 3)]
        (late,) = await house.submit(past.transfer(Move(0, 1, 9, None, (0, 0))))
        assert isinstance(late, Refused)
        assert late.reason == "period_closed"
        (again,) = await house.submit(ClosePeriod(id=new_id(), until=until))
        assert isinstance(again, Refused)
        assert again.reason == "already_processed"
        (onwards,) = await house.submit(ClosePeriod(id=new_id(), until=shifted(until, 1)))
        assert isinstance(onwards, Sealed)
        assert (await read_balance_at(house.pool, past.first, instant(shifted(until, -1)), None)).balance == 9
        await house.check_clean()

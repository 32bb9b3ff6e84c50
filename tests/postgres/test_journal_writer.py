"""The journal on a real server: decided as the reference says, kept as it was decided, across restarts and writers."""

from __future__ import annotations

from typing import Any

import msgspec
import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings

from ledger.domain.accounts import world_id
from ledger.domain.book import decide
from ledger.domain.commands import Replayed, Sealed
from ledger.domain.deletion import DELETED_USERS
from ledger.domain.errors import ConfigurationError, Refused
from ledger.domain.holds import CaptureHold
from ledger.domain.journal import body_of, read_body, seal
from ledger.store import facts, writes
from ledger.store.accounts import read_state
from ledger.store.facts import FactSource
from ledger.store.journal import JournalWriter
from ledger.store.reader import JournalReader
from tests.domain.kinds import TICKETS, BuyTicket, Hold, Scribble, SetLimit, SetStatus, Ticket
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, reactor
from tests.reference import Reference, seen, told
from tests.strategies import DOLLAR, EURO, HUGE, Step, examples, programs


@given(program=programs(40))
@settings(examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@on_reactor
async def test_the_writer_and_the_reference_agree(
    database_url: str, database_server: DatabaseServer, program: list[list[Step]]
) -> None:
    async with House(database_url, database_server) as house:
        worlds = [(await read_state(house.pool, world_id(asset)) or [None])[0] for asset in (DOLLAR, EURO)]
        accounts = [*house.cast.accounts, *(world for world in worlds if world is not None)]
        first = len(house.kept()) + 1
        reference = Reference(accounts, first)
        for batch in program:
            commands = [house.cast.command(step) for step in batch]
            # Straight to the store, as lanes may put commands of different accounts in another order.
            book = await house.store.read_facts(commands)
            outcomes = decide(book, commands)
            sealed = [outcome for outcome in outcomes if isinstance(outcome, Sealed)]
            await (house.store.append(book, sealed) if sealed else house.store.roll_back())
            assert [told(outcome) for outcome in outcomes] == [reference.apply(command) for command in commands]
        for account in accounts:
            state = await read_state(house.pool, account.id)
            assert state is not None
            assert seen(state[0]) == reference.accounts[account.id]
        assert len(house.kept()) == reference.next - 1
        await house.check_clean()


@on_reactor
async def test_a_record_is_kept_as_it_was_decided(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        commands = [house.credit(0, 5_000, key="k", kind="credit"), house.credit(0, 1_250, kind="debit")]
        outcomes = await house.submit(*commands)
        sealed = [outcome for outcome in outcomes if isinstance(outcome, Sealed)]
        rows = house.sql(
            """SELECT seq, id::text, kind, scope::text, key, body, hash, posted_at = effective_at FROM journal
               ORDER BY seq"""
        )
        assert [tuple(row[:4]) for row in rows] == [
            (1, commands[0].id, "credit", house.cast.scopes[0]),
            (2, commands[1].id, "debit", None),
        ]
        assert [row[4] for row in rows] == ["k", None]
        assert [row[5].encode() for row in rows] == [one.body for one in sealed]
        assert [bytes(row[6]) for row in rows] == [one.hash for one in sealed]
        assert seal(bytes(rows[0][6]), rows[1][5].encode()) == bytes(rows[1][6])
        assert all(row[7] for row in rows)
        entries = house.sql(
            """SELECT type, amount, balance, version, "timestamp" = posted_at
               FROM transactions JOIN journal USING (seq) WHERE account_id = %s ORDER BY version""",
            house.cast.accounts[0].id,
        )
        assert entries == [("credit", 5_000, 5_000, 1, True), ("debit", 1_250, 3_750, 2, True)]
        state = await house.state()
        assert (state.balance, state.version) == (3_750, 2)
        committed = await JournalReader(house.pool).after(0, 10)
        assert [one.record for one in committed] == [one.record for one in sealed]
        assert committed[0].owners[house.cast.accounts[0].id].asset == "USD/2"
        await house.check_clean()


@on_reactor
async def test_what_few_records_say_is_kept_with_those(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        commands = [house.credit(number % 3, 10, key=f"{number}" if number % 2 else None) for number in range(6)]
        book = await house.store.read_facts(commands)
        kept: list[Sealed] = []
        digest = book.head.hash
        for number, one in enumerate(decide(book, commands)):
            assert isinstance(one, Sealed)
            record = one.record
            if number in (2, 5):
                record = msgspec.structs.replace(record, effective_at="2020-01-01T00:00:00.000000Z")
            if number in (1, 2):
                record = msgspec.structs.replace(record, reverses=commands[0].id, kind="reversal")
            body = body_of(record)
            digest = seal(digest, body)
            kept.append(Sealed(record, body, digest))
        await house.store.append_part(book, kept[:2])
        await house.store.append(book, kept[2:])
        rows = house.sql("SELECT kind, reverses::text, key, effective_at = posted_at FROM journal ORDER BY seq")
        first = commands[0].id
        assert rows == [
            ("credit", None, None, True),
            ("reversal", first, "1", True),
            ("reversal", first, None, False),
            ("credit", None, "3", True),
            ("credit", None, None, True),
            ("credit", None, "5", False),
        ]


@on_reactor
async def test_a_key_outlives_the_process(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        first = house.credit(key="k" * 255)
        (original,) = await house.submit(first)
        await house.writer.stop()
        house.writer = house.new_writer(JournalWriter(reactor, house.url))
        await house.writer.start()
        replay = msgspec.structs.replace(first, id=house.cast.unknown)
        changed = msgspec.structs.replace(replay, amount=1)
        elsewhere = msgspec.structs.replace(replay, scope=house.cast.scopes[1])
        outcomes = await house.submit(replay, changed, elsewhere)
        assert isinstance(original, Sealed)
        assert isinstance(outcomes[0], Replayed)
        assert outcomes[0].record == original.record
        assert replay.answer(outcomes[0].record) == first.answer(original.record)
        assert isinstance(outcomes[1], Refused)
        assert outcomes[1].details == {"transfer_id": first.id}
        assert isinstance(outcomes[2], Sealed)


@on_reactor
async def test_one_bad_command_stands_alone(database_url: str, database_server: DatabaseServer) -> None:
    """What the database cannot take, for whatever reason, fails its own command and no other."""
    async with House(database_url, database_server) as house:
        good = [house.credit(number % 3, key=f"{number}") for number in range(60)]
        bad = [
            msgspec.structs.replace(house.credit(key="x"), scope=None),
            msgspec.structs.replace(house.credit(key="x"), scope="no uuid"),
            msgspec.structs.replace(house.credit(), id=good[0].id),
            msgspec.structs.replace(house.credit(), account_id="\ud800"),
            msgspec.structs.replace(house.credit(), account_id="\0"),
        ]
        outcomes = await house.submit(*good[:30], *bad, *good[30:])
        told_good = outcomes[:30] + outcomes[35:]
        assert all(isinstance(outcome, Sealed) for outcome in told_good)
        assert all(isinstance(outcome, Exception) for outcome in outcomes[30:35])
        refused = [outcome.reason for outcome in outcomes[30:35] if isinstance(outcome, Refused)]
        assert refused.count("database_error") == len(refused) >= 4
        assert len(house.kept()) == 60
        await house.check_clean()


@on_reactor
async def test_text_comes_back_as_it_went(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        texts = ["\n", "\\n", "%s %(id)s", "{a,b}", "'; --", "\u2028", "😀", "\0", 'a"b', "\t\r", "$1", "NULL"]
        commands = [msgspec.structs.replace(house.credit(key=f"a b'{n}\\"), description=t) for n, t in enumerate(texts)]
        commands.append(msgspec.structs.replace(house.credit(), metadata={"é\n": [None, {"\0": "\\u0000"}]}))
        outcomes = await house.submit(*commands)
        assert all(isinstance(outcome, Sealed) for outcome in outcomes)
        bodies = house.sql("SELECT body FROM journal ORDER BY seq")
        assert [read_body(body).description for (body,) in bodies] == [*texts, None]
        assert read_body(bodies[-1][0]).metadata == {"é\n": [None, {"\0": "\\u0000"}]}
        replays = await house.submit(*[msgspec.structs.replace(c, id=house.cast.unknown) for c in commands[:-1]])
        assert [outcome.record for outcome in replays if isinstance(outcome, Replayed)] == [
            outcome.record for outcome in outcomes[:-1] if isinstance(outcome, Sealed)
        ]
        await house.check_clean()


@on_reactor
async def test_the_world_owes_without_bound(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        commands = [house.credit(who, HUGE) for who in (0, 1, 2)]
        assert all(isinstance(outcome, Sealed) for outcome in await house.submit(*commands))
        (more,) = await house.submit(house.credit(0, 1))
        assert isinstance(more, Refused)
        ((balance,),) = house.sql("SELECT balance FROM accounts WHERE id = %s", world_id("USD/2"))
        assert balance == -3 * HUGE
        await house.check_clean()


@on_reactor
async def test_two_writers_take_turns(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server, batch=20) as house:
        other = house.new_writer(JournalWriter(reactor, house.url))
        await other.start()
        # Every key is sent to both, so that each is posted by one and replayed by the other, in whatever order.
        commands = [house.credit(number % 3, 1 + number, key=f"{number}") for number in range(300)]
        twins = [msgspec.structs.replace(command, id=house.credit().id) for command in reversed(commands)]
        answers = house.send(*commands) + [other.submit(command) for command in twins]
        outcomes = await house.gather(answers)
        await other.stop()
        assert sum(isinstance(outcome, Sealed) for outcome in outcomes) == 300
        assert sum(isinstance(outcome, Replayed) for outcome in outcomes) == 300
        pairs = zip(outcomes[:300], reversed(outcomes[300:]), strict=True)
        assert all(one.record == two.record for one, two in pairs)  # type: ignore[union-attr]
        assert len(house.kept()) == 300
        totals = [(await house.state(who)).balance for who in (0, 1, 2)]
        assert totals == [sum(1 + number for number in range(who, 300, 3)) for who in (0, 1, 2)]
        instants = [instant for (instant,) in house.sql("SELECT posted_at FROM journal ORDER BY seq")]
        assert instants == sorted(instants)
        await house.check_clean()


@on_reactor
async def test_the_clock_never_goes_back(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        await house.submit(house.credit())
        house.sql("SET session_replication_role = replica; UPDATE journal SET posted_at = now() + interval '1 day'")
        await house.submit(house.credit())
        rows = house.sql("SELECT posted_at > now() + interval '23 hours' FROM journal")
        assert rows == [(True,), (True,)]


@on_reactor
async def test_changes_of_accounts_are_kept(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        one, two = house.cast.accounts[0].id, house.cast.accounts[1].id
        names = iter(house.credit().id for _ in range(9))
        hold = Hold(id=next(names), account_id=one, amount=700)
        capture = CaptureHold(id=next(names), account_id=one, asset="USD/2", hold_id=hold.id, amount=700, target=two)
        outcomes = await house.submit(
            house.credit(0, 500),
            SetLimit(id=next(names), account_id=one, credit_limit=300),
            hold,
            SetStatus(id=next(names), account_id=two, status="CLOSED"),
        )
        assert all(isinstance(outcome, Sealed) for outcome in outcomes)
        state = await house.state(0)
        assert (state.balance, state.held, state.credit_limit, state.available) == (500, 700, 300, 100)
        assert (await house.state(1)).status == "CLOSED"
        refused = await house.submit(
            house.credit(0, 101, kind="debit"),
            capture,
            house.credit(1, 1),
        )
        assert [outcome.reason for outcome in refused if isinstance(outcome, Refused)] == [
            "insufficient_funds",
            "account_inactive",
            "account_inactive",
        ]
        await house.submit(SetStatus(id=next(names), account_id=two, status="ACTIVE"))
        (captured,) = await house.submit(capture)
        assert isinstance(captured, Sealed)
        state = await house.state(0)
        assert (state.balance, state.held, state.available) == (-200, 0, 100)
        await house.check_clean()


@on_reactor
async def test_a_kind_brings_its_facts_and_its_rows(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        facts.SOURCES,
        TICKETS,
        FactSource(
            """SELECT json_agg(json_build_array(t.id, t.account_id, t.price))::text
               FROM unnest(%(keys)s::text[]) AS keys (id) JOIN tickets AS t ON t.id = keys.id""",
            msgspec.json.Decoder(list[Ticket]).decode,
        ),
    )
    monkeypatch.setitem(
        writes.STATEMENTS,
        TICKETS,
        """INSERT INTO tickets (id, account_id)
           SELECT id, account_id FROM json_to_recordset(%(rows)s::json) AS fresh (id text, account_id uuid)""",
    )
    house = House(database_url, database_server)
    house.sql(
        """CREATE TABLE tickets (id text PRIMARY KEY, account_id uuid, price int NOT NULL DEFAULT 30);
           GRANT ALL ON tickets TO PUBLIC"""
    )
    async with house:
        one, two = house.cast.accounts[0].id, house.cast.accounts[1].id

        def buy(ticket: str, who: str) -> BuyTicket:
            seller = two if who == one else one
            return BuyTicket(id=house.credit().id, account_id=who, ticket=ticket, seller=seller, price=30)

        await house.submit(house.credit(0), house.credit(1))
        first = await house.submit(buy("a", one), buy("b", two), buy("a", two), house.credit(2))
        assert [type(outcome) for outcome in first] == [Sealed, Sealed, Refused, Sealed]
        second = await house.submit(buy("a", two), buy("c", two))
        assert [type(outcome) for outcome in second] == [Refused, Sealed]
        assert isinstance(second[0], Refused)
        assert second[0].details["owner"] == one
        rows = house.sql("SELECT id, account_id::text FROM tickets ORDER BY id")
        assert rows == [("a", one), ("b", two), ("c", two)]
        await house.check_clean()


@on_reactor
async def test_a_kind_that_writes_what_cannot_be_written_harms_nobody_else(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        one = house.cast.accounts[0].id
        broken = [
            Scribble(id=house.credit().id, account_id=one, writes=writes)
            for writes in ((("nowhere", {}),), ((DELETED_USERS, object()),))
        ]
        outcomes = await house.submit(house.credit(0), broken[0], house.credit(1), broken[1], house.credit(2))
        assert [type(outcome) for outcome in outcomes] == [Sealed, Refused, Sealed, Refused, Sealed]
        assert {outcome.reason for outcome in outcomes if isinstance(outcome, Refused)} == {"database_error"}
        await house.check_clean()


@on_reactor
async def test_it_does_not_write_where_a_commit_would_not_last(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = psycopg2.connect(database_url)
    connection.close()
    store = JournalWriter(reactor, database_url)

    async def run(*_: object) -> Any:
        return [("off", "on", False)]

    await store.open()
    store.close()
    monkeypatch.setattr("ledger.store.postgres.Session.run", run)
    with pytest.raises(ConfigurationError, match="fsync"):
        await store.open()
    store.close()
    assert database_server.execute("SHOW fsync") == [("on",)]


@on_reactor
async def test_its_session_is_set_up(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        wanted = {
            "synchronous_commit": "on",
            "idle_in_transaction_session_timeout": "5s",
            "application_name": "ledger",
            "tcp_keepalives_idle": "0",  # a unix socket has none
        }
        for name, value in wanted.items():
            assert await house.store.session.run("SELECT current_setting(%s)", (name,)) == [(value,)]

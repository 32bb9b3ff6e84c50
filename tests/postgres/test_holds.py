"""Holds on a real database: the last cent goes once, and what is over counts nowhere, swept or not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import pytest
from twisted.internet.defer import Deferred

from ledger.domain.account_commands import AmendAccount, account_view
from ledger.domain.accounts import Account, Owner, world_id
from ledger.domain.cash import Credit, Debit
from ledger.domain.commands import Command, Leg, Outcome, Replayed, Sealed
from ledger.domain.deletion import DeleteUser
from ledger.domain.errors import Refused, unavailable
from ledger.domain.events import updates_of
from ledger.domain.game_dialect import read_transaction
from ledger.domain.game_users import create_user, game_account_id
from ledger.domain.games import command_of
from ledger.domain.held import Hold, HoldStatus
from ledger.domain.holds import IN_ONE_RECORD, CaptureHold, ExpireHolds, OpenHold, VoidHold
from ledger.domain.transfers import Transfer
from ledger.pubsub.event import Event
from ledger.pubsub.feed import Feed
from ledger.pubsub.hub import Hub
from ledger.services.hold_sweeper import HoldSweeper
from ledger.services.ids import new_id
from ledger.services.writer import Writer
from ledger.store import holds as store
from ledger.store.accounts import find_owner, open_account, read_state
from ledger.store.holds import KeptHold, accounts_with_due_holds, find_hold, read_holds
from ledger.store.journal import JournalWriter
from ledger.store.pool import Pool
from ledger.store.postgres import Session
from ledger.store.reader import JournalReader
from ledger.store.wallets import find_wallet
from tests.domain.kinds import SetLimit, SetStatus
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, outcome_of, pause, reactor, until
from tests.postgres.test_plans import fill, plan

WORLD = world_id("USD/2")
MANY = 1_000
SOON = 1  # second
A_WHILE = 3  # seconds: so much must do for what comes before the end, on a machine that has other things to do


def hold(account: str, amount: int, expires_in: int | None = None, asset: str = "USD/2", **more: Any) -> OpenHold:
    """The command."""
    return OpenHold(id=new_id(), account_id=account, asset=asset, amount=amount, expires_in=expires_in, **more)


def capture(account: str, hold_id: str, amount: int, target: str = WORLD, **more: Any) -> CaptureHold:
    """The command."""
    return CaptureHold(
        id=new_id(), account_id=account, asset="USD/2", hold_id=hold_id, amount=amount, target=target, **more
    )


def void(account: str, hold_id: str) -> VoidHold:
    """The command."""
    return VoidHold(id=new_id(), account_id=account, asset="USD/2", hold_id=hold_id)


def debit(account: str, amount: int) -> Debit:
    """The command."""
    return Debit(id=new_id(), account_id=account, user_id=None, asset="USD/2", amount=amount)


def credit(account: str, amount: int) -> Credit:
    """The command."""
    return Credit(id=new_id(), account_id=account, user_id=None, asset="USD/2", amount=amount)


async def done(house: House, *commands: Command) -> list[Sealed]:
    """What commands came to, all of which must be accepted."""
    outcomes = await house.submit(*commands)
    assert all(isinstance(outcome, Sealed) for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, Sealed)]


async def one(house: House, command: Command) -> Outcome:
    """What one command came to."""
    (outcome,) = await house.submit(command)
    return outcome


async def accounts(house: House, many: int, balance: int, account_type: str = "CHECKING") -> list[str]:
    """Open accounts with something in them."""
    ids = [new_id() for _ in range(many)]

    async def work(session: Session) -> None:
        for account_id in ids:
            await open_account(session, Owner(account_id, None, "USD/2", False), account_type)

    await house.pool.transact(work)
    await done(house, *(credit(account_id, balance) for account_id in ids if balance))
    return ids


async def state_of(house: House, account_id: str) -> Account:
    """An account as it is read."""
    found = await read_state(house.pool, account_id)
    assert found is not None
    return found[0]


async def kept(house: House, hold_id: str) -> KeptHold:
    """A hold as it is read."""
    found = await find_hold(house.pool, hold_id)
    assert found is not None
    return found


async def until_over(house: House, hold_ids: Sequence[str], seconds: float = 20.0) -> None:
    """Wait until the time of holds is up, by the database's clock."""
    deadline = reactor.seconds() + seconds
    query = "SELECT bool_and(expires_at <= clock_timestamp()) FROM holds WHERE id = ANY (%s::uuid[])"
    while not house.sql(query, list(hold_ids))[0][0]:
        assert reactor.seconds() < deadline, "they did not end in time"
        await pause(0.05)


def written(house: House) -> list[tuple[str, str]]:
    """What is written of all holds."""
    return [(str(hold_id), str(status)) for hold_id, status in house.sql("SELECT id, status FROM holds ORDER BY id")]


def expiries(house: House) -> list[list[str]]:
    """The holds that each record of their end names."""
    rows = house.sql("SELECT body FROM journal WHERE kind = 'expiry' ORDER BY seq")
    return [json.loads(body)["metadata"]["holds"] for (body,) in rows]


@on_reactor
async def test_from_open_to_captured_or_voided(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        mine, other = await accounts(house, 2, 100)
        opening = hold(mine, 60, 3600, description="room 7", scope=house.cast.scopes[0], key="open")
        (opened,) = await done(house, opening)
        state = await state_of(house, mine)
        assert (state.balance, state.held, state.available) == (100, 60, 40)
        told = json.loads(opening.answer(opened.record))
        assert await kept(house, opening.id) == KeptHold(
            Hold(opening.id, mine, 60, 0, "open", told["expires_at"], opened.record.posted_at, "room 7"), None
        )
        capturing = capture(mine, opening.id, 25, other, scope=house.cast.scopes[0], key="capture")
        (captured,) = await done(house, capturing)
        assert await kept(house, opening.id) == KeptHold(
            Hold(opening.id, mine, 60, 25, "captured", told["expires_at"], opened.record.posted_at, "room 7"),
            captured.record.id,
        )
        assert [(await state_of(house, account)).available for account in (mine, other)] == [75, 125]
        for command, first in ((opening, opened), (capturing, captured)):
            replayed = await one(house, command)
            assert isinstance(replayed, Replayed)
            assert command.answer(replayed.record) == command.answer(first.record)
        second = hold(mine, 75)
        await done(house, second)
        await done(house, void(mine, second.id))
        found = await kept(house, second.id)
        assert (found.hold.status, found.hold.expires_at, found.transfer_id) == ("voided", None, None)
        for late in (void(mine, second.id), capture(mine, opening.id, 1), void(mine, str(uuid4()))):
            assert isinstance(await one(house, late), Refused)
        assert await find_hold(house.pool, str(uuid4())) is None
        assert (await state_of(house, mine)).available == 75
        await house.check_clean()


@on_reactor
async def test_a_hold_that_is_ended_in_the_batch_that_opened_it(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        (mine,) = await accounts(house, 1, 10)
        first, second = hold(mine, 4), hold(mine, 5)
        await done(house, first, capture(mine, first.id, 3), second, void(mine, second.id))
        assert written(house) == [(first.id, "captured"), (second.id, "voided")]
        state = await state_of(house, mine)
        assert (state.balance, state.held) == (7, 0)
        await house.check_clean()


@on_reactor
async def test_the_last_cent_is_held_once(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        writers = [house.writer, house.new_writer(JournalWriter(reactor, house.url))]
        await writers[1].start()
        try:
            raced = await accounts(house, 20, 1)
            answers: list[Deferred[Any]] = []
            for account_id in raced:
                answers += (writer.submit(hold(account_id, 1)) for writer in writers)
            outcomes = await house.gather(answers)
            for first, second in zip(outcomes[::2], outcomes[1::2], strict=True):
                (won,) = [outcome for outcome in (first, second) if isinstance(outcome, Sealed)]
                (lost,) = [outcome for outcome in (first, second) if outcome is not won]
                assert isinstance(lost, Refused)
                assert lost.reason == "insufficient_funds"
            assert [(await state_of(house, account)).held for account in raced] == [1] * len(raced)
            # And captured once, whichever of the two processes is asked.
            ids = [(str(a), str(h)) for a, h in house.sql("SELECT account_id, id FROM holds")]
            answers = [writer.submit(capture(a, h, 1)) for a, h in ids for writer in writers]
            ends = await house.gather(answers)
            assert sum(isinstance(outcome, Sealed) for outcome in ends) == len(raced)
            assert {o.details["status"] for o in ends if isinstance(o, Refused)} == {"captured"}
        finally:
            await writers[1].stop()
        await house.check_clean()


@on_reactor
async def test_what_is_over_counts_nowhere_though_nobody_has_swept(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        mine = await accounts(house, 9, 100)
        (limited,) = await accounts(house, 1, 0, "CREDIT")
        await done(house, SetLimit(id=new_id(), account_id=limited, credit_limit=100))
        (empty,) = await accounts(house, 1, 0, "CREDIT")
        await done(house, SetLimit(id=new_id(), account_id=empty, credit_limit=100))
        await done(house, create_user("ada", new_id()))
        player = game_account_id("ada")
        bet = {"user": "ada", "transaction_uuid": str(uuid4()), "request_uuid": str(uuid4()), "currency": "USD"}
        game = read_transaction("bet", {**bet, "amount": 100_000})
        spending: dict[str, Command] = {
            mine[0]: debit(mine[0], 100),
            mine[1]: Transfer(id=new_id(), legs=(Leg(mine[1], mine[0], 100),), assets=("USD/2",)),
            mine[2]: hold(mine[2], 100),
            mine[3]: credit(mine[3], 1),
            mine[4]: SetStatus(id=new_id(), account_id=mine[4], status="FROZEN"),
            player: command_of(game, player, new_id()),
            limited: SetLimit(id=new_id(), account_id=limited, credit_limit=0),
            empty: AmendAccount(
                id=new_id(), account=account_view(await state_of(house, empty), None, ""), status="CLOSED"
            ),
        }
        assets = {player: "USD/5"}
        holds = {
            account_id: hold(
                account_id, 100_000 if account_id == player else 100, A_WHILE, assets.get(account_id, "USD/2")
            )
            for account_id in (*spending, *mine[5:8])
        }
        lasting = hold(mine[8], 100)
        early = (hold(account, 1) for account in holds)
        opened = await house.submit(*holds.values(), lasting, *early)
        assert [isinstance(outcome, Sealed) for outcome in opened] == [True] * 12 + [False] * 11
        for account_id in holds:
            state = await state_of(house, account_id)
            assert (state.held > 0, state.available) == (True, 0)
        frozen = SetStatus(id=new_id(), account_id=mine[7], status="FROZEN")
        await done(house, frozen)
        await until_over(house, [one_hold.id for one_hold in holds.values()])

        assert expiries(house) == []  # nobody has written it
        assert {status for _, status in written(house)} == {"open"}
        for account_id, one_hold in holds.items():
            state, wallet = await state_of(house, account_id), await find_wallet(house.pool, account_id)
            assert state.held == 0
            assert wallet is not None
            assert wallet.account == state
            assert (await kept(house, one_hold.id)).hold.status == "expired"
        assert (await state_of(house, mine[8])).held == 100

        for ending in (capture(mine[5], holds[mine[5]].id, 1), void(mine[6], holds[mine[6]].id)):
            refused = await one(house, ending)
            assert isinstance(refused, Refused)
            assert (refused.reason, refused.details["status"]) == ("already_processed", "expired")
        records = {
            account_id: sealed.record
            for account_id, sealed in zip(spending, await done(house, *spending.values()), strict=True)
        }
        assert [item.available for item in records[mine[3]].items if item.account == mine[3]] == [101]
        assert [item.held for item in records[mine[4]].items] == [0]
        assert (await state_of(house, empty)).status == "CLOSED"
        assert isinstance(await one(house, debit(mine[7], 1)), Refused)  # frozen, but its hold has ended
        assert dict(written(house))[holds[mine[7]].id] == "expired"
        assert isinstance(await one(house, debit(mine[8], 1)), Refused)
        ended = [hold_id for record in expiries(house) for hold_id in record]
        assert sorted(ended) == sorted(one_hold.id for one_hold in holds.values())
        for account_id, one_hold in holds.items():
            told = house.sql(
                "SELECT h.expires_at <= posted_at, kind FROM holds AS h JOIN journal USING (seq) WHERE h.id = %s",
                one_hold.id,
            )
            assert told == [(True, "expiry")], account_id
        await house.check_clean()


@on_reactor
async def test_nothing_is_let_go_early(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        (mine,) = await accounts(house, 1, 100)
        opening = hold(mine, 100, SOON)
        (opened,) = await done(house, opening)
        expires_at = json.loads(opening.answer(opened.record))["expires_at"]
        deadline = reactor.seconds() + 20
        while isinstance(outcome := await one(house, debit(mine, 100)), Refused):
            assert reactor.seconds() < deadline
            await pause(0.001)
        assert isinstance(outcome, Sealed)
        assert outcome.record.posted_at >= expires_at
        ((posted_at, changes),) = house.sql(
            "SELECT body::json ->> 'posted_at', body FROM journal WHERE kind = 'expiry'"
        )
        assert posted_at >= expires_at
        assert json.loads(changes)["changes"][0][4:6] == [0, 100]
        await house.check_clean()


@on_reactor
async def test_a_deleted_user_s_holds_are_let_go_first(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        user = str(uuid4())
        house.sql("INSERT INTO users (id, email, full_name, password_hash) VALUES (%s, 'a@b', 'Ada', '')", user)
        ids = [new_id(), new_id()]

        async def work(session: Session) -> None:
            for account_id in ids:
                await open_account(session, Owner(account_id, user, "USD/2", False), "CREDIT")

        await house.pool.transact(work)
        await done(house, *(SetLimit(id=new_id(), account_id=account, credit_limit=5) for account in ids))
        ending = hold(ids[0], 5, SOON)
        await done(house, ending, hold(ids[1], 5))
        await until_over(house, [ending.id])
        await done(house, DeleteUser(id=new_id(), user_id=user))
        assert [(await state_of(house, account)).status for account in ids] == ["CLOSED", "SUSPENDED"]
        assert dict(written(house))[ending.id] == "expired"
        await house.check_clean()


@on_reactor
async def test_the_sweeper_has_it_written_and_published(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        mine = await accounts(house, 7, 10)
        holds = [hold(account_id, 10, A_WHILE) for account_id in mine]
        lasting, later = hold(mine[0], 1), hold(mine[1], 1, 3600)
        await done(house, credit(mine[0], 1), credit(mine[1], 1))
        await done(house, *holds, lasting, later)
        sweeper = HoldSweeper(house.pool, house.writer.submit, new_id, at_once=4)
        before = len(house.kept())
        await sweeper.sweep()
        await until_over(house, [one_hold.id for one_hold in holds])
        assert len(house.kept()) == before  # it was too early, and nobody does it unasked
        house.published.clear()
        await sweeper.sweep()
        assert len(expiries(house)) == 4
        assert len(await accounts_with_due_holds(house.pool, 100)) == 3
        await sweeper.sweep()
        await sweeper.sweep()
        assert sorted(expiries(house)) == sorted([one_hold.id] for one_hold in holds)
        assert dict(written(house)) == {
            **{one_hold.id: "expired" for one_hold in holds}, lasting.id: "open", later.id: "open"
        }  # fmt: skip
        updates = [update for committed in house.published for update in updates_of(committed)]
        assert sorted(update.account_id for update in updates) == mine
        for update in updates:
            balance = "0.11" if update.account_id in mine[:2] else "0.10"
            assert (update.balance, update.available, update.transaction) == (balance, "0.10", None)
        await house.check_clean()


@on_reactor
async def test_whoever_watches_an_account_hears_of_its_holds(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        mine, other = await accounts(house, 2, 100)
        feed, events = Feed(JournalReader(house.pool), Hub(), reactor), list[Event]()
        await feed.start()
        writer = Writer(JournalWriter(reactor, house.url), reactor, feed.committed)
        await writer.start()
        subscription = feed.hub.subscribe(f"accounts:{mine}", events.append)
        try:
            ending, captured, voided = hold(mine, 10, SOON), hold(mine, 20), hold(mine, 30)
            for command in (ending, captured, voided, capture(mine, captured.id, 5, other), void(mine, voided.id)):
                assert isinstance(await outcome_of(writer.submit(command)), Sealed)
            await until_over(house, [ending.id])
            await HoldSweeper(house.pool, writer.submit, new_id).sweep()
            await until(lambda: len(events) == 6)
        finally:
            subscription.cancel()
            await writer.stop()
            await feed.stop()
        told = [json.loads(event.message)["data"] for event in events]
        kinds = [one["transaction"] and one["transaction"]["kind"] for one in told]
        assert kinds.count("capture") == 1
        assert kinds.count(None) == 5
        assert (told[-1]["balance"], told[-1]["available"]) == ("0.95", "0.95")
        assert told[0]["available"] == "0.90"
        await house.check_clean()


@on_reactor
async def test_several_sweepers_do_no_harm(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        other = house.new_writer(JournalWriter(reactor, house.url))
        await other.start()
        try:
            mine = await accounts(house, 20, 10)
            holds = [hold(account_id, 5, SOON) for account_id in mine for _ in range(2)]
            await done(house, *holds)
            await until_over(house, [one_hold.id for one_hold in holds])
            writers: tuple[Writer, ...] = (house.writer, other, house.writer, other)
            sweepers = [HoldSweeper(house.pool, writer.submit, new_id) for writer in writers]
            sweeps = [Deferred.fromCoroutine(sweeper.sweep()) for sweeper in sweepers]
            spent = [writer.submit(debit(account_id, 5)) for account_id in mine for writer in writers[:2]]
            assert all(isinstance(outcome, Sealed) for outcome in await house.gather(spent))
            for sweep in sweeps:
                await sweep
        finally:
            await other.stop()
        ended = [hold_id for record in expiries(house) for hold_id in record]
        assert sorted(ended) == sorted(one_hold.id for one_hold in holds)
        assert [(await state_of(house, account)).available for account in mine] == [0] * len(mine)
        await house.check_clean()


@on_reactor
async def test_a_sweeper_goes_by_what_is_refused_and_tells_what_breaks(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        (mine,) = await accounts(house, 1, 1)
        ending = hold(mine, 1, SOON)
        await done(house, ending)
        await until_over(house, [ending.id])
        asked: list[Command] = []

        def refuse_with(error: Exception) -> Callable[[Command], Deferred[Any]]:
            def submit(command: Command) -> Deferred[Any]:
                asked.append(command)
                answer: Deferred[Any] = Deferred()
                answer.errback(error)
                return answer

            return submit

        await HoldSweeper(house.pool, refuse_with(unavailable()), new_id).sweep()
        with pytest.raises(ZeroDivisionError):
            await HoldSweeper(house.pool, refuse_with(ZeroDivisionError()), new_id).sweep()
        assert [(type(command), command.lane) for command in asked] == [(ExpireHolds, mine)] * 2
        closed = Pool(reactor, house.url, 1)
        await HoldSweeper(closed, refuse_with(ZeroDivisionError()), new_id).sweep()  # it cannot even ask
        assert len(asked) == 2


async def listed(
    house: House, account_id: str, limit: int, status: HoldStatus | None = None, pages: int = 10_000
) -> list[KeptHold]:
    """The holds of an account, page by page."""
    found: list[KeptHold] = []
    below = None
    for _ in range(pages):
        page = await read_holds(house.pool, account_id, status, below, limit)
        assert len(page.holds) <= limit
        found += page.holds
        if page.following is None:
            return found
        assert below is None or page.following < below
        below = page.following
    raise AssertionError("the list does not end")


@on_reactor
async def test_a_thousand_holds_of_one_account(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with House(database_url, database_server) as house:
        mine, other = await accounts(house, 2, 2 * MANY)
        holds = [hold(mine, 2, A_WHILE if number % 2 else None) for number in range(MANY)]
        ending = [one_hold.id for one_hold in holds[1::2]]
        lasting = [one_hold.id for one_hold in holds[::2]]
        await done(house, *holds, hold(other, 1))
        await done(
            house,
            *(capture(mine, hold_id, 1) for hold_id in lasting[:100]),
            *(void(mine, hold_id) for hold_id in lasting[100:150]),
        )
        await until_over(house, ending)
        state = await state_of(house, mine)
        assert (state.balance, state.held) == (2 * MANY - 100, 700)
        ids = [one_hold.id for one_hold in holds]
        expected: dict[HoldStatus, list[str]] = {
            "open": lasting[150:],
            "captured": lasting[:100],
            "voided": lasting[100:150],
            "expired": ending,
        }
        for swept in (False, True):
            assert [found.hold.id for found in await listed(house, mine, 100)] == sorted(ids, reverse=True)
            for looked_through in (60, store.LOOKED_THROUGH):
                monkeypatch.setattr(store, "LOOKED_THROUGH", looked_through)
                for status, those in expected.items():
                    found = await listed(house, mine, 37, status)
                    assert [one.hold.id for one in found] == sorted(those, reverse=True)
                    assert {one.hold.status for one in found} == {status}
                    assert all((one.transfer_id is not None) is (status == "captured") for one in found)
                monkeypatch.undo()
            if not swept:
                assert expiries(house) == []
                await done(house, credit(mine, 1))
                assert [len(record) for record in expiries(house)] == [IN_ONE_RECORD] * (MANY // 2 // IN_ONE_RECORD)
        assert len(await listed(house, other, 1)) == 1
        assert await listed(house, str(uuid4()), 1) == []
        await house.check_clean()


def fill_holds(house: House, account_id: str, many: int) -> None:
    """Holds of one account, open ones and others, among those of other accounts; some are over."""
    house.sql(
        f"""INSERT INTO holds (id, account_id, amount, status, expires_at, created_at, seq)
            SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
                   CASE WHEN n % 10 = 0 THEN '{account_id}'::uuid ELSE gen_random_uuid() END, 1,
                   CASE WHEN n % 20 = 0 THEN 'open' ELSE 'voided' END, now() + interval '1 s' * (n - {many} / 100),
                   now(), n
            FROM generate_series(1, {many}) AS n;
            UPDATE accounts SET balance = {many}, held = (SELECT count(*) FROM holds
                                                         WHERE account_id = '{account_id}' AND status = 'open')
            WHERE id = '{account_id}'"""
    )


@pytest.mark.parametrize("analysed", [False, True])
@on_reactor
async def test_holds_are_read_by_index(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch, analysed: bool
) -> None:
    async with House(database_url, database_server) as house:
        fill(house)
        mine = house.cast.accounts[0].id
        fill_holds(house, mine, 30_000)
        if analysed:
            house.sql("ANALYZE")
        seen: list[tuple[str, Any]] = []
        query = Pool.query

        async def spy(pool: Pool, sql: str, parameters: Any = ()) -> Any:
            seen.append((sql, parameters))
            return await query(pool, sql, parameters)

        monkeypatch.setattr(Pool, "query", spy)
        page = await read_holds(house.pool, mine, None, None, 20)
        assert page.following is not None
        await read_holds(house.pool, mine, "open", page.following, 20)
        await find_hold(house.pool, page.following)
        assert await accounts_with_due_holds(house.pool, 500) == [mine]
        assert (await state_of(house, mine)).held < 1_500
        assert await find_wallet(house.pool, mine) is not None
        monkeypatch.undo()
        assert len(seen) == 7
        for sql, parameters in seen:
            rows = await house.pool.query(f"EXPLAIN {sql}", parameters)
            text = "\n".join(row[0] for row in rows)
            assert "Seq Scan" not in text, text
            # Only the few accounts whose holds are over are sorted, so that each is named once.
            assert "Sort" not in text or "DISTINCT" in sql, text


@pytest.mark.parametrize("analysed", [False, True])
@on_reactor
async def test_the_writer_reads_what_is_over_by_index_and_holds_only_of_accounts_that_have_some(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch, analysed: bool
) -> None:
    async with House(database_url, database_server) as house:
        fill(house)
        mine, other = house.cast.accounts[0].id, house.cast.accounts[1].id
        fill_holds(house, mine, 30_000)
        if analysed:
            house.sql("ANALYZE")
        session, seen = house.store.session, list[tuple[str, Any]]()
        render = session.render

        def spy(sql: str, parameters: Any) -> bytes:
            seen.extend((part.strip(), parameters) for part in sql.split(";") if "EXECUTE" in part)
            return render(sql, parameters)

        monkeypatch.setattr(session, "render", spy)
        for account_id, loops in ((other, 0), (mine, 1)):
            seen.clear()
            book = await house.store.read_facts([debit(account_id, 1)])
            await house.store.roll_back()
            due: Any = book.accounts[account_id]
            assert bool(due.due) is (loops > 0)
            ((sql, parameters),) = seen
            await session.run("SET plan_cache_mode = force_generic_plan")
            text = await plan(session, sql, parameters)
            assert "Seq Scan" not in text, text
            assert "holds_open" in text, text
            rows = await session.run(f"EXPLAIN (ANALYZE, TIMING OFF) {sql}", parameters)
            text = "\n".join(row[0] for row in rows)
            (scan,) = [line for (line,) in rows if "holds_open" in line]
            assert ("never executed" in scan) is (loops == 0), text
            if loops:
                assert "expires_at <=" in text.partition(scan)[2].splitlines()[1], text
                assert len(due.due) < 700, "it reads those that are not over yet, too"


@on_reactor
async def test_the_owner_of_an_account_with_holds_is_as_before(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        (mine,) = await accounts(house, 1, 10)
        await done(house, hold(mine, 10))
        owner = await find_owner(house.pool, mine)
        assert owner == Owner(mine, None, "USD/2", False)
        outcome = await outcome_of(house.writer.submit(debit(mine, 1)))
        assert isinstance(outcome, Refused)
        assert outcome.details == {"account_id": mine, "available": "0.00", "requested": "0.01"}

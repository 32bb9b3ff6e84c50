"""Accounts in a real PostgreSQL: opened and amended by the writer, in one order with all else, and told in lists."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import ensureDeferred

from ledger.domain.account_commands import AccountView, AmendAccount, OpenAccount
from ledger.domain.accounts import world_id
from ledger.domain.cash import Credit, Debit
from ledger.domain.commands import Command, Outcome, Replayed, Sealed
from ledger.domain.deletion import DeleteUser
from ledger.domain.errors import Refused
from ledger.services.accounts import Accounts
from ledger.services.ids import new_id
from ledger.store import account_lists
from ledger.store.account_lists import Page, Wanted, list_accounts
from ledger.store.journal import JournalWriter
from ledger.store.pool import Pool
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, reactor, refusal_of
from tests.postgres.test_history import nodes

MANY = 60_000


def user(house: House, name: str = "ada", status: str = "ACTIVE") -> str:
    """Make a user without an account."""
    user_id = new_id()
    house.sql(
        "INSERT INTO users (id, email, full_name, password_hash, status) VALUES (%s, %s, %s, '', %s)",
        user_id,
        f"{name}@example.com",
        name,
        status,
    )
    return user_id


def opening(user_id: str | None, **more: Any) -> OpenAccount:
    """The command that opens an account."""
    fields = {"id": new_id(), "user_id": user_id, "asset": "USD/2", "type": "CHECKING", **more}
    return OpenAccount(**fields)


async def opened(house: House, user_id: str | None, **more: Any) -> AccountView:
    """Open an account, and return it as it is read."""
    (outcome,) = await house.submit(opening(user_id, **more))
    assert isinstance(outcome, Sealed), outcome
    return await Accounts(house.pool).read(outcome.record.id)


def amending(account: AccountView, **asked: Any) -> AmendAccount:
    """The command that amends an account."""
    return AmendAccount(id=new_id(), account=account, **asked)


def cash(kind: type[Credit | Debit], account: AccountView, amount: int) -> Command:
    """Money in or out."""
    asset = f"{account.currency}/{account.scale}"
    return kind(id=new_id(), account_id=account.id, user_id=account.user_id, asset=asset, amount=amount)


def reasons(outcomes: list[Outcome]) -> list[str | None]:
    """Why each was refused; None where it was not."""
    return [outcome.reason if isinstance(outcome, Refused) else None for outcome in outcomes]


@on_reactor
async def test_what_is_opened_is_read_as_it_was_answered(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        ada = user(house)
        commands = [
            opening(ada, type="CREDIT", name="Card “Ü” \\ ", credit_limit=50_000),
            opening(ada, asset="JPY/0"),
            opening(None, asset="JPY/0", type="SAVINGS"),
            opening(ada, asset="KWD/3", type="INVESTMENT"),
        ]
        for command, outcome in zip(commands, await house.submit(*commands), strict=True):
            assert isinstance(outcome, Sealed)
            answered = msgspec.json.decode(command.answer(outcome.record), type=AccountView)
            assert await Accounts(house.pool).read(command.id) == answered
            assert answered.created_at == outcome.record.posted_at
        for asset in ("JPY/0", "KWD/3"):
            assert house.sql("SELECT type, version FROM accounts WHERE id = %s", world_id(asset)) == [("WORLD", 0)]
        card = await Accounts(house.pool).read(commands[0].id)
        assert (card.balance, card.available, card.credit_limit) == ("0.00", "500.00", "500.00")
        outcomes = await house.submit(cash(Debit, card, 50_000), cash(Debit, card, 1))
        assert reasons(outcomes) == [None, "insufficient_funds"]
        assert (await refusal_of(Accounts(house.pool).read(new_id()))).reason == "account_not_found"
        await house.check_clean()


@on_reactor
async def test_an_opening_is_replayed_byte_for_byte_by_another_process(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        ada = user(house)
        first = opening(ada, name="Rent", scope=ada, key="k")
        (outcome,) = await house.submit(first)
        assert isinstance(outcome, Sealed)
        other = house.new_writer(JournalWriter(reactor, database_url))
        await other.start()
        try:
            again = msgspec.structs.replace(first, id=new_id())
            replayed = await other.submit(again)
            assert isinstance(replayed, Replayed)
            assert again.answer(replayed.record) == first.answer(outcome.record)
            (refused,) = await house.gather([other.submit(msgspec.structs.replace(again, name="Food"))])
            assert isinstance(refused, Refused)
            assert (refused.reason, refused.details) == ("duplicate_transaction", {"transfer_id": first.id})
        finally:
            await other.stop()
        assert house.sql("SELECT id::text FROM accounts WHERE user_id = %s", ada) == [(first.id,)]


@on_reactor
async def test_the_last_name_counts_and_a_refusal_leaves_everything(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        account = await opened(house, user(house), type="CREDIT", name="First", credit_limit=1_000)
        await house.submit(cash(Debit, account, 400))
        outcomes = await house.submit(
            amending(account, name="Second"),
            amending(account, name="Third", status="FROZEN", credit_limit=500),
            amending(account, name="Fourth", credit_limit=399),
            amending(account, name="Fifth", status="CLOSED"),
        )
        assert reasons(outcomes) == [None, None, "negative_balance", "account_not_empty"]
        now = await Accounts(house.pool).read(account.id)
        assert (now.name, now.status, now.credit_limit, now.balance) == ("Third", "FROZEN", "5.00", "-4.00")
        assert (now.available, now.version, now.created_at) == ("1.00", 1, account.created_at)
        await house.check_clean()


@on_reactor
async def test_a_freeze_and_two_hundred_debits_have_one_order(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server, batch=16) as house:
        other = house.new_writer(JournalWriter(reactor, database_url))
        await other.start()
        try:
            for frozen_after in (0, 70, 200):
                account = await opened(house, user(house, f"ada{frozen_after}"))
                await house.submit(cash(Credit, account, 1_000))
                debits = [cash(Debit, account, 3) for _ in range(200)]
                freeze = amending(account, status="FROZEN")
                # Some come by another process, which has its own opinion of what is first.
                before = [(other if n % 5 == 0 else house.writer).submit(debits[n]) for n in range(frozen_after)]
                frozen = house.writer.submit(freeze)
                after = [(other if n % 5 == 0 else house.writer).submit(debits[n]) for n in range(frozen_after, 200)]
                outcomes = await house.gather([*before, *after, frozen])
                told = outcomes.pop()
                assert isinstance(told, Sealed)
                seqs = [outcome.record.seq for outcome in outcomes if isinstance(outcome, Sealed)]
                assert all(seq < told.record.seq for seq in seqs)
                refusals = [reason for reason in reasons(outcomes) if reason is not None]
                assert set(refusals) <= {"account_frozen"}
                # In one process, what was asked for before the freeze is done, and nothing after it.
                mine = reasons([outcome for n, outcome in enumerate(outcomes) if n % 5])
                asked_before = sum(1 for n in range(frozen_after) if n % 5)
                assert mine == [None] * asked_before + ["account_frozen"] * (len(mine) - asked_before)
                now = await Accounts(house.pool).read(account.id)
                assert (now.status, now.version) == ("FROZEN", 1 + len(seqs))
                assert now.balance == f"{(1_000 - 3 * len(seqs)) / 100:.2f}"
                assert told.record.changes[0].balance == 1_000 - 3 * len(seqs)
        finally:
            await other.stop()
        await house.check_clean()


@on_reactor
async def test_an_opening_against_the_deletion_of_the_user(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server, batch=8) as house:
        other = house.new_writer(JournalWriter(reactor, database_url))
        await other.start()
        came: Counter[str | None] = Counter()
        try:
            for number in range(12):
                ada = user(house, f"ada{number}")
                commands: list[Command] = [opening(ada) for _ in range(6)]
                commands.insert(number % 7, DeleteUser(id=new_id(), user_id=ada))
                writers = [house.writer, other if number % 2 else house.writer]
                outcomes = await house.gather(writers[n % 2].submit(command) for n, command in enumerate(commands))
                deletion = outcomes.pop(number % 7)
                assert isinstance(deletion, Sealed)
                shut = {change.account for change in deletion.record.changes}
                made = [outcome.record for outcome in outcomes if isinstance(outcome, Sealed)]
                assert shut == {record.id for record in made}
                assert all(record.seq < deletion.record.seq for record in made)
                came.update(reasons(outcomes))
        finally:
            await other.stop()
        assert set(came) == {None, "user_not_found"}
        assert house.sql("SELECT DISTINCT status FROM accounts WHERE user_id IS NOT NULL") == [("CLOSED",)]
        await house.check_clean()


@on_reactor
async def test_two_closings_and_a_credit(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        account = await opened(house, user(house))
        outcomes = await house.submit(amending(account, status="CLOSED"), amending(account, status="CLOSED"))
        assert reasons(outcomes) == [None, None]
        other = house.new_writer(JournalWriter(reactor, database_url))
        await other.start()
        ends: Counter[tuple[str | None, str | None]] = Counter()
        try:
            for number in range(20):
                account = await opened(house, None)
                closing, credit = amending(account, status="CLOSED"), cash(Credit, account, 5)
                if number % 2:
                    sent = {"credit": other.submit(credit), "closing": house.writer.submit(closing)}
                else:
                    sent = {"closing": house.writer.submit(closing), "credit": other.submit(credit)}
                closed, credited = reasons(await house.gather([sent["closing"], sent["credit"]]))
                now = await Accounts(house.pool).read(account.id)
                assert (now.status, now.balance) == (("ACTIVE", "0.05") if closed else ("CLOSED", "0.00"))
                ends[closed, credited] += 1
        finally:
            await other.stop()
        assert set(ends) <= {(None, "account_inactive"), ("account_not_empty", None)}
        # Either order can be had.
        for first in (True, False):
            account = await opened(house, None)
            commands = [amending(account, status="CLOSED"), cash(Credit, account, 5)]
            told = reasons(await house.submit(*(commands if first else commands[::-1])))
            assert told == ([None, "account_inactive"] if first else [None, "account_not_empty"])
        await house.check_clean()


@on_reactor
async def test_what_was_closed_with_its_user_stays_closed(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        ada = user(house)
        account = await opened(house, ada)
        reopening = amending(account, status="ACTIVE")
        outcomes = await house.submit(amending(account, status="CLOSED"), reopening)
        assert reasons(outcomes) == [None, None]
        again = msgspec.structs.replace(reopening, id=new_id())
        outcomes = await house.submit(DeleteUser(id=new_id(), user_id=ada), again)
        assert reasons(outcomes) == [None, "account_inactive"]
        assert reasons(await house.submit(msgspec.structs.replace(again, id=new_id()))) == ["account_inactive"]
        for status, reason in (("SUSPENDED", "account_inactive"), ("DELETED", "user_not_found")):
            eve = user(house, f"eve-{status}", status)
            assert reasons(await house.submit(opening(eve))) == [reason]
        assert reasons(await house.submit(opening(new_id()))) == ["user_not_found"]


@on_reactor
async def test_what_is_held_is_told_as_of_now_whether_or_not_it_was_swept(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        ada = user(house)
        account = await opened(house, ada)
        house.sql("UPDATE accounts SET balance = 100, held = 50 WHERE id = %s", account.id)
        for amount, until in ((20, "-1 second"), (30, "1 day")):
            house.sql(
                "INSERT INTO holds (id, account_id, amount, status, expires_at, created_at, seq)"
                " VALUES (gen_random_uuid(), %s, %s, 'open', now() + %s::interval, now(), 1)",
                account.id,
                amount,
                until,
            )
        one = await Accounts(house.pool).read(account.id)
        assert (one.balance, one.held, one.available) == ("1.00", "0.30", "0.70")
        assert (await list_accounts(house.pool, Wanted(user_id=ada), None, 5)).accounts == [one]


async def walked(house: House, wanted: Wanted, limit: int) -> list[str]:
    """Read a list to its end, and return the ids."""
    told: list[str] = []
    after = None
    while True:
        page = await list_accounts(house.pool, wanted, after, limit)
        assert len(page.accounts) <= limit
        told += [account.id for account in page.accounts]
        after = page.following
        if after is None:
            return told


@pytest.mark.parametrize("most", [7, account_lists.LOOKED_THROUGH])
@on_reactor
async def test_lists_are_whole_in_pages_of_any_size(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(account_lists, "LOOKED_THROUGH", most)
    async with House(database_url, database_server) as house:
        ada, eve = user(house), user(house, "eve")
        assets, types = ("USD/2", "EUR/2", "JPY/0"), ("CHECKING", "CREDIT")
        commands = [
            opening((ada, eve, None)[n % 3], asset=assets[n % 4 % 3], type=types[n % 5 == 0]) for n in range(60)
        ]
        outcomes = await house.submit(*commands)
        assert reasons(outcomes) == [None] * 60
        frozen = await Accounts(house.pool).read(commands[12].id)
        await house.submit(amending(frozen, status="FROZEN"))
        everything = [row[0] for row in house.sql("SELECT id::text FROM accounts ORDER BY id")]
        assert len(everything) > 60  # and the house's own, and the worlds
        for limit in (1, 7, 60, 100):
            assert await walked(house, Wanted(), limit) == everything
            for owner in (ada, eve):
                mine = sorted(command.id for command in commands if command.user_id == owner)
                assert await walked(house, Wanted(user_id=owner), limit) == mine
            sought = sorted(c.id for c in commands if (c.user_id, c.asset, c.type) == (ada, "EUR/2", "CHECKING"))
            wanted = Wanted(user_id=ada, currency="EUR", account_type="CHECKING")
            assert sought
            assert await walked(house, wanted, limit) == sought
            assert await walked(house, Wanted(status="FROZEN"), limit) == [frozen.id]
            assert await walked(house, Wanted(account_id=frozen.id, status="FROZEN"), limit) == [frozen.id]
            assert await walked(house, Wanted(account_id=frozen.id, status="ACTIVE"), limit) == []
            assert await walked(house, Wanted(user_id=new_id()), limit) == []


@on_reactor
async def test_going_on_neither_repeats_nor_skips_while_accounts_are_opened(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_lists, "LOOKED_THROUGH", 4)
    async with House(database_url, database_server) as house:
        ada = user(house)
        before = [(await opened(house, ada, type="SAVINGS" if n % 3 else "CHECKING")).id for n in range(15)]
        told: list[str] = []
        after = None
        for _ in range(10):
            page = await list_accounts(house.pool, Wanted(user_id=ada, account_type="CHECKING"), after, 2)
            told += [account.id for account in page.accounts]
            after = page.following
            if after is None:
                break
            await house.submit(opening(ada), opening(ada, type="SAVINGS"))
        assert told[:5] == before[::3]
        assert told == sorted(set(told))


def fill(house: House) -> tuple[str, str]:
    """Make many accounts, a quarter of them of one user, without any statistics; return the user and one account."""
    ada, eve = user(house), user(house, "eve")
    house.sql(
        f"""ALTER TABLE accounts SET (autovacuum_enabled = off);
            ALTER TABLE holds SET (autovacuum_enabled = off);
            INSERT INTO accounts (id, user_id, asset, type, status, balance, held)
            SELECT uuidv7(), CASE WHEN n % 4 = 0 THEN '{ada}'::uuid WHEN n % 4 = 1 THEN '{eve}'::uuid END,
                   CASE WHEN n % 1000 = 0 THEN 'EUR/2' ELSE 'USD/2' END,
                   CASE WHEN n % 20000 = 0 THEN 'CREDIT' ELSE 'CHECKING' END,
                   CASE WHEN n % 20000 = 4 THEN 'FROZEN' ELSE 'ACTIVE' END, 10, CASE WHEN n % 2 = 0 THEN 1 ELSE 0 END
            FROM generate_series(1, {MANY}) AS n;
            INSERT INTO holds (id, account_id, amount, status, expires_at, created_at, seq)
            SELECT gen_random_uuid(), id, 1, 'open', now() - interval '1 day', now(), 1 FROM accounts WHERE held = 1"""
    )
    ((one,),) = house.sql("SELECT id::text FROM accounts WHERE type = 'CREDIT' ORDER BY id LIMIT 1")
    return ada, one


@pytest.mark.parametrize("analysed", [False, True])
@on_reactor
async def test_lists_are_read_by_index_and_no_further_than_they_must(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch, analysed: bool
) -> None:
    async with House(database_url, database_server) as house:
        ada, one = fill(house)
        house.sql(
            f"""SET session_replication_role = replica;
                ALTER TABLE journal SET (autovacuum_enabled = off);
                INSERT INTO journal (seq, id, kind, posted_at, effective_at, body, hash)
                SELECT n, gen_random_uuid(), 'account', now(), now(), '', sha256('')
                FROM generate_series(1, {MANY}) AS n"""
        )
        if analysed:
            house.sql("ANALYZE")
        seen: list[tuple[str, Any]] = []
        query = Pool.query

        async def spy(pool: Pool, sql: str, parameters: Any = ()) -> Any:
            seen.append((sql, parameters))
            return await query(pool, sql, parameters)

        monkeypatch.setattr(Pool, "query", spy)
        sought = (
            {"account_type": "CREDIT"},
            {"status": "FROZEN"},
            {"currency": "EUR"},
            {"status": "CLOSED"},
            {"account_type": "CHECKING", "currency": "USD", "status": "ACTIVE"},
        )
        for whose in ({}, {"user_id": ada}, {"account_id": one}):
            for terms in ({}, *sought):
                for after in (None, one):
                    page: Page = await list_accounts(house.pool, Wanted(**whose, **terms), after, 20)
                    assert len(page.accounts) <= 20
        assert (await Accounts(house.pool).read(one)).held == "0.00"
        monkeypatch.undo()
        assert len(seen) == 3 * 2 * (1 + 2 * len(sought)) + 1
        for sql, parameters in seen:
            ((explained,),) = await house.pool.query(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", parameters)
            steps = nodes(explained[0]["Plan"])
            kinds = {step["Node Type"] for step in steps}
            assert not kinds & {"Seq Scan", "Sort", "Incremental Sort", "Bitmap Heap Scan"}, json.dumps(explained)
            scans = [step for step in steps if step.get("Relation Name") == "accounts"]
            index = "accounts_of_user" if ada in parameters else "accounts_pkey"
            assert {step["Index Name"] for step in scans} == {index}
            looked = sum(step["Actual Rows"] + step.get("Rows Removed by Filter", 0) for step in scans)
            is_bounded = "OFFSET" in sql or "CASE WHEN a." in sql
            assert looked <= (account_lists.LOOKED_THROUGH if is_bounded else 21), json.dumps(explained)


@pytest.mark.parametrize("analysed", [False, True])
@on_reactor
async def test_the_writer_opens_and_amends_by_index(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch, analysed: bool
) -> None:
    async with House(database_url, database_server) as house:
        ada, one = fill(house)
        if analysed:
            house.sql("ANALYZE")
        account = await Accounts(house.pool).read(one)
        session, seen = house.store.session, list[tuple[str, Any]]()
        render = session.render

        def spy(sql: str, parameters: Any) -> bytes:
            seen.extend((part.strip(), parameters) for part in sql.split(";") if part.strip().startswith("EXECUTE"))
            return render(sql, parameters)

        monkeypatch.setattr(session, "render", spy)
        told = await house.gather(
            map(house.writer.submit, [opening(ada), amending(account, name="New", status="FROZEN")])
        )
        monkeypatch.undo()
        assert reasons(told) == [None, None]
        assert {sql.split()[1] for sql, _ in seen} >= {"write_opened_accounts", "write_account_names"}
        await session.run("SET plan_cache_mode = force_generic_plan")
        for sql, parameters in seen:
            rows = await ensureDeferred(session.run(f"EXPLAIN {sql}", parameters))
            text = "\n".join(row[0] for row in rows)
            assert "Seq Scan" not in text, text

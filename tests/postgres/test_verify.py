"""The audit: clean after anything that the writer does, and it names the row that anybody else has changed."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.defer import Deferred

from ledger.domain.accounts import world_id
from ledger.domain.commands import Sealed
from ledger.domain.holds import CaptureHold, OpenHold
from tests.domain.kinds import Hold, SetLimit, SetStatus, Transfer
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, reactor
from tests.strategies import Step

TABLES = ("journal", "transactions", "accounts")


@on_reactor
async def test_clean_after_any_load(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        await house.check_clean()
        chance = random.Random(7)
        kinds = ("credit", "credit", "credit", "debit", "transfer", "status", "limit", "hold")
        for _ in range(6):
            steps = [
                Step(
                    kind=chance.choice(kinds),
                    first=chance.randrange(5),
                    second=chance.randrange(5),
                    third=chance.choice((None, 0, 1, 2)),
                    amount=chance.randrange(1, 300),
                    key=chance.choice((None, str(chance.randrange(400)))),
                    scope=chance.randrange(2),
                    description=chance.choice((None, "rent", "\n\0")),
                )
                for _ in range(250)
            ]
            await house.submit(*map(house.cast.command, steps))
        assert len(house.kept()) > 600  # several slices
        await house.check_clean()


@on_reactor
async def test_clean_while_a_writer_goes_on(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        going = [True]
        answers: list[Deferred[Any]] = []

        def more() -> None:
            if not going:
                return
            for who in (0, 1, 2):
                status, limit = ("FROZEN", 5) if len(answers) % 2 else ("ACTIVE", 0)
                target = house.cast.accounts[2].id
                answers.extend(
                    house.send(
                        house.credit(who),
                        SetStatus(id=house.credit().id, account_id=target, status=status),
                        SetLimit(id=house.credit().id, account_id=target, credit_limit=limit),
                        Hold(id=house.credit().id, account_id=house.cast.accounts[0].id, amount=1),
                        house.credit(),
                    )
                )
            reactor.callLater(0.002, more)

        more()
        heads = []
        for _ in range(12):
            verdict = await house.verdict()
            assert verdict.ok, verdict
            heads.append(verdict.checked)
        going.clear()
        assert heads == sorted(heads)
        assert heads[-1] > heads[0]
        await house.gather(answers)
        await house.check_clean()


def tamperings(one: str, two: str, ids: list[str]) -> list[tuple[str, str]]:
    """What is done to the tables, and the row to be named; `one` and `two` are accounts, `ids` those of the records."""
    world, nobody = world_id("USD/2"), ids[0].replace("-", "")[::-1]
    stray = f"""'{ids[0]}', '%s', %s, 5, 'credit', 5, 0, %s, now()"""
    insert = 'INSERT INTO transactions (id, account_id, seq, amount, type, balance, held, version, "timestamp") VALUES'
    of_one = f"WHERE account_id = '{one}' AND version = 2"
    later = '"timestamp" = "timestamp" + interval \'1 second\''
    last = len(ids)
    return [
        ("UPDATE journal SET id = gen_random_uuid() WHERE seq = 3", "journal 3"),
        ("UPDATE journal SET kind = 'debit' WHERE seq = 1", "journal 1"),
        ("UPDATE journal SET scope = gen_random_uuid() WHERE seq = 1", "journal 1"),
        ("UPDATE journal SET key = 'other' WHERE seq = 1", "journal 1"),
        ("UPDATE journal SET scope = NULL, key = NULL WHERE seq = 1", "journal 1"),
        ("UPDATE journal SET reverses = id WHERE seq = 2", "journal 2"),
        ("UPDATE journal SET posted_at = posted_at + interval '1 microsecond' WHERE seq = 2", "journal 2"),
        ("UPDATE journal SET effective_at = effective_at - interval '1 day' WHERE seq = 2", "journal 2"),
        ("UPDATE journal SET body = body || ' ' WHERE seq = 2", "journal 2"),
        ("UPDATE journal SET body = replace(body, '45678', '45679') WHERE seq = 1", "journal 1"),
        ("UPDATE journal SET body = 'nonsense' WHERE seq = 2", "journal 2"),
        (
            "UPDATE journal SET body = body || ' ', hash = sha256(repeat('\\000', 32)::bytea || (body || ' ')::bytea)"
            " WHERE seq = 1",
            "journal 1",
        ),
        (
            "UPDATE journal SET body = replace(body, '45678', '45679'),"
            " hash = sha256(decode(repeat('00', 32), 'hex') || convert_to(replace(body, '45678', '45679'), 'UTF8'))"
            " WHERE seq = 1",
            f"transactions {world} 1",
        ),
        ("UPDATE journal SET hash = sha256(hash) WHERE seq = 2", "journal 2"),
        (f"UPDATE journal SET hash = sha256(hash) WHERE seq = {last}", f"journal {last}"),
        ("DELETE FROM journal WHERE seq = 1", "journal 2"),
        ("DELETE FROM journal WHERE seq = 4", "journal 5"),
        ("DELETE FROM journal", f"accounts {min(one, two, world)}"),
        (f"DELETE FROM journal WHERE seq = {last}", f"accounts {two}"),
        (
            "UPDATE journal SET seq = 1000 WHERE seq = 2; UPDATE journal SET seq = 2 WHERE seq = 3;"
            "UPDATE journal SET seq = 3 WHERE seq = 1000",
            "journal 2",
        ),
        (f"UPDATE journal SET seq = seq + 1 WHERE seq = {last}", f"journal {last + 1}"),
        (f"UPDATE transactions SET id = gen_random_uuid() {of_one}", f"transactions {one} 2"),
        (f"UPDATE transactions SET account_id = '{nobody}' {of_one}", f"transactions {one} 2"),
        (f"UPDATE transactions SET seq = seq + 1 {of_one}", f"transactions {one} 2"),
        (f"UPDATE transactions SET amount = amount + 1 {of_one}", f"transactions {one} 2"),
        (f"UPDATE transactions SET type = 'credit' {of_one}", f"transactions {one} 2"),
        (f"UPDATE transactions SET balance = balance + 1 {of_one}", f"transactions {one} 2"),
        (f"UPDATE transactions SET held = held + 1 {of_one}", f"transactions {one} 2"),
        (f"UPDATE transactions SET version = 1000 {of_one}", f"transactions {one} 2"),
        (f"UPDATE transactions SET {later} {of_one}", f"transactions {one} 2"),
        (f"DELETE FROM transactions {of_one}", f"transactions {one} 2"),
        (f"{insert} ({stray % (one, 2, 1000)})", f"transactions {one}"),
        (f"{insert} ({stray % (one, 100_000, 1000)})", f"transactions {one}"),
        (f"{insert} ({stray % (nobody, 1, 1)})", f"transactions {dashed(nobody)}"),
        (f"UPDATE accounts SET balance = balance + 1 WHERE id = '{one}'", f"accounts {one}"),
        (f"UPDATE accounts SET balance = balance + 1 WHERE id = '{world}'", f"accounts {world}"),
        (f"UPDATE accounts SET held = held + 1 WHERE id = '{one}'", f"accounts {one}"),
        (f"UPDATE accounts SET credit_limit = credit_limit + 1 WHERE id = '{one}'", f"accounts {one}"),
        (f"UPDATE accounts SET status = 'FROZEN' WHERE id = '{one}'", f"accounts {one}"),
        (f"UPDATE accounts SET status = 'ACTIVE' WHERE id = '{two}'", f"accounts {two}"),
        (f"UPDATE accounts SET version = version + 1 WHERE id = '{one}'", f"accounts {one}"),
        (f"UPDATE accounts SET version = version - 1 WHERE id = '{one}'", f"accounts {one}"),
        (f"UPDATE accounts SET asset = 'EUR/2' WHERE id = '{one}'", "journal 1"),
        (f"DELETE FROM accounts WHERE id = '{one}'", "journal 1"),
        (
            "DROP INDEX journal_key; UPDATE journal SET scope = first.scope, key = first.key"
            " FROM (SELECT scope, key FROM journal WHERE seq = 1) AS first WHERE seq = 5",
            "journal 1",
        ),
    ]


def dashed(text: str) -> str:
    """A UUID as it is written."""
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


@on_reactor
async def test_whoever_tampers_is_found_out(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        one, two = house.cast.accounts[0].id, house.cast.accounts[1].id
        hold = OpenHold(id=house.credit().id, account_id=one, asset="USD/2", amount=20)
        capture = CaptureHold(
            id=house.credit().id, account_id=one, asset="USD/2", hold_id=hold.id, amount=20, target=two
        )
        commands = [
            house.credit(0, 45_678, key="k"),
            house.credit(0, 100, kind="debit"),
            house.cast.command(Step("transfer", 0, 1, None, 50, None, 0, "rent")),
            SetLimit(id=house.credit().id, account_id=one, credit_limit=70),
            hold,
            capture,
            SetStatus(id=house.credit().id, account_id=two, status="FROZEN"),
        ]
        assert isinstance(commands[2], Transfer)
        outcomes = await house.submit(*commands)
        # The lanes may have put them in another order; only the journal's own counts.
        assert all(isinstance(outcome, Sealed) for outcome in outcomes)
        ids = list(house.kept())
        assert ids == [command.id for command in commands]
        for table in TABLES:
            house.sql(f"CREATE TABLE kept_{table} AS TABLE {table}")
        await house.check_clean()
        wrong = {}
        for statement, row in tamperings(one, two, ids):
            house.sql(f"SET session_replication_role = replica; {statement}")
            verdict = await house.verdict()
            named = None if verdict.first_failure is None else verdict.first_failure.row
            if verdict.ok or named != row:
                wrong[statement] = (row, verdict.first_failure)
            for table in TABLES:
                house.sql(
                    f"""SET session_replication_role = replica; DELETE FROM {table};
                        INSERT INTO {table} SELECT * FROM kept_{table}"""
                )
        assert wrong == {}
        await house.check_clean()

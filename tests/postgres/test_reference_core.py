"""The core on a real server against the naive one: decided alike, kept alike, and the audit finds nothing."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import gatherResults

from ledger.domain.accounts import Account, Owner
from ledger.domain.journal import read_body
from ledger.services.writer import Writer
from ledger.store.accounts import open_account
from ledger.store.postgres import Session
from tests.core_programs import Ask, Cast, Part, Player
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, reactor
from tests.postgres.timed import START, Timed
from tests.side_by_side import SideBySide
from tests.strategies import examples

INSTANT = "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"


class Stage:
    """One program on a database of its own."""

    def __init__(self, house: House, seed: int) -> None:
        self.house = house
        self.chance = Random(seed)
        self.cast = Cast.new()
        self.side = SideBySide(self.cast)
        self.player = Player(self.chance, self.cast, self.side.reference, START)
        self.store = Timed(house.url)
        self.writer = Writer(self.store, reactor, house.published.extend)
        self.seq = 0

    async def admit(self) -> None:
        """Open the first accounts, and let their users be."""
        for number, user_id in enumerate(self.cast.users):
            self.house.sql(
                "INSERT INTO users (id, email, full_name, password_hash) VALUES (%s, %s, 'x', 'x')",
                user_id,
                f"{number}@example.com",
            )

        async def work(session: Session) -> None:
            for account in self.cast.everyone:
                if not account.is_system:
                    await open_account(
                        session, Owner(account.id, account.user_id, account.asset, False), account.type, None
                    )

        await self.house.pool.transact(work)

    async def play(self, parts: list[Part]) -> None:
        """Have the writer decide a batch, and the reference, and compare."""
        commands = self.side.commands(parts)
        answers = [  # of one turn, so of one batch
            self.writer.submit_bundle(some, is_whole=is_whole)
            for some, (_, is_whole) in zip(commands, parts, strict=True)
        ]
        outcomes = [outcome for told in await gatherResults(answers) for outcome in told]
        self.side.compare(parts, [command for some in commands for command in some], outcomes, self.store.now)
        rows = self.house.sql("SELECT seq, body, hash FROM journal WHERE seq > %s ORDER BY seq", self.seq)
        self.side.follow((read_body(body), bytes(digest)) for _, body, digest in rows)
        self.seq = rows[-1][0] if rows else self.seq

    async def pass_time(self, seconds: int) -> None:
        """Let time pass with something that happens elsewhere: what is read before a batch goes by the last record."""
        self.store.at = Ask.after(self.store.now or START, seconds)
        await self.play([([self.player.bystander()], False)])

    def accounts(self) -> list[Account]:
        """All accounts as they are kept."""
        rows = self.house.sql(
            """SELECT id::text, user_id::text, asset, type, status, balance, held, credit_limit, version
               FROM accounts WHERE asset <> 'USD/5'"""
        )
        return [
            Account(account_id, user_id, asset, kind, status, int(balance), int(held), limit, version)
            for account_id, user_id, asset, kind, status, balance, held, limit, version in rows
        ]

    def check_tables(self) -> None:
        """Compare the further tables with what the reference has."""
        reference, sql = self.side.reference, self.house.sql
        holds = sql(
            f"""SELECT id::text, account_id::text, amount, captured, status, {INSTANT.format("expires_at")},
                       {INSTANT.format("created_at")}, description FROM holds"""
        )
        names = ("account", "amount", "captured", "status", "expires_at", "created_at", "description")
        assert {row[0]: dict(zip(names, row[1:], strict=True)) for row in holds} == reference.holds
        reversals = sql("SELECT transfer_id::text, amount FROM reversed_transfers")
        assert {key: int(amount) for key, amount in reversals} == reference.reversed
        backdated = sql(
            f"""SELECT account_id::text, {INSTANT.format("effective_at")}, version, amount,
                       {INSTANT.format("posted_at")} FROM backdated_entries"""
        )
        assert sorted(backdated) == sorted(reference.backdated)
        assert [row[0] for row in sql(f"SELECT {INSTANT.format('until')} FROM closed_periods ORDER BY seq")] == (
            reference.periods
        )
        users: Any = dict(sql("SELECT id::text, status FROM users"))
        assert users == reference.users
        kept: Any = dict(sql("SELECT id::text, name FROM accounts WHERE asset <> 'USD/5'"))
        assert kept == {account_id: account["name"] for account_id, account in reference.accounts.items()}


@given(seed=st.integers(0, 2**32), length=st.integers(5, 30))
@settings(examples(6), suppress_health_check=[HealthCheck.function_scoped_fixture])
@on_reactor
async def test_the_writer_and_the_reference_agree_on_the_core(
    database_server: DatabaseServer, seed: int, length: int
) -> None:
    with database_server.database() as url:
        async with House(url, database_server) as house:
            house.sql("SET session_replication_role = replica; DELETE FROM accounts WHERE asset <> 'USD/5'")
            stage = Stage(house, seed)
            await stage.admit()
            await stage.writer.start()
            try:
                await stage.pass_time(0)
                for _ in range(length):
                    await stage.play(stage.player.batch())
                    stage.side.check(stage.accounts())
                    if stage.chance.random() < 0.5:
                        await stage.pass_time(stage.chance.choice((1, 1, 2, 5)))
                await house.check_clean()  # also while what is over is still to be written
                await stage.pass_time(40)
                sweeps = [stage.player.sweep(account.id) for account in stage.accounts()]
                await stage.play([(sweeps, False)])
                assert all(account.held == 0 or account.id in held_for_ever(stage) for account in stage.accounts())
                stage.check_tables()
            finally:
                await stage.writer.stop()
            await house.check_clean()


def held_for_ever(stage: Stage) -> set[str]:
    """The accounts with holds that no time ends."""
    holds = stage.side.reference.holds.values()
    return {hold["account"] for hold in holds if hold["status"] == "open" and hold["expires_at"] is None}

"""The audit of all that is beside accounts and entries: whoever changes a row or forges a record is found out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from ledger.domain.account_commands import AmendAccount, OpenAccount
from ledger.domain.commands import Command, Leg, Sealed
from ledger.domain.game_dialect import read_transaction
from ledger.domain.game_users import create_user, game_account_id, set_user_status
from ledger.domain.games import command_of
from ledger.domain.holds import CaptureHold, ExpireHolds, OpenHold, VoidHold
from ledger.domain.journal import GENESIS, Record, body_of, seal
from ledger.domain.periods import ClosePeriod
from ledger.domain.reversals import Reverse, legs_back
from ledger.domain.transfers import Transfer
from ledger.services.writer import Writer
from tests.core_commands import view_of
from tests.core_programs import Ask
from tests.game_strategies import uuid_of
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, reactor
from tests.postgres.timed import START, Timed
from tests.strategies import DOLLAR

TABLES = (
    "journal",
    "transactions",
    "accounts",
    "holds",
    "reversed_transfers",
    "backdated_entries",
    "closed_periods",
    "game_users",
    "game_undone",
)
NOBODY = "ffffffff-0000-7000-8000-000000000001"


class Scene:
    """A journal with a record of each kind, by the names that `ids` and `seqs` give them."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.one, self.two = house.cast.accounts[0].id, house.cast.accounts[1].id
        self.ids: dict[str, str] = {}
        self.seqs: dict[str, int] = {}
        self.records: dict[str, Record] = {}
        self.store = Timed(house.url)
        self.writer = Writer(self.store, reactor, house.published.extend)

    def id(self, name: str) -> str:
        """A new id, by a name."""
        self.ids[name] = self.house.credit().id
        return self.ids[name]

    async def play(self, **commands: Command) -> None:
        """Have the writer do all of that, which it must grant."""
        for command, outcome in zip(
            commands.values(), await self.writer.submit_bundle(list(commands.values())), strict=True
        ):
            assert isinstance(outcome, Sealed), (command, outcome)
            (name,) = (name for name, one in commands.items() if one is command)
            self.ids[name], self.seqs[name] = outcome.record.id, outcome.record.seq
            self.records[name] = outcome.record

    def hold(self, name: str, amount: int, expires_in: int | None = None) -> Command:
        """A hold of the first account."""
        account, said = self.one, f"hold {name}"
        return OpenHold(
            id=self.id(name), account_id=account, asset=DOLLAR, amount=amount, expires_in=expires_in, description=said
        )

    def transfer(self, amount: int, effective_at: str | None = None) -> Command:
        """From the first account to the second."""
        legs = (Leg(self.one, self.two, amount),)
        return Transfer(id=self.house.credit().id, legs=legs, assets=(DOLLAR,), effective_at=effective_at)

    def reverse(self, original: str, amount: int | None = None) -> Command:
        """Undo something."""
        record = self.records[original]
        back = legs_back(record)
        assets = (DOLLAR,) * len(back)
        return Reverse(id=self.house.credit().id, original=record, legs=back, assets=assets, amount=amount)

    def game(self, kind: str, number: int, **more: Any) -> Command:
        """Something that ada plays."""
        body = {"user": "ada", "transaction_uuid": uuid_of(number), "request_uuid": uuid_of(900 + number), **more}
        return command_of(read_transaction(kind, body), game_account_id("ada"), self.house.credit().id)

    async def set(self) -> None:
        """Make the journal."""
        new, one, two = self.house.credit, self.one, self.two
        user = self.house.cast.scopes[0]
        self.house.sql(
            "INSERT INTO users (id, email, full_name, password_hash) VALUES (%s, 'a@example.com', 'a', 'x')", user
        )
        opened = OpenAccount(id=new().id, user_id=user, asset=DOLLAR, type="CREDIT", name="plastic", credit_limit=50)
        amended = AmendAccount(id=new().id, account=view_of(opened.id, user), name="gold", credit_limit=70)
        frozen = AmendAccount(id=new().id, account=view_of(opened.id, user), status="FROZEN")
        await self.play(credit=new(0, 1_000), more=new(1, 5), opened=opened, amended=amended, frozen=frozen)
        await self.play(
            captured=self.hold("captured", 100),
            voided=self.hold("voided", 10),
            over=self.hold("over", 20, 1),
            still=self.hold("still", 30),
            sent=self.transfer(40),
        )
        of_hold: dict[str, Any] = {"account_id": one, "asset": DOLLAR}
        await self.play(
            capture=CaptureHold(id=new().id, hold_id=self.ids["captured"], amount=60, target=two, **of_hold),
            void=VoidHold(id=new().id, hold_id=self.ids["voided"], **of_hold),
            part=self.reverse("sent", 15),
            whole=self.reverse("more"),
            first_close=ClosePeriod(id=new().id, until=Ask.after(START, -100)),
            second_close=ClosePeriod(id=new().id, until=Ask.after(START, -50)),
            backdated=self.transfer(7, Ask.after(START, -20)),
        )
        bet = {"currency": "USD", "amount": 500}
        await self.play(
            ada=create_user("ada", new().id),
            eve=create_user("eve", new().id),
            disabled=set_user_status("eve", "DISABLED", new().id),
            bet=self.game("bet", 1, **bet),
            undo=self.game("rollback", 2, reference_transaction_uuid=uuid_of(1)),
            again=self.game("rollback", 3, reference_transaction_uuid=uuid_of(1)),
            before=self.game("rollback", 4, reference_transaction_uuid=uuid_of(77)),
        )
        self.store.at = Ask.after(START, 60)
        await self.play(elsewhere=new(2, 1))
        outcomes = await self.writer.submit_bundle([ExpireHolds(id=new().id, account_id=one)])
        assert isinstance(outcomes[0], Exception)  # the batch itself has ended it
        await self.play(late=new(0, 1, kind="debit"))

    def forge(self, name: str, change: Callable[[Record], Record], *rows: str) -> None:
        """Put another record in the place of one, seal all that follow anew, and change further rows to match."""
        forged = change(self.records[name])
        sets = "SET session_replication_role = replica"
        self.house.sql(
            f"{sets}; UPDATE journal SET body = %s, reverses = %s, effective_at = %s WHERE seq = %s",
            body_of(forged).decode(),
            forged.reverses,
            forged.effective_at or forged.posted_at,
            forged.seq,
        )
        digest, statements = GENESIS, [sets, *rows]
        for seq, body in self.house.sql("SELECT seq, body FROM journal ORDER BY seq"):
            digest = seal(digest, body.encode())
            statements.append(f"UPDATE journal SET hash = '\\x{digest.hex()}' WHERE seq = {seq}")
        self.house.sql("; ".join(statements))

    async def named(self) -> str | None:
        """The row that the audit names."""
        verdict = await self.house.verdict()
        return None if verdict.first_failure is None else verdict.first_failure.row


@asynccontextmanager
async def scene_of(url: str, server: DatabaseServer) -> AsyncIterator[Scene]:
    """A scene that is set, with copies of its tables."""
    async with House(url, server) as house:
        scene = Scene(house)
        await scene.writer.start()
        try:
            await scene.set()
        finally:
            await scene.writer.stop()
        await house.check_clean()
        house.sql("".join(f"CREATE TABLE kept_{table} AS TABLE {table};" for table in TABLES))
        yield scene
        await house.check_clean()


def restore(house: House) -> None:
    """Put everything back as it was."""
    again = (f"DELETE FROM {table}; INSERT INTO {table} SELECT * FROM kept_{table};" for table in TABLES)
    house.sql(f"SET session_replication_role = replica; {''.join(again)}")


def changed_rows(scene: Scene) -> list[tuple[str, str]]:
    """What is done to the tables, and the row to be named."""
    ids, one, last = scene.ids, scene.one, scene.seqs["late"]
    found: list[tuple[str, str]] = []
    changes = (
        "account_id = gen_random_uuid()",
        "amount = amount + 1",
        "expires_at = coalesce(expires_at, now()) + interval '1 microsecond'",
        "description = NULL",
        "created_at = created_at - interval '1 microsecond'",
        "seq = seq + 1",
        "seq = 100000",
    )
    for name in ("captured", "voided", "over", "still"):
        row = f"holds {ids[name]}"
        found += [(f"UPDATE holds SET {change} WHERE id = '{ids[name]}'", row) for change in changes]
        status = "expired" if name in ("voided", "still") else "voided"
        found.append((f"UPDATE holds SET status = '{status}' WHERE id = '{ids[name]}'", row))
        found.append((f"UPDATE holds SET captured = captured + 1 WHERE id = '{ids[name]}'", row))
        found.append((f"DELETE FROM holds WHERE id = '{ids[name]}'", row))
        if name != "still":
            found.append((f"UPDATE holds SET status = 'open', captured = 0 WHERE id = '{ids[name]}'", row))
    insert = "INSERT INTO holds (id, account_id, amount, status, created_at, seq) VALUES"
    for status in ("open", "voided"):
        found.append((f"{insert} ('{NOBODY}', '{one}', 5, '{status}', now(), 1)", f"holds {NOBODY}"))
    for name, original in (("part", "sent"), ("whole", "more")):
        of_it, row = f"WHERE transfer_id = '{ids[original]}'", f"reversed_transfers {ids[original]}"
        found += [
            (f"UPDATE reversed_transfers SET amount = amount + 1 {of_it}", row),
            (f"UPDATE reversed_transfers SET seq = {scene.seqs[name] - 1} {of_it}", row),
            (f"UPDATE reversed_transfers SET seq = 100000 {of_it}", row),
            (f"DELETE FROM reversed_transfers {of_it}", row),
        ]
    found.append((f"INSERT INTO reversed_transfers VALUES ('{NOBODY}', 5, 1)", f"reversed_transfers {NOBODY}"))
    moved = scene.records["backdated"].entries[0]
    of_it = f"WHERE account_id = '{one}' AND version = {moved.version}"
    row = f"backdated_entries {one} {moved.version}"
    found += [
        (f"UPDATE backdated_entries SET account_id = '{NOBODY}' {of_it}", row),
        (f"UPDATE backdated_entries SET effective_at = effective_at - interval '1 second' {of_it}", row),
        (f"UPDATE backdated_entries SET version = version + 100 {of_it}", row),
        (f"UPDATE backdated_entries SET amount = amount + 1 {of_it}", row),
        (f"UPDATE backdated_entries SET posted_at = posted_at + interval '1 microsecond' {of_it}", row),
        (f"DELETE FROM backdated_entries {of_it}", row),
        (f"INSERT INTO backdated_entries VALUES ('{one}', '{START}', 1, 5, now())", f"backdated_entries {one} 1"),
        (
            "INSERT INTO backdated_entries SELECT account_id, effective_at - interval '1 s', version, amount, posted_at"
            f" FROM backdated_entries {of_it}",
            row,
        ),
    ]
    first, second = (scene.records[name].metadata or {} for name in ("first_close", "second_close"))
    row, seq = f"closed_periods {first['until']}", scene.seqs["first_close"]
    found += [
        (f"UPDATE closed_periods SET until = until - interval '1 second' WHERE seq = {seq}", row),
        (f"UPDATE closed_periods SET seq = seq + 1 WHERE seq = {seq}", row),
        (f"DELETE FROM closed_periods WHERE seq = {seq}", row),
        (f"DELETE FROM closed_periods WHERE seq = {seq + 1}", f"closed_periods {second['until']}"),
        (f"INSERT INTO closed_periods VALUES ('{START}', {seq})", f"closed_periods {START}"),
        (f"INSERT INTO closed_periods VALUES ('{START}', {last})", f"closed_periods {START}"),
    ]
    opened = f"accounts {ids['opened']}"
    for change in (
        "user_id = NULL",
        "type = 'CHECKING'",
        "created_at = created_at + interval '1 microsecond'",
        "name = 'plastic'",
        "name = NULL",
        "status = 'ACTIVE'",
        "credit_limit = 50",
    ):
        found.append((f"UPDATE accounts SET {change} WHERE id = '{ids['opened']}'", opened))
    found.append((f"UPDATE accounts SET asset = 'EUR/2' WHERE id = '{ids['opened']}'", opened))
    ada, eve = game_account_id("ada"), game_account_id("eve")
    mark = f"WHERE transaction_uuid = '{uuid_of(1)}'"
    row = f"game_undone {uuid_of(1)} {ada}"
    copy = f"SELECT '{NOBODY}', name || '!', status FROM game_users WHERE account_id = '{ada}'"
    found += [
        (f"UPDATE game_users SET status = 'DISABLED' WHERE account_id = '{ada}'", f"game_users {ada}"),
        (f"UPDATE game_users SET status = 'ACTIVE' WHERE account_id = '{eve}'", f"game_users {eve}"),
        (f"UPDATE game_users SET name = 'adam' WHERE account_id = '{ada}'", f"game_users {ada}"),
        (f"DELETE FROM game_users WHERE account_id = '{ada}'", f"game_users {ada}"),
        (f"INSERT INTO game_users (account_id, name, status) {copy}", f"game_users {NOBODY}"),
        (f"UPDATE accounts SET name = 'adam' WHERE id = '{ada}'", f"accounts {ada}"),
        (f"UPDATE accounts SET type = 'SAVINGS' WHERE id = '{ada}'", f"accounts {ada}"),
        (f"UPDATE game_undone SET transaction_uuid = '{uuid_of(5)}' {mark}", row),
        (f"UPDATE game_undone SET account_id = '{eve}' {mark}", row),
        (f"UPDATE game_undone SET seq = seq + 1 {mark}", row),
        (f"UPDATE game_undone SET seq = seq - 1 {mark}", f"journal {scene.seqs['undo']}"),
        (f"DELETE FROM game_undone {mark}", row),
        (f"DELETE FROM game_undone WHERE transaction_uuid = '{uuid_of(77)}'", f"game_undone {uuid_of(77)} {ada}"),
        (
            f"INSERT INTO game_undone VALUES ('{uuid_of(5)}', '{ada}', {scene.seqs['undo']})",
            f"game_undone {uuid_of(5)} {ada}",
        ),
        (f"INSERT INTO game_undone VALUES ('{uuid_of(5)}', '{ada}', {last})", f"game_undone {uuid_of(5)} {ada}"),
    ]
    return found


@on_reactor
async def test_whoever_changes_a_row_is_found_out(database_url: str, database_server: DatabaseServer) -> None:
    async with scene_of(database_url, database_server) as scene:
        wrong = {}
        for statement, row in changed_rows(scene):
            scene.house.sql(f"SET session_replication_role = replica; {statement}")
            named = await scene.named()
            if named != row:
                wrong[statement] = (row, named)
            restore(scene.house)
        assert wrong == {}


def saying(**more: Any) -> Callable[[Record], Record]:
    """A record that says something else in its metadata."""
    return lambda record: msgspec.structs.replace(record, metadata={**(record.metadata or {}), **more})


def with_change(**more: Any) -> Callable[[Record], Record]:
    """A record with another state in its change."""
    return lambda record: msgspec.structs.replace(
        record, changes=(msgspec.structs.replace(record.changes[0], **more), *record.changes[1:])
    )


def forgeries(scene: Scene) -> list[tuple[str, Callable[[Record], Record], tuple[str, ...], str]]:
    """Which record is replaced by what, the rows that are changed to match, and the row to be named."""
    ids, replace = scene.ids, msgspec.structs.replace
    soon, another = Ask.after(START, 5), uuid_of(78)
    of_still = f"WHERE id = '{ids['still']}'"

    def journal(name: str) -> str:
        return f"journal {scene.seqs[name]}"

    def moving(amount: int) -> Callable[[Record], Record]:
        return lambda record: replace(
            record, entries=tuple(replace(e, amount=amount if e.amount > 0 else -amount) for e in record.entries)
        )

    return [
        ("still", with_change(held=161, available=799), (), journal("still")),
        ("still", saying(amount=31), (f"UPDATE holds SET amount = 31 {of_still}",), journal("still")),
        ("still", saying(amount="30"), (), journal("still")),
        ("still", saying(expires_at=START), (f"UPDATE holds SET expires_at = '{START}' {of_still}",), journal("still")),
        ("still", saying(expires_at=soon), (f"UPDATE holds SET expires_at = '{soon}' {of_still}",), journal("late")),
        ("still", with_change(status="FROZEN"), (), journal("still")),
        ("void", saying(hold=ids["captured"]), (), journal("void")),
        ("void", saying(hold=ids["over"]), (), journal("void")),
        ("void", saying(hold=NOBODY), (), journal("void")),
        ("void", saying(hold=[{}]), (), journal("void")),
        ("void", saying(created_at=soon), (), journal("void")),
        ("void", lambda record: replace(record, metadata=None), (), journal("void")),
        ("capture", moving(101), (), journal("capture")),
        ("part", moving(41), (), journal("part")),
        ("part", lambda record: replace(record, reverses=NOBODY), (), journal("part")),
        ("part", lambda record: replace(record, reverses=ids["void"]), (), journal("part")),
        ("part", lambda record: replace(record, reverses=ids["more"]), (), journal("part")),
        ("part", lambda record: replace(record, reverses=None), (), journal("part")),
        ("whole", lambda record: replace(record, entries=record.entries[::-1]), (), journal("whole")),
        ("backdated", lambda r: replace(r, effective_at=Ask.after(START, -51)), (), journal("backdated")),
        ("backdated", lambda r: replace(r, effective_at=soon), (), journal("backdated")),
        (
            "second_close",
            saying(until=Ask.after(START, -101)),
            (f"UPDATE closed_periods SET until = '{Ask.after(START, -101)}' WHERE seq = {scene.seqs['second_close']}",),
            journal("second_close"),
        ),
        ("second_close", saying(until=soon), (), journal("second_close")),
        ("second_close", saying(until=None), (), journal("second_close")),
        ("opened", saying(type="CHECKING"), (), journal("opened")),
        ("opened", saying(user_id=NOBODY), (), f"accounts {ids['opened']}"),
        ("opened", with_change(balance=1, available=51), (), journal("opened")),
        ("opened", with_change(account=scene.one), (), journal("opened")),
        ("amended", saying(credit_limit=71), (), journal("amended")),
        ("amended", with_change(status="FROZEN"), (), journal("amended")),
        ("amended", saying(name="silver"), (), f"accounts {ids['opened']}"),
        ("frozen", saying(status="CLOSED"), (), journal("frozen")),
        ("disabled", saying(name="ada"), (), journal("disabled")),
        ("disabled", saying(status="ACTIVE"), (), f"game_users {game_account_id('eve')}"),
        ("undo", saying(reference_transaction_uuid=another), (), f"game_undone {another} {game_account_id('ada')}"),
        ("undo", lambda record: replace(record, metadata={}), (), journal("undo")),
    ]  # fmt: skip


@on_reactor
async def test_whoever_forges_a_record_is_found_out(database_url: str, database_server: DatabaseServer) -> None:
    async with scene_of(database_url, database_server) as scene:
        wrong = {}
        for number, (name, change, rows, row) in enumerate(forgeries(scene)):
            scene.forge(name, change, *rows)
            named = await scene.named()
            if named != row:
                wrong[number, name] = (row, named)
            restore(scene.house)
        assert wrong == {}


@on_reactor
async def test_what_is_given_back_twice_is_found_out(database_url: str, database_server: DatabaseServer) -> None:
    async with scene_of(database_url, database_server) as scene:
        await scene.writer.start()
        await scene.play(money=scene.house.credit(0, 5_000), once=scene.reverse("credit"))
        await scene.house.check_clean()
        row = f"reversed_transfers {scene.ids['credit']}"
        scene.house.sql("DELETE FROM reversed_transfers WHERE transfer_id = %s", scene.ids["credit"])
        await scene.play(twice=scene.reverse("credit"))
        await scene.writer.stop()
        assert await scene.named() == row
        restore(scene.house)

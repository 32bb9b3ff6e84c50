"""Wallets over a real database: opened whole or not at all, their tokens replaced, their money spent once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from twisted.internet.defer import Deferred, ensureDeferred

from ledger.config import read_config
from ledger.domain.accounts import Owner, world_id
from ledger.domain.cash import Charge, Topup
from ledger.domain.commands import Sealed
from ledger.domain.errors import Refused
from ledger.domain.policy import Caller
from ledger.domain.secret import Secret
from ledger.domain.users import Changes
from ledger.services import settling
from ledger.services.core import Core
from ledger.services.ids import new_id
from ledger.services.wallets import Opened, Wallets
from ledger.store.postgres import Session
from ledger.store.tokens import hash_of
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, outcome_of, pause, reactor, refusal_of, until
from tests.postgres.test_core import caller_of, core_of
from tests.postgres.test_faults import session

_IN_COMMIT = 44  # the advisory lock that the slow COMMIT of a token waits for
PASSWORD = Secret("correct horse battery")


@asynccontextmanager
async def wallets_of(url: str, server: DatabaseServer) -> AsyncIterator[tuple[House, Core]]:
    """A house and its core."""
    async with House(url, server) as house, core_of(house) as core:
        yield house, core


async def reason(work: Any) -> str:
    """The reason that some work is refused for."""
    return (await refusal_of(work)).reason


def cash(kind: type[Topup | Charge], owner: Owner, amount: int, **more: Any) -> Topup | Charge:
    """A command."""
    return kind(
        id=new_id(),
        scope=owner.user_id or owner.account_id,
        account_id=owner.account_id,
        user_id=owner.user_id,
        asset=owner.asset,
        amount=amount,
        **more,
    )


def live_tokens(house: House, account_id: str) -> list[bytes]:
    """The hashes of an account's tokens that have not ended."""
    rows = house.sql("SELECT token_hash FROM account_tokens WHERE account_id = %s AND revoked_at IS NULL", account_id)
    return [bytes(row[0]) for row in rows]


@on_reactor
async def test_an_account_is_opened_with_a_token(database_url: str, database_server: DatabaseServer) -> None:
    async with wallets_of(database_url, database_server) as (house, core):
        for currency, asset in ((None, "USD/2"), ("JPY", "JPY/0"), ("JPY", "JPY/0")):
            made = await core.wallets.open("Tea", currency)
            account = made.account
            assert (account.user_id, account.asset, made.name) == (None, asset, "Tea")
            kept = house.sql("SELECT name, type, status FROM accounts WHERE id = %s", account.account_id)
            assert kept == [("Tea", "CHECKING", "ACTIVE")]
            caller = await caller_of(core, made.token.reveal())
            assert (caller.account_id, caller.user_id, caller.scope) == (account.account_id, None, account.account_id)
            wallet = await core.wallets.read(account.account_id)
            assert (wallet.name, wallet.account.asset, wallet.account.balance) == ("Tea", asset, 0)
            assert repr(made).count("***") == 1
        assert house.sql("SELECT count(*) FROM accounts WHERE id = %s", world_id("JPY/0")) == [(1,)]
        assert await reason(core.wallets.open("Tea", "QQQ")) == "invalid_currency_format"
        assert await reason(core.wallets.read(new_id())) == "account_not_found"
        (booked,) = await house.submit(cash(Topup, account, 5))
        assert isinstance(booked, Sealed)
        assert (await core.wallets.read(account.account_id)).account.balance == 5
        await house.check_clean()


@on_reactor
async def test_a_hundred_charges_at_once_against_money_for_ten(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with wallets_of(database_url, database_server) as (house, core):
        owner = (await core.wallets.open("Tea", None)).account
        await house.submit(cash(Topup, owner, 1_000))
        told = await house.submit(*(cash(Charge, owner, 100, key=f"k{n}") for n in range(100)))
        assert sum(isinstance(one, Sealed) for one in told) == 10
        assert {one.reason for one in told if isinstance(one, Refused)} == {"insufficient_funds"}
        assert (await core.wallets.read(owner.account_id)).account.balance == 0
        assert house.sql("SELECT count(*) FROM journal WHERE kind = 'charge'") == [(10,)]
        await house.check_clean()


@on_reactor
async def test_a_new_token_stops_all_former_ones_at_once(database_url: str, database_server: DatabaseServer) -> None:
    async with wallets_of(database_url, database_server) as (house, core):
        made, other = await core.wallets.open("Tea", None), await core.wallets.open("Coffee", None)
        account_id, old = made.account.account_id, made.token.reveal()
        seeded = "another token of that account"
        house.sql("INSERT INTO account_tokens (token_hash, account_id) VALUES (%s, %s)", hash_of(seeded), account_id)
        caller = await caller_of(core, old)
        assert (await caller_of(core, seeded)).account_id == account_id
        bystander = await caller_of(core, other.token.reveal())
        stopped: list[str] = []
        for token in (old, seeded, other.token.reveal()):
            core._credentials.watch(token, lambda token=token: stopped.append(token))  # type: ignore[misc]
        new = (await core.wallets.renew_token(caller, account_id)).reveal()
        assert sorted(stopped) == sorted([old, seeded])
        for token in (old, seeded):
            assert await reason(caller_of(core, token)) == "invalid_token"
        assert (await caller_of(core, new)).account_id == account_id
        assert core.authenticate(other.token.reveal()) == bystander
        assert live_tokens(house, account_id) == [hash_of(new)]
        assert house.sql("SELECT count(*) FROM account_tokens WHERE position(%s IN encode(token_hash, 'escape')) > 0",
                         new) == [(0,)]  # fmt: skip


@on_reactor
async def test_of_many_renewals_with_one_token_one_is_done(database_url: str, database_server: DatabaseServer) -> None:
    async with wallets_of(database_url, database_server) as (house, core):
        made = await core.wallets.open("Tea", None)
        account_id = made.account.account_id
        caller = await caller_of(core, made.token.reveal())
        asked = [ensureDeferred(core.wallets.renew_token(caller, account_id)) for _ in range(20)]
        told: list[Any] = await house.gather(asked)
        (new,) = [one for one in told if isinstance(one, Secret)]
        assert {one.reason for one in told if isinstance(one, Refused)} == {"invalid_token"}
        assert live_tokens(house, account_id) == [hash_of(new.reveal())]


@on_reactor
async def test_who_was_let_in_before_their_credential_stopped_gets_no_token(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with wallets_of(database_url, database_server) as (house, core):
        await core.users.create("root@example.com", "Root", PASSWORD, "admin")
        user = await core.users.register("Ada", "ada@example.com", PASSWORD)
        account_id = user.account.account_id
        callers = [await caller_of(core, user.token)]
        for email in ("ada@example.com", "root@example.com"):
            given = await core.sessions.login(email, PASSWORD, "::1")
            callers.append(await caller_of(core, given.access_token.reveal()))
        by_token, ada, root = callers
        tokens = [await core.wallets.renew_token(caller, account_id) for caller in (by_token, ada, root)]
        assert live_tokens(house, account_id) == [hash_of(tokens[-1].reveal())]
        assert await reason(core.wallets.renew_token(by_token, account_id)) == "invalid_token"
        await core.sessions.logout_all(ada)
        house.sql("UPDATE users SET role = 'user' WHERE id = %s", root.user_id)
        for caller in (ada, root, Caller("user", user_id=ada.user_id, role="user")):
            assert await reason(core.wallets.renew_token(caller, account_id)) == "invalid_token"
        assert live_tokens(house, account_id) == [hash_of(tokens[-1].reveal())]
        assert (await caller_of(core, tokens[-1].reveal())).user_id == user.user_id


@on_reactor
async def test_the_account_of_a_deleted_user_gets_no_token(database_url: str, database_server: DatabaseServer) -> None:
    async with wallets_of(database_url, database_server) as (house, core):
        await core.users.create("root@example.com", "Root", PASSWORD, "admin")
        ada = await core.users.register("Ada", "ada@example.com", PASSWORD)
        given = await core.sessions.login("root@example.com", PASSWORD, "::1")
        root = await caller_of(core, given.access_token.reveal())
        await core.users.change(root, ada.user_id, Changes(status="SUSPENDED"))
        token = (await core.wallets.renew_token(root, ada.account.account_id)).reveal()
        assert await reason(caller_of(core, token)) == "invalid_token"  # until the user is active again
        await core.users.change(root, ada.user_id, Changes(status="ACTIVE"))
        assert (await caller_of(core, token)).user_id == ada.user_id
        await core.users.delete(root, ada.user_id)
        assert await reason(core.wallets.renew_token(root, ada.account.account_id)) == "account_inactive"
        assert live_tokens(house, ada.account.account_id) == []


@on_reactor
async def test_a_token_is_replaced_while_charges_run(database_url: str, database_server: DatabaseServer) -> None:
    async with wallets_of(database_url, database_server) as (house, core):
        made = await core.wallets.open("Tea", None)
        owner, tokens = made.account, [made.token.reveal()]
        await house.submit(cash(Topup, owner, 100_000))
        outcomes: list[Any] = []

        async def charge(token: str) -> None:
            try:
                caller = await caller_of(core, token)
                outcomes.append(await core.submit(msgspec.structs.replace(cash(Charge, owner, 1), scope=caller.scope)))
            except Refused as refused:
                outcomes.append(refused)

        running: list[Deferred[None]] = []
        for _ in range(20):
            running += [ensureDeferred(charge(token)) for token in tokens for _ in range(3)]
            caller = await caller_of(core, tokens[-1])
            tokens.append((await core.wallets.renew_token(caller, owner.account_id)).reveal())
            before = len(outcomes)
            for token in tokens[:-1]:
                await charge(token)
            assert {getattr(one, "reason", "booked") for one in outcomes[before:] if isinstance(one, Refused)} == {
                "invalid_token"
            }
        await house.gather(running)
        booked = sum(isinstance(one, Sealed) for one in outcomes)
        assert booked >= 20
        assert {one.reason for one in outcomes if isinstance(one, Refused)} == {"invalid_token"}
        assert (await core.wallets.read(owner.account_id)).account.balance == 100_000 - booked
        assert live_tokens(house, owner.account_id) == [hash_of(tokens[-1])]
        await house.check_clean()


class Doubt:
    """Wallets whose every COMMIT of a token waits for a lock, which is held for now."""

    def __init__(self, house: House, committing: list[Session]) -> None:
        self.house = house
        self.stopped: list[str] = []
        self.committing = committing
        self.wallets = Wallets(read_config({}, {}), house.pool, self.stopped.append, new_id, reactor)

    def make_commits_wait(self) -> None:
        """Have it so from here on."""
        self.house.sql(
            f"""CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN PERFORM pg_advisory_xact_lock_shared({_IN_COMMIT}); RETURN NULL; END';
                CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON account_tokens DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION linger()"""
        )
        del self.committing[:]

    async def stuck(self) -> int:
        """The process that stands in its COMMIT, once it does."""
        waiting = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"
        ((backend,),) = await until(lambda: self.house.sql(waiting, _IN_COMMIT))
        return int(backend)

    def opening(self) -> Deferred[Any]:
        """Begin to open an account."""
        return Deferred.fromCoroutine(outcome_of(ensureDeferred(self.wallets.open("Tea", None))))

    def renewing(self, made: Opened) -> Deferred[Any]:
        """Begin to replace an account's token."""
        caller = Caller("account", made.account.account_id, token_hash=hash_of(made.token.reveal()).hex())
        renewed = self.wallets.renew_token(caller, made.account.account_id)
        return Deferred.fromCoroutine(outcome_of(ensureDeferred(renewed)))


@asynccontextmanager
async def doubt_of(url: str, server: DatabaseServer, committing: list[Session]) -> AsyncIterator[Doubt]:
    """Wallets in a database that does not look after clients that are gone: it would end their COMMITs too early."""
    name = urlsplit(url).path[1:]
    server.execute(f"ALTER DATABASE {name} SET client_connection_check_interval = 0")
    async with House(url, server) as house:
        yield Doubt(house, committing)


@pytest.fixture
def committing(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """The sessions that were told to commit, in order."""
    seen: list[Session] = []
    commit = Session.commit

    async def noted(self: Session) -> None:
        seen.append(self)
        await commit(self)

    monkeypatch.setattr(Session, "commit", noted)
    return seen


@on_reactor
async def test_what_is_killed_in_its_commit_was_not_done(
    database_url: str, database_server: DatabaseServer, committing: list[Session]
) -> None:
    async with doubt_of(database_url, database_server, committing) as doubt:
        house, made = doubt.house, await doubt.wallets.open("Tea", None)
        doubt.make_commits_wait()
        for begin in (doubt.opening, lambda: doubt.renewing(made)):
            with session(database_url) as other:
                other.execute("SELECT pg_advisory_xact_lock(%s)", (_IN_COMMIT,))
                answer = begin()
                house.kill(await doubt.stuck())
                told: Any = await answer
            assert isinstance(told, Refused)
            assert (told.reason, told.details["outcome"]) == ("service_unavailable", "not_done")
        assert house.sql("SELECT count(*) FROM account_tokens WHERE revoked_at IS NULL") == [(1,)]
        assert house.sql("SELECT count(*) FROM accounts WHERE name = 'Tea'") == [(1,)]
        assert doubt.stopped == []
        assert isinstance(await doubt.renewing(made), Secret)


@on_reactor
async def test_what_is_committed_unheard_is_answered(
    database_url: str, database_server: DatabaseServer, committing: list[Session]
) -> None:
    async with doubt_of(database_url, database_server, committing) as doubt:
        house, made = doubt.house, await doubt.wallets.open("Tea", None)
        doubt.make_commits_wait()
        told: list[Any] = []
        for begin in (doubt.opening, lambda: doubt.renewing(made)):
            with session(database_url) as other:
                other.execute("SELECT pg_advisory_xact_lock(%s)", (_IN_COMMIT,))
                answer = begin()
                await doubt.stuck()
                committing.pop().close()
                for _ in range(30):
                    await pause()
                assert not answer.called  # the old backend is still at it: nothing is known yet
            told.append(await answer)
        opened, renewed = told
        assert live_tokens(house, opened.account.account_id) == [hash_of(opened.token.reveal())]
        assert live_tokens(house, made.account.account_id) == [hash_of(renewed.reveal())]
        assert doubt.stopped == [f"token:{hash_of(made.token.reveal()).hex()}"]


@on_reactor
async def test_what_does_not_end_is_in_doubt(
    database_url: str, database_server: DatabaseServer, committing: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "_SETTLE_WITHIN", 0.3)
    async with doubt_of(database_url, database_server, committing) as doubt:
        made = await doubt.wallets.open("Tea", None)
        doubt.make_commits_wait()
        for begin in (doubt.opening, lambda: doubt.renewing(made)):
            with session(database_url) as other:
                other.execute("SELECT pg_advisory_xact_lock(%s)", (_IN_COMMIT,))
                answer = begin()
                await doubt.stuck()
                committing.pop().close()
                told: Any = await answer
            assert isinstance(told, Refused)
            assert (told.reason, told.details["outcome"]) == ("service_unavailable", "unknown")

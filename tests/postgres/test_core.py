"""The core over a real database: what its surfaces are told of users, accounts and money."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ledger.config import read_config
from ledger.domain.cash import Credit
from ledger.domain.commands import Sealed
from ledger.domain.errors import Refused
from ledger.domain.policy import Caller
from ledger.domain.secret import Secret
from ledger.services.audit import Audit
from ledger.services.core import Core
from ledger.services.credentials import Credentials
from ledger.services.database import Database
from ledger.services.game_wallets import GameWallets
from ledger.services.ids import new_id
from ledger.services.job_desk import JobDesk
from ledger.services.login_guard import LoginGuard
from ledger.services.outbound import Breakers
from ledger.services.passwords import Passwords
from ledger.services.sessions import Sessions
from ledger.services.signing import Signer
from ledger.services.users import Users
from ledger.services.wallets import Wallets
from ledger.services.workers import Workers
from ledger.store import tokens
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, outcome_of, reactor, refusal_of


@asynccontextmanager
async def core_of(house: House) -> AsyncIterator[Core]:
    """A core on the house's database, which hears what stops."""
    database = Database(house.url, reactor, 3)
    pool, config = database.pool, read_config({}, {})
    passwords = Passwords(reactor, rounds=4)
    guard = LoginGuard(reactor.seconds, True)
    signer = Signer(b"s" * 32, reactor.seconds)
    credentials = Credentials(pool, signer, reactor)
    database.listener.on(tokens.CHANNEL, credentials.stopped)
    database.listener.tell(credentials)
    users = Users(config, pool, house.writer.submit, passwords, guard, credentials.stopped, new_id, reactor)
    sessions = Sessions(pool, signer, passwords, credentials, new_id, guard)
    await database.start()
    await passwords.start()
    try:
        audit, wallets = Audit(pool, reactor, new_id), Wallets(config, pool, credentials.stopped, new_id, reactor)
        games = GameWallets(pool, house.writer.submit, new_id, config.max_amount)
        desk = JobDesk(pool, Workers(), [], Breakers(reactor, random.random), new_id, reactor)
        yield Core(
            config, database, house.writer, credentials, users, sessions, audit, wallets, games, desk, list, reactor
        )
    finally:
        await passwords.stop()
        await database.stop()


async def caller_of(core: Core, token: str) -> Caller:
    """Whom a token stands for."""
    caller = core.authenticate(token)
    return caller if isinstance(caller, Caller) else await caller


@on_reactor
async def test_a_new_user_can_spend_what_is_credited(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house, core_of(house) as core:
        made = await core.users.register("Ada", "ada@example.com", Secret("correct horse"))
        token_hash = tokens.hash_of(made.token).hex()
        expected = Caller("account", made.account.account_id, made.user_id, token_hash=token_hash)
        assert await caller_of(core, made.token) == expected
        assert core.authenticate(made.token) == expected
        first: Any = core.first_account(made.user_id)
        assert (first if not hasattr(first, "__await__") else await first) == made.account
        state, _ = await core.account_state(made.account.account_id)
        assert (state.balance, state.status, state.type, state.version) == (0, "ACTIVE", "CHECKING", 0)
        for key in ("k", None):
            credit = Credit(
                id=core.new_id(),
                account_id=made.account.account_id,
                user_id=made.user_id,
                asset="USD/2",
                amount=5,
                scope=made.user_id,
                key=key,
            )
            assert isinstance(await outcome_of(core.submit(credit)), Sealed)
        assert (await core.account_state(made.account.account_id))[0].balance == 10
        assert (await core.health()).database
        await house.check_clean()


@on_reactor
async def test_who_is_deleted_or_given_another_password_is_logged_in_no_more(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house, core_of(house) as core:
        users, sessions = core.users, core.sessions
        password, other = Secret("correct horse battery"), Secret("another horse battery")
        await users.create("root@example.com", "Root", password, "admin")
        made = await users.register("Ada", "ada@example.com", password)
        admin = await caller_of(core, (await sessions.login("root@example.com", password, "::1")).access_token.reveal())
        here, there = [(await sessions.login("ada@example.com", password, "::1")).access_token.reveal() for _ in "ab"]
        ada = await caller_of(core, here)
        assert (await caller_of(core, there)).user_id == made.user_id
        await users.change_password(ada, password, other, "::1")
        assert await caller_of(core, here) == ada
        assert (await refusal_of(caller_of(core, there))).reason == "invalid_token"
        await users.set_password(made.user_id, password)
        assert (await refusal_of(caller_of(core, here))).reason == "invalid_token"
        assert (await caller_of(core, made.token)).account_id == made.account.account_id
        again = (await sessions.login("ada@example.com", password, "::1")).access_token.reveal()
        assert (await caller_of(core, again)).user_id == made.user_id
        await users.delete(admin, made.user_id)
        for token in (again, made.token):
            assert (await refusal_of(caller_of(core, token))).reason == "invalid_token"
        late = sessions.login("ada@example.com", password, "::1")
        assert (await refusal_of(late)).reason == "invalid_credentials"
        await house.check_clean()


@on_reactor
async def test_what_is_unknown(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house, core_of(house) as core:
        nobody = house.cast.unknown
        for found in (core.owner(nobody), core.first_account(nobody)):
            assert found is not None
            assert await found is None  # type: ignore[misc]
        with pytest.raises(Refused) as refused:
            await core.account_state(nobody)
        assert refused.value.reason == "account_not_found"

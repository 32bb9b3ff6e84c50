"""The core over a real database: users are made whole or not at all, and an address belongs to one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from twisted.internet.defer import ensureDeferred

from ledger.config import read_config
from ledger.domain.cash import Credit
from ledger.domain.commands import Sealed
from ledger.domain.errors import Refused
from ledger.domain.policy import Caller
from ledger.services.core import Core, Registered
from ledger.services.credentials import Credentials
from ledger.services.database import Database
from ledger.services.passwords import Passwords
from ledger.store.tokens import hash_of
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, outcome_of, reactor, refusal_of


@asynccontextmanager
async def core_of(house: House) -> AsyncIterator[Core]:
    """A core on the house's database."""
    database = Database(house.url, reactor, 3)
    passwords = Passwords(reactor, rounds=4)
    credentials = Credentials(database.pool)
    database.listener.tell(credentials)
    config = read_config({}, {})
    await database.start()
    await passwords.start()
    try:
        yield Core(config, database, house.writer, passwords, credentials, list)
    finally:
        await passwords.stop()
        await database.stop()


@on_reactor
async def test_a_user_is_made_with_an_account_and_a_token(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house, core_of(house) as core:
        made = await core.register("Ada", "ada@example.com", "correct horse")
        assert (made.account.user_id, made.account.asset) == (made.user_id, "USD/2")
        caller = core.authenticate(made.token)
        expected = Caller("account", made.account.account_id, made.user_id)
        assert (caller if isinstance(caller, Caller) else await caller) == expected
        assert core.authenticate(made.token) == expected
        first = core.first_account(made.user_id)
        assert first is not None
        assert (first if not hasattr(first, "__await__") else await first) == made.account
        state, _ = await core.account_state(made.account.account_id)
        assert (state.balance, state.status, state.type, state.version) == (0, "ACTIVE", "CHECKING", 0)
        ((kept,),) = house.sql("SELECT password_hash FROM users")
        assert kept.startswith("$2b$")
        ((token_hash,),) = house.sql("SELECT token_hash FROM account_tokens")
        assert bytes(token_hash) == hash_of(made.token)
        credit = Credit(
            id=core.new_id(),
            account_id=made.account.account_id,
            user_id=made.user_id,
            asset="USD/2",
            amount=5,
            scope=made.user_id,
            key="k",
        )
        assert isinstance(await outcome_of(core.submit(credit)), Sealed)
        without_key = Credit(
            id=core.new_id(),
            account_id=made.account.account_id,
            user_id=made.user_id,
            asset="USD/2",
            amount=5,
            scope=made.user_id,
        )
        assert isinstance(await outcome_of(core.submit(without_key)), Sealed)
        assert (await core.account_state(made.account.account_id))[0].balance == 10
        assert (await core.health()).database
        await house.check_clean()


@on_reactor
async def test_an_address_is_taken_once(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house, core_of(house) as core:
        answers = [core.register(f"Ada {n}", "ada@example.com", "correct horse") for n in range(6)]
        told: list[Any] = await house.gather([ensureDeferred(answer) for answer in answers])
        made = [one for one in told if isinstance(one, Registered)]
        refused = [one.reason for one in told if isinstance(one, Refused)]
        assert (len(made), refused) == (1, ["email_already_exists"] * 5)
        again = await refusal_of(core.register("Ada", "ada@example.com", "correct horse"))
        assert (again.reason, again.details) == ("email_already_exists", {"field": "email"})
        accounts = "SELECT count(*) FROM accounts WHERE user_id IS NOT NULL"
        counts = [house.sql(sql)[0][0] for sql in ("SELECT count(*) FROM users", accounts)]
        assert counts == [1, 1]  # those refused left nothing behind
        house.sql("UPDATE users SET status = 'DELETED'")
        assert isinstance(await core.register("Eve", "ada@example.com", "correct horse"), Registered)


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

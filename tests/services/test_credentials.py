"""Tokens: remembered while revocations are heard, and not a moment longer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred

from ledger.domain.errors import Refused
from ledger.domain.policy import Caller
from ledger.services import credentials as credentials_module
from ledger.services.credentials import Credentials
from ledger.services.listener import Listener
from ledger.store import tokens
from ledger.store.postgres import Session
from ledger.store.tokens import add_token, hash_of, new_token
from tests.cleanliness import LoggedErrors
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, reactor, refusal_of, until

CALLER = Caller("account", "a", "u")


class Lookups:
    """The database's answers, given when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[bytes, Deferred[Caller | None]]] = []
        self.valid: set[bytes] = set()
        monkeypatch.setattr(credentials_module, "find_caller", self.find)
        monkeypatch.setattr(credentials_module, "still_valid", self.still)
        self.credentials = Credentials(None)  # type: ignore[arg-type]

    def find(self, _: object, token_hash: bytes) -> Deferred[Caller | None]:
        """Keep a question."""
        self.asked.append((token_hash, Deferred()))
        return self.asked[-1][1]

    async def still(self, _: object, hashes: list[bytes]) -> set[bytes]:
        """Which are valid."""
        return self.valid & set(hashes)

    def ask(self, token: str) -> list[Any]:
        """Authenticate, and note what it comes to."""
        told: list[Any] = []
        found = self.credentials.authenticate(token)
        if isinstance(found, Caller):
            told.append(found)
        else:
            ensureDeferred(_awaited(found)).addBoth(lambda result: told.append(getattr(result, "value", result)))
        return told

    def answer(self, caller: Caller | None = CALLER) -> None:
        """Answer the last question."""
        self.asked[-1][1].callback(caller)


async def _awaited(found: Any) -> Any:
    return await found


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> Lookups:
    """Credentials over answers that the test gives."""
    return Lookups(monkeypatch)


def known(lookups: Lookups, token: str) -> bool:
    """Whether a token is remembered."""
    before = len(lookups.asked)
    lookups.ask(token)
    return len(lookups.asked) == before


def test_remembered_while_hearing(lookups: Lookups) -> None:
    lookups.credentials.connected()
    told = lookups.ask("t")
    assert told == []
    lookups.answer()
    assert told == [CALLER]
    assert lookups.ask("t") == [CALLER]
    assert len(lookups.asked) == 1
    assert not known(lookups, "other")


def test_nothing_is_remembered_while_deaf(lookups: Lookups) -> None:
    for _ in range(2):
        told = lookups.ask("t")
        lookups.answer()
        assert told == [CALLER]
    lookups.credentials.connected()
    lookups.ask("t")
    lookups.answer()
    assert known(lookups, "t")
    lookups.credentials.disconnected()
    assert not known(lookups, "t")
    lookups.credentials.connected()
    assert not known(lookups, "t")


@pytest.mark.parametrize("token", ["", "t" * 513, "\u00e9", "\ud800", "t\0"])
def test_what_is_no_token(lookups: Lookups, token: str) -> None:
    lookups.credentials.connected()
    if len(token) < 3 and token.isascii():
        told = lookups.ask(token)
        lookups.answer(None)
        assert [refused.reason for refused in told] == ["invalid_token"]
        assert not known(lookups, token)  # what is unknown is not remembered: it may be made
        return
    with pytest.raises(Refused) as refused:
        lookups.credentials.authenticate(token)
    assert refused.value.reason == "invalid_token"


def test_a_token_that_stops_is_forgotten_at_once(lookups: Lookups) -> None:
    lookups.credentials.connected()
    for token in ("one", "two"):
        lookups.ask(token)
        lookups.answer()
    lookups.credentials.stopped(hash_of("one").hex())
    assert not known(lookups, "one")
    assert known(lookups, "two")


@pytest.mark.parametrize("event", ["stopped", "reconnected", "connected"])
def test_what_was_read_before_a_revocation_is_not_remembered_after_it(lookups: Lookups, event: str) -> None:
    """The answer is on its way while the token stops, or while nobody can hear that it does."""
    if event != "connected":
        lookups.credentials.connected()
    told = lookups.ask("t")
    if event == "stopped":
        lookups.credentials.stopped(hash_of("t").hex())
    elif event == "reconnected":
        lookups.credentials.disconnected()
        lookups.credentials.connected()
    else:
        lookups.credentials.connected()
    lookups.answer()
    assert told == [CALLER]
    assert not known(lookups, "t")


def test_watchers_hear_it_once_each(lookups: Lookups, logged_errors: LoggedErrors) -> None:
    heard: list[str] = []

    def burst() -> None:
        heard.append("burst")
        raise RuntimeError("no")

    watch = lookups.credentials.watch
    unwatch_one = watch("t", lambda: heard.append("one"))
    watch("t", burst)
    watch("t", lambda: heard.append("two"))
    watch("other", lambda: heard.append("other"))
    unwatch_one()
    unwatch_one()
    lookups.credentials.stopped(hash_of("t").hex())
    assert heard == ["burst", "two"]
    assert len(logged_errors(RuntimeError)) == 1


def test_what_stopped_while_deaf_is_found_out(lookups: Lookups) -> None:
    heard: list[str] = []
    for token in ("kept", "gone"):
        lookups.credentials.watch(token, lambda token=token: heard.append(token))  # type: ignore[misc]
    lookups.valid = {hash_of("kept")}
    lookups.credentials.connected()
    assert heard == ["gone"]


@asynccontextmanager
async def heard(house: House) -> AsyncIterator[tuple[Credentials, Listener]]:
    """Credentials that listen to the database."""
    credentials, listener = Credentials(house.pool), Listener(house.url, reactor)
    listener.on(tokens.CHANNEL, credentials.stopped)
    listener.tell(credentials)
    await listener.start()
    try:
        yield credentials, listener
    finally:
        listener.stop()


async def issue(house: House) -> str:
    """A token for the first account."""
    token = new_token()

    async def work(session: Session) -> None:
        await add_token(session, house.cast.accounts[0].id, token)

    await house.pool.transact(work)
    return token


@pytest.mark.parametrize(
    "statement", ["UPDATE account_tokens SET revoked_at = now()", "DELETE FROM account_tokens"], ids=["revoked", "gone"]
)
@on_reactor
async def test_a_revocation_by_anyone_acts_at_once(
    database_url: str, database_server: DatabaseServer, statement: str
) -> None:
    async with House(database_url, database_server) as house, heard(house) as (credentials, _):
        token = await issue(house)
        caller = credentials.authenticate(token)
        assert not isinstance(caller, Caller)
        assert (await caller).account_id == house.cast.accounts[0].id
        assert isinstance(credentials.authenticate(token), Caller)
        told: list[str] = []
        credentials.watch(token, lambda: told.append("stopped"))
        house.sql(statement)
        await until(lambda: told)
        found = credentials.authenticate(token)
        assert not isinstance(found, Caller)
        assert (await refusal_of(found)).reason == "invalid_token"


@on_reactor
async def test_while_nothing_is_heard_every_token_is_looked_up(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house, heard(house) as (credentials, listener):
        token = await issue(house)
        told: list[str] = []
        credentials.watch(token, lambda: told.append("stopped"))
        listener.stop()
        for _ in range(2):
            found = credentials.authenticate(token)
            assert not isinstance(found, Caller)
            assert await found == Caller("account", house.cast.accounts[0].id, None)
        house.sql("UPDATE account_tokens SET revoked_at = now()")
        found = credentials.authenticate(token)
        assert not isinstance(found, Caller)
        assert (await refusal_of(found)).reason == "invalid_token"
        assert told == []
        await listener.start()
        await until(lambda: told)

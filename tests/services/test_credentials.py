"""Tokens: remembered while revocations are heard, and not a moment longer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock

from ledger.domain.errors import Refused, unavailable
from ledger.domain.policy import Caller
from ledger.services import credentials as credentials_module
from ledger.services.credentials import Credentials
from ledger.services.listener import Listener
from ledger.services.signing import Signer
from ledger.store import tokens
from ledger.store.postgres import Session
from ledger.store.tokens import add_token, hash_of, new_token
from tests.cleanliness import LoggedErrors
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, pause, reactor, refusal_of, until

CALLER = Caller("account", "a", "u")


SECRET = b"s" * 32
USER = "01900000-0000-7000-8000-000000000001"
JTI = "01900000-0000-7000-8000-000000000002"
SESSION = Caller("user", None, USER, "user", "s")


class Lookups:
    """The database's answers, given when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[list[Any], Deferred[Any]]] = []
        monkeypatch.setattr(credentials_module, "find_callers", self.find)
        monkeypatch.setattr(credentials_module, "find_session_callers", self.find)
        self.clock: Any = Clock()
        self.clock.advance(1_000_000.0)
        self.signer = Signer(SECRET, self.clock.seconds)
        self.is_current = True
        self.credentials = Credentials(None, self.signer, self.clock, lambda: self.is_current)  # type: ignore[arg-type]

    def find(self, _: object, names: list[Any]) -> Deferred[Any]:
        """Keep a question."""
        self.asked.append((names, Deferred()))
        return self.asked[-1][1]

    def jwt(self, jti: str = JTI, user_id: str = USER, lifetime: int = 900) -> str:
        """An access token."""
        return self.signer.sign("access", user_id, "a@b", "user", jti, lifetime)

    def ask(self, token: str) -> list[Any]:
        """Authenticate, and note what it comes to."""
        told: list[Any] = []
        try:
            found = self.credentials.authenticate(token)
        except Refused as refused:
            return [refused]
        if isinstance(found, Caller):
            told.append(found)
        else:
            ensureDeferred(_awaited(found)).addBoth(lambda result: told.append(getattr(result, "value", result)))
        return told

    def answer(self, caller: Caller | None = CALLER) -> None:
        """Answer the last question: the same for all that was asked after."""
        names, answer = self.asked[-1]
        answer.callback({} if caller is None else dict.fromkeys(names, caller))

    def know(self, token: str, caller: Caller = CALLER) -> None:
        """Have a token remembered."""
        self.ask(token)
        self.answer(caller)


async def _awaited(found: Any) -> Any:
    return await found


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> Lookups:
    """Credentials over answers that the test gives."""
    return Lookups(monkeypatch)


def key_of(token: str) -> str:
    """What is heard when an account's token stops."""
    return f"token:{hash_of(token).hex()}"


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


def test_nothing_is_answered_from_memory_while_the_connection_is_silent(lookups: Lookups) -> None:
    lookups.credentials.connected()
    lookups.know("t")
    lookups.is_current = False
    told = lookups.ask("t")
    lookups.answer(None)
    assert [refused.reason for refused in told] == ["invalid_token"]
    lookups.is_current = True
    assert not known(lookups, "t")
    lookups.know("t")
    assert known(lookups, "t")


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
    lookups.credentials.stopped(key_of("one"))
    assert not known(lookups, "one")
    assert known(lookups, "two")


@pytest.mark.parametrize("event", ["stopped", "reconnected", "connected"])
@pytest.mark.parametrize("valid", [True, False], ids=["valid", "stopped"])
def test_what_was_read_before_a_revocation_is_read_again_after_it(lookups: Lookups, event: str, valid: bool) -> None:
    """The answer is on its way while the token stops, or while nobody can hear that it does."""
    if event != "connected":
        lookups.credentials.connected()
    told = lookups.ask("t")
    if event == "stopped":
        lookups.credentials.stopped(key_of("t"))
    elif event == "reconnected":
        lookups.credentials.disconnected()
        lookups.credentials.connected()
    else:
        lookups.credentials.connected()
    lookups.answer()
    assert told == []
    lookups.answer(CALLER if valid else None)
    assert [getattr(result, "reason", result) for result in told] == [CALLER if valid else "invalid_token"]
    assert known(lookups, "t") == valid


def test_watchers_hear_it_once_each(lookups: Lookups, logged_errors: LoggedErrors) -> None:
    heard: list[str] = []

    def burst() -> None:
        heard.append("burst")
        raise RuntimeError("no")

    lookups.credentials.connected()
    lookups.know("t")
    lookups.know("other")
    watch = lookups.credentials.watch
    unwatch_one = watch("t", lambda: heard.append("one"))
    watch("t", burst)
    watch("t", lambda: heard.append("two"))
    watch("other", lambda: heard.append("other"))
    unwatch_one()
    unwatch_one()
    for _ in range(2):
        lookups.credentials.stopped(key_of("t"))
    assert heard == ["burst", "two"]
    assert len(logged_errors(RuntimeError)) == 1


def test_what_stopped_while_deaf_is_found_out(lookups: Lookups) -> None:
    heard: list[str] = []
    lookups.credentials.connected()
    for token in ("kept", "gone"):
        lookups.know(token)
        lookups.credentials.watch(token, lambda token=token: heard.append(token))  # type: ignore[misc]
    lookups.credentials.disconnected()
    lookups.credentials.connected()
    names, answer = lookups.asked[-1]
    assert names == [hash_of("kept"), hash_of("gone")]
    answer.callback({hash_of("kept"): CALLER})
    assert heard == ["gone"]


@pytest.mark.parametrize("valid", [True, False])
def test_what_is_watched_without_being_known_is_looked_up(lookups: Lookups, valid: bool) -> None:
    """It may have stopped between the request that brought it and the watch."""
    heard: list[str] = []
    lookups.credentials.connected()
    lookups.credentials.watch("t", lambda: heard.append("t"))
    lookups.answer(CALLER if valid else None)
    assert heard == ([] if valid else ["t"])
    lookups.credentials.stopped("user:u")
    assert len(lookups.asked) == (2 if valid else 1)


def test_a_watch_that_cannot_be_checked_ends(lookups: Lookups) -> None:
    heard: list[str] = []
    lookups.credentials.connected()
    lookups.know("t")
    lookups.credentials.watch("t", lambda: heard.append("t"))
    lookups.credentials.stopped("user:u")
    assert heard == []
    lookups.asked[-1][1].errback(unavailable())
    assert heard == ["t"]


@pytest.mark.parametrize(
    ("now", "ends"),
    [(SESSION, False), (None, True), (Caller("user", None, USER, "admin", "s"), True)],
    ids=["as it was", "suspended", "another role"],
)
def test_a_change_of_a_user_has_their_tokens_looked_up(lookups: Lookups, now: Caller | None, ends: bool) -> None:
    heard: list[str] = []
    lookups.credentials.connected()
    token = lookups.jwt()
    lookups.know(token, SESSION)
    unwatch = lookups.credentials.watch(token, lambda: heard.append("t"))
    lookups.credentials.stopped(f"user:{USER}")
    assert not known(lookups, token)
    lookups.asked[1][1].callback({} if now is None else {JTI: now})
    assert heard == (["t"] if ends else [])
    unwatch()
    assert lookups.clock.getDelayedCalls() == []


@pytest.mark.parametrize("key", ["session:s", f"user:{USER}"])
def test_a_session_is_remembered_until_it_or_its_user_stops(lookups: Lookups, key: str) -> None:
    lookups.credentials.connected()
    token, other = lookups.jwt(), lookups.jwt(JTI.replace("2", "3"), USER.replace("1", "4", 1))
    lookups.know(token, SESSION)
    lookups.know(other, Caller("user", None, USER.replace("1", "4", 1), "user", "s2"))
    lookups.credentials.stopped("session:another")
    assert known(lookups, token)
    lookups.credentials.stopped(key)
    assert not known(lookups, token)
    assert known(lookups, other)


@pytest.mark.parametrize("key", ["session:s", f"user:{USER}"])
def test_a_session_that_stops_while_it_is_looked_up(lookups: Lookups, key: str) -> None:
    lookups.credentials.connected()
    token = lookups.jwt()
    told = lookups.ask(token)
    lookups.credentials.stopped(key)
    lookups.answer(SESSION)
    assert told == []
    lookups.answer(None)
    assert [refused.reason for refused in told] == ["invalid_token"]


def test_a_flow_of_stops_of_others_holds_nobody_up(lookups: Lookups) -> None:
    lookups.credentials.connected()
    told = lookups.ask("t")
    lookups.credentials.stopped("session:another")
    lookups.answer()
    assert told == [CALLER]
    assert known(lookups, "t")


def test_a_flood_of_stops_is_not_kept(lookups: Lookups, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials_module, "_STOPS", 3)
    lookups.credentials.connected()
    lookups.know("t")
    told = lookups.ask("slow")
    for number in range(3):
        lookups.credentials.stopped(f"session:{number}")
    assert known(lookups, "t")
    lookups.credentials.stopped("session:3")
    assert not known(lookups, "t")
    lookups.asked[1][1].callback({hash_of("slow"): CALLER})
    assert told == []  # whether it was among those that stopped is not known any more


def test_a_token_that_expires_is_refused_from_the_cache_too(lookups: Lookups) -> None:
    heard: list[str] = []
    lookups.credentials.connected()
    token = lookups.jwt(lifetime=900)
    lookups.know(token, SESSION)
    lookups.credentials.watch(token, lambda: heard.append("t"))
    lookups.clock.advance(899)
    (caller,) = lookups.ask(token)
    assert caller == Caller("user", None, USER, "user", "s", 1_000_900)
    assert heard == []
    lookups.clock.advance(1)
    assert [refused.reason for refused in lookups.ask(token)] == ["token_expired"]
    assert heard == ["t"]
    assert lookups.clock.getDelayedCalls() == []
    lookups.credentials.disconnected()
    assert [refused.reason for refused in lookups.ask(token)] == ["token_expired"]
    assert len(lookups.asked) == 1


def test_what_no_session_bears(lookups: Lookups) -> None:
    """Neither a refresh token, nor a token whose row is another user's; and nothing is asked for a forged one."""
    refresh = lookups.signer.sign("refresh", USER, "a@b", "user", JTI, 900)
    assert [refused.reason for refused in lookups.ask(refresh)] == ["invalid_token_type"]
    forged = Signer(b"x" * 32, lookups.clock.seconds).sign("access", USER, "a@b", "admin", JTI, 900)
    assert [refused.reason for refused in lookups.ask(forged)] == ["invalid_token"]
    assert lookups.asked == []
    told = lookups.ask(lookups.jwt(user_id=USER.replace("1", "4", 1)))
    lookups.answer(SESSION)
    assert [refused.reason for refused in told] == ["invalid_token"]


@asynccontextmanager
async def heard(house: House) -> AsyncIterator[tuple[Credentials, Listener]]:
    """Credentials that listen to the database."""
    credentials = Credentials(house.pool, Signer(SECRET, reactor.seconds), reactor)
    listener = Listener(house.url, reactor)
    listener.on(tokens.CHANNEL, credentials.stopped)
    listener.tell(credentials)
    await listener.start()
    try:
        yield credentials, listener
    finally:
        listener.stop()


@on_reactor
async def test_what_cannot_be_asked_after_an_outage_is_asked_again(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    async def fails(pool: Any, hashes: list[bytes]) -> dict[bytes, Caller]:
        asked.append(len(hashes))
        if len(asked) < 4:
            raise unavailable()
        return await tokens.find_callers(pool, hashes)

    async with House(database_url, database_server) as house, heard(house) as (credentials, listener):
        token = await issue(house)
        told: list[str] = []
        other = await issue(house)
        await credentials.authenticate(token)  # type: ignore[misc]
        await credentials.authenticate(other)  # type: ignore[misc]
        credentials.watch(token, lambda: told.append("stopped"))
        listener.stop()
        house.sql("UPDATE account_tokens SET revoked_at = now() WHERE token_hash = %s", hash_of(token))
        monkeypatch.setattr(credentials_module, "find_callers", fails)
        await listener.start()
        await until(lambda: told)
        assert asked == [1] * 4
        await credentials.authenticate(other)  # type: ignore[misc]
        credentials.watch(other, lambda: told.append("again"))
        asked.clear()
        listener.stop()
        await listener.start()
        listener.stop()  # which ends the asking too
        await pause(0.2)
        assert asked == [1]


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
            assert await found == Caller("account", house.cast.accounts[0].id, None, token_hash=hash_of(token).hex())
        house.sql("UPDATE account_tokens SET revoked_at = now()")
        found = credentials.authenticate(token)
        assert not isinstance(found, Caller)
        assert (await refusal_of(found)).reason == "invalid_token"
        assert told == []
        await listener.start()
        await until(lambda: told)

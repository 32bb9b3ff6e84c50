"""Users over a real database: made whole or not at all, changed, and deleted with all that let them in."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred

from ledger.domain.cash import Credit
from ledger.domain.commands import Sealed
from ledger.domain.errors import Refused
from ledger.domain.secret import Secret
from ledger.domain.users import Changes, User
from ledger.services import settling
from ledger.services.ids import new_id
from ledger.services.users import Registered
from ledger.store.accounts import read_state
from ledger.store.postgres import Session
from ledger.store.tokens import find_callers, hash_of
from tests.domain.kinds import Hold
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, outcome_of, pause, refusal_of, until
from tests.postgres.people import LONG_PASSWORD, PASSWORD, People, people_of
from tests.postgres.test_faults import session

_IN_COMMIT = 43  # the advisory lock that the slow COMMIT of a user waits for


async def reason(work: Any) -> str:
    """The reason that some work is refused for."""
    return (await refusal_of(work)).reason


def credit(user: User, account_id: str, amount: int) -> Credit:
    """A command."""
    return Credit(id=new_id(), account_id=account_id, user_id=user.id, asset="USD/2", amount=amount)


async def credited(people: People, user: User, amount: int) -> str:
    """Credit a user's account, and return its id."""
    account_id = people.account_of(user)
    (outcome,) = await people.house.submit(credit(user, account_id, amount))
    assert isinstance(outcome, Sealed)
    return account_id


@on_reactor
async def test_a_user_is_made_with_an_account_and_a_token(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house, people_of(house) as people:
        made = await people.users.register("Ada", "ada@example.com", Secret(PASSWORD))
        assert (made.name, made.email) == ("Ada", "ada@example.com")
        assert (made.account.user_id, made.account.asset) == (made.user_id, "USD/2")
        assert hash_of(made.token) in await find_callers(house.pool, [hash_of(made.token)])
        ((kept,),) = house.sql("SELECT password_hash FROM users")
        assert kept.startswith("$2b$")
        ((token_hash,),) = house.sql("SELECT token_hash FROM account_tokens")
        assert bytes(token_hash) == hash_of(made.token)
        user = await people.users.find(made.user_id)
        assert (user.role, user.status, user.verified) == ("user", "ACTIVE", False)
        assert user.inserted_at == user.updated_at
        assert len(user.inserted_at) == len("2026-01-02T03:04:05.678901Z")
        assert user.inserted_at.endswith("Z")
        assert await reason(people.users.find(new_id())) == "user_not_found"


@pytest.mark.parametrize("role", ["user", "support", "admin"])
@on_reactor
async def test_whichever_door_makes_a_user_there_is_an_account(
    database_url: str, database_server: DatabaseServer, role: str
) -> None:
    async with House(database_url, database_server) as house, people_of(house) as people:
        user = await people.user("eve", role)
        assert user == await people.users.find(user.id)
        assert (user.email, user.full_name, user.role) == ("eve@example.com", "Eve", role)
        state = await read_state(house.pool, people.account_of(user))
        assert state is not None
        account, _ = state
        assert (account.balance, account.status, account.type, account.asset) == (0, "ACTIVE", "CHECKING", "USD/2")
        assert house.sql("SELECT count(*) FROM account_tokens") == [(0,)]  # nobody was told one


@on_reactor
async def test_an_address_is_taken_once(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house, people_of(house) as people:
        users = people.users
        answers = [users.register(f"Ada {n}", "ada@example.com", Secret(PASSWORD)) for n in range(6)]
        told: list[Any] = await house.gather([ensureDeferred(answer) for answer in answers])
        made = [one for one in told if isinstance(one, Registered)]
        refused = [one.reason for one in told if isinstance(one, Refused)]
        assert (len(made), refused) == (1, ["email_already_exists"] * 5)
        again = await refusal_of(users.register("Ada", "ada@example.com", Secret(PASSWORD)))
        assert (again.reason, again.details) == ("email_already_exists", {"field": "email"})
        accounts = "SELECT count(*) FROM accounts WHERE user_id IS NOT NULL"
        counts = [house.sql(sql)[0][0] for sql in ("SELECT count(*) FROM users", accounts)]
        assert counts == [1, 1]  # those refused left nothing behind
        eve = await people.user("eve")
        taken = users.change(people.caller(eve), eve.id, Changes(email="ada@example.com"))
        assert await reason(taken) == "email_already_exists"
        await users.delete(people.caller(eve), made[0].user_id)
        moved = await users.change(people.caller(eve), eve.id, Changes(email="ada@example.com"))
        assert moved.email == "ada@example.com"


@on_reactor
async def test_what_is_changed_and_what_is_not(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house, people_of(house) as people:
        root, ada = await people.user("root", "admin"), await people.user()
        change, admin = people.users.change, people.caller(root)
        named = await change(admin, ada.id, Changes(full_name="Ada Lovelace"))
        assert (named.full_name, named.email, named.role, named.status) == ("Ada Lovelace", ada.email, "user", "ACTIVE")
        assert named.inserted_at == ada.inserted_at
        assert named.updated_at > ada.updated_at
        assert people.stopped == []
        assert (await change(admin, ada.id, Changes(role="support"))).role == "support"
        assert people.stopped == [f"user:{ada.id}"]
        assert await reason(change(admin, ada.id, Changes())) == "missing_fields"
        assert await reason(change(admin, new_id(), Changes(role="user"))) == "user_not_found"
        for own in (Changes(role="user"), Changes(status="SUSPENDED"), Changes(full_name="Root", role="support")):
            assert await reason(change(admin, root.id, own)) == "forbidden"
        assert await people.users.find(root.id) == root
        assert (await change(admin, root.id, Changes(full_name="Groot"))).full_name == "Groot"


@on_reactor
async def test_a_suspension_ends_the_sessions_in_its_transaction(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house, people_of(house) as people:
        root, ada = await people.user("root", "admin"), await people.user()
        others = people.session(root)
        sessions = [people.session(ada) for _ in range(3)]
        admin = people.caller(root)
        await people.users.change(admin, ada.id, Changes(full_name="Ada L"))
        assert people.live() == {others, *sessions}
        assert (await people.users.change(admin, ada.id, Changes(status="SUSPENDED"))).status == "SUSPENDED"
        assert people.live() == {others}
        assert people.stopped == [f"user:{ada.id}"]
        assert (await people.users.change(admin, ada.id, Changes(status="ACTIVE"))).status == "ACTIVE"
        assert people.live() == {others}


@on_reactor
async def test_a_session_that_is_being_begun_is_ended_too(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house, people_of(house) as people:
        root, ada = await people.user("root", "admin"), await people.user()
        with session(database_url) as login:
            login.execute("BEGIN; SELECT FROM users WHERE id = %s FOR SHARE", (ada.id,))
            login.execute("INSERT INTO sessions (id, user_id) VALUES (%s, %s)", (new_id(), ada.id))
            suspended = ensureDeferred(people.users.change(people.caller(root), ada.id, Changes(status="SUSPENDED")))
            waiting = "SELECT pid FROM pg_locks WHERE NOT granted"
            await until(lambda: house.sql(waiting))
            login.execute("COMMIT")
            await suspended
        assert people.live() == set()


@on_reactor
async def test_an_admin_sets_a_password(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house, people_of(house) as people:
        ada, helper = await people.user(), await people.user("help", "support")
        people.session(ada)
        theirs = people.session(helper)
        hashes = dict(house.sql("SELECT id::text, password_hash FROM users"))
        user = await people.users.set_password(ada.id, Secret("another one"))
        assert user == await people.users.find(ada.id)
        assert user.updated_at > ada.updated_at
        assert people.live() == {theirs}
        assert people.stopped == [f"user:{ada.id}"]
        ((kept,),) = house.sql("SELECT password_hash FROM users WHERE id = %s", ada.id)
        assert kept != hashes[ada.id]
        assert await people.passwords.check(Secret("another one"), kept)
        too_short = await refusal_of(people.users.set_password(helper.id, Secret("another one")))
        assert (too_short.reason, too_short.details["minimum"]) == ("invalid_password_format", 15)
        assert await reason(people.users.set_password(new_id(), Secret(PASSWORD))) == "user_not_found"
        await people.users.delete(people.caller(helper), ada.id)
        assert await reason(people.users.set_password(ada.id, Secret(PASSWORD))) == "user_not_found"


@on_reactor
async def test_a_user_changes_the_password_and_stays_logged_in_here_only(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house, people_of(house) as people:
        ada = await people.user()
        here, there = people.session(ada), people.session(ada)
        caller, change = people.caller(ada, here), people.users.change_password
        wrong = await refusal_of(change(caller, Secret("not this one"), Secret(PASSWORD), "192.0.2.7"))
        assert (wrong.reason, wrong.details) == ("invalid_credentials", {"field": "current_password"})
        same = change(caller, Secret(LONG_PASSWORD), Secret(LONG_PASSWORD), "192.0.2.7")
        assert await reason(same) == "invalid_password_format"
        short = change(caller, Secret(LONG_PASSWORD), Secret("short"), "192.0.2.7")
        assert await reason(short) == "invalid_password_format"
        assert people.live() == {here, there}
        assert people.stopped == []
        await change(caller, Secret(LONG_PASSWORD), Secret(PASSWORD), "192.0.2.7")
        assert people.live() == {here}
        assert people.stopped == [f"session:{there}"]
        assert await reason(change(caller, Secret(LONG_PASSWORD), Secret("x" * 20), "192.0.2.7")) == (
            "invalid_credentials"
        )
        await change(caller, Secret(PASSWORD), Secret(LONG_PASSWORD), "192.0.2.7")
        assert people.live() == {here}


@on_reactor
async def test_a_password_that_is_changed_meanwhile_is_not_overwritten(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house, people_of(house) as people:
        ada = await people.user()
        changes = [
            ensureDeferred(
                people.users.change_password(
                    people.caller(ada, people.session(ada)), Secret(LONG_PASSWORD), Secret(f"new password {n}"), "::1"
                )
            )
            for n in range(4)
        ]
        told: list[Any] = await house.gather(changes)
        assert [one.reason for one in told if one is not None] == ["invalid_credentials"] * 3
        assert len(people.live()) == 1


@on_reactor
async def test_guesses_at_the_present_password_count(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house, people_of(house) as people:
        ada = await people.user()
        caller = people.caller(ada, people.session(ada, "192.0.2.1"))
        told = [
            await reason(people.users.change_password(caller, Secret(f"guess {n}"), Secret(PASSWORD), "198.51.100.9"))
            for n in range(11)
        ]
        assert told == ["invalid_credentials"] * 10 + ["rate_limit_exceeded"]
        right = people.users.change_password(caller, Secret(LONG_PASSWORD), Secret(PASSWORD), "198.51.100.9")
        assert await reason(right) == "rate_limit_exceeded"
        # From where the user has logged in before, the user is not locked out.
        await people.users.change_password(caller, Secret(LONG_PASSWORD), Secret(PASSWORD), "192.0.2.1")


@on_reactor
async def test_a_deletion_shuts_the_accounts_and_ends_all_that_lets_in(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house, people_of(house) as people:
        root = await people.user("root", "admin")
        made = await people.users.register("Ada", "ada@example.com", Secret(PASSWORD))
        ada = await people.users.find(made.user_id)
        empty, theirs = people.session(ada), people.session(root)
        assert people.live() == {empty, theirs}
        full = await credited(people, ada, 50)
        told = await people.users.delete(people.caller(root), ada.id)
        assert (told.status, told.email, told.id) == ("DELETED", "ada@example.com", ada.id)
        assert told == await people.users.find(ada.id)
        assert told.updated_at > ada.updated_at
        assert people.live() == {theirs}
        assert people.stopped == [f"user:{ada.id}"]
        assert await find_callers(house.pool, [hash_of(made.token)]) == {}
        assert house.sql("SELECT status, balance FROM accounts WHERE id = %s", full) == [("SUSPENDED", 50)]
        ((kind, body),) = house.sql("SELECT kind, body FROM journal ORDER BY seq DESC LIMIT 1")
        assert kind == "user_deletion"
        assert f'"metadata":{{"user_id":"{ada.id}"}}' in body
        await house.check_clean()
        for again in (people.users.delete(people.caller(root), ada.id),
                      people.users.change(people.caller(root), ada.id, Changes(full_name="Eve"))):  # fmt: skip
            assert await reason(again) == "user_not_found"
        assert await reason(people.users.delete(people.caller(root), new_id())) == "user_not_found"
        assert await reason(people.users.delete(people.caller(root), root.id)) == "forbidden"
        assert (await people.user("ada")).id != ada.id  # the address is free again
        await house.check_clean()


@on_reactor
async def test_accounts_that_are_empty_or_hold_something(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house, people_of(house) as people:
        root, ada, eve = await people.user("root", "admin"), await people.user(), await people.user("eve")
        account = await credited(people, ada, 50)
        await house.submit(Hold(id=new_id(), account_id=account, amount=50))
        caller = people.caller(root)
        answers = [ensureDeferred(people.users.delete(caller, user.id)) for user in (ada, eve, ada)]
        told: list[Any] = await house.gather(answers)
        assert [getattr(one, "status", None) or one.reason for one in told] == ["DELETED", "DELETED", "user_not_found"]
        kept = dict(house.sql("SELECT user_id::text, status FROM accounts WHERE user_id IS NOT NULL"))
        assert kept == {root.id: "ACTIVE", ada.id: "SUSPENDED", eve.id: "CLOSED"}
        assert house.sql("SELECT count(*) FROM journal WHERE kind = 'user_deletion'") == [(2,)]
        await house.check_clean()


@on_reactor
async def test_a_deletion_in_the_midst_of_money_is_one_place_in_the_journal(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house, people_of(house) as people:
        root, ada = await people.user("root", "admin"), await people.user()
        account = people.account_of(ada)
        answers: list[Deferred[Any]] = []
        for n in range(60):
            if n == 30:
                answers.append(ensureDeferred(people.users.delete(people.caller(root), ada.id)))
            answers.append(house.writer.submit(credit(ada, account, 1)))
            await pause(0.001)
        told: list[Any] = await house.gather(answers)
        assert [type(one) for one in told].count(User) == 1
        ((deleted_at,),) = house.sql("SELECT seq FROM journal WHERE kind = 'user_deletion'")
        seqs = [one.record.seq for one in told if isinstance(one, Sealed)]
        assert max(seqs, default=0) < deleted_at
        refused = {one.reason for one in told if isinstance(one, Refused)}
        assert refused <= {"account_suspended", "account_inactive"}
        ((status, balance),) = house.sql("SELECT status, balance FROM accounts WHERE id = %s", account)
        assert (status, balance) == ("SUSPENDED" if seqs else "CLOSED", len(seqs))
        await house.check_clean()


def make_commits_wait(house: House) -> None:
    """Have every COMMIT of a user wait for a lock."""
    house.sql(
        f"""CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_advisory_xact_lock_shared({_IN_COMMIT}); RETURN NULL; END';
            CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION linger()"""
    )


def backends_in_commit(house: House) -> list[int]:
    """The processes that stand in the COMMIT of a user."""
    waiting = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"
    return [pid for (pid,) in house.sql(waiting, _IN_COMMIT)]


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


def registering(people: People) -> Deferred[Any]:
    """Begin to make a user."""
    made = people.users.register("Ada", "ada@example.com", Secret(PASSWORD))
    return Deferred.fromCoroutine(outcome_of(ensureDeferred(made)))


@on_reactor
async def test_a_user_whose_commit_is_killed_was_not_made(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house, people_of(house) as people:
        make_commits_wait(house)
        with session(database_url) as other:
            other.execute("SELECT pg_advisory_xact_lock(%s)", (_IN_COMMIT,))
            answer = registering(people)
            (backend,) = await until(lambda: backends_in_commit(house))
            house.kill(backend)
            told: Any = await answer
        assert isinstance(told, Refused)
        assert (told.reason, told.details["outcome"]) == ("service_unavailable", "not_done")
        assert house.sql("SELECT count(*) FROM users") == [(0,)]
        assert isinstance(await registering(people), Registered)


@on_reactor
async def test_a_user_whose_commit_goes_through_unheard_is_told_the_token(
    database_url: str, database_server: DatabaseServer, committing: list[Session]
) -> None:
    async with House(database_url, database_server) as house, people_of(house) as people:
        make_commits_wait(house)
        del committing[:]
        with session(database_url) as other:
            other.execute("SELECT pg_advisory_xact_lock(%s)", (_IN_COMMIT,))
            answer = registering(people)
            await until(lambda: backends_in_commit(house))
            committing[0].close()
            for _ in range(30):
                await pause()
            assert not answer.called  # the old backend is still at it: nothing is known yet
        made: Any = await answer
        assert isinstance(made, Registered)
        assert hash_of(made.token) in await find_callers(house.pool, [hash_of(made.token)])
        assert house.sql("SELECT id::text FROM users") == [(made.user_id,)]


@on_reactor
async def test_a_user_whose_commit_does_not_end_is_in_doubt(
    database_url: str, database_server: DatabaseServer, committing: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "_SETTLE_WITHIN", 0.3)
    async with House(database_url, database_server) as house, people_of(house) as people:
        make_commits_wait(house)
        del committing[:]
        with session(database_url) as other:
            other.execute("SELECT pg_advisory_xact_lock(%s)", (_IN_COMMIT,))
            answer = registering(people)
            await until(lambda: backends_in_commit(house))
            committing[0].close()
            told: Any = await answer
        assert isinstance(told, Refused)
        assert (told.reason, told.details["outcome"]) == ("service_unavailable", "unknown")

"""Users and profiles at the HTTP edge, both adapters, over a real database."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest

from ledger.domain.errors import CATALOGUE
from ledger.domain.users import User
from ledger.resources.endpoint import Endpoint
from ledger.resources.profile import ProfileEndpoints
from ledger.resources.user_admin import UserAdminEndpoints
from ledger.resources.users import UserEndpoints
from ledger.services.ids import new_id
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, until
from tests.postgres.people import LONG_PASSWORD, PASSWORD, People, people_of
from tests.resources.harness import Reply, Server

FIELDS = ["id", "email", "full_name", "role", "status", "active", "verified", "suspended", "deleted", "inserted_at",
          "updated_at"]  # fmt: skip
ADMIN_ONLY = [
    ("GET", "/api/users"),
    ("GET", "/api/users/keyset"),
    ("GET", "/api/users/stats"),
    ("POST", "/api/users/admin"),
    ("GET", "/api/users/{}"),
    ("PUT", "/api/users/{}"),
    ("DELETE", "/api/users/{}"),
    ("PUT", "/api/users/{}/password"),
]
OWN = [("GET", "/api/profile"), ("PUT", "/api/profile"), ("PUT", "/api/profile/password")]


class Site(Server):
    """A site whose users are kept in a real database; nothing else of it is."""

    def __init__(self, people: People, endpoints: tuple[Endpoint, ...], plain: bool) -> None:
        super().__init__(endpoints=endpoints, plain=plain)
        self.people = people
        self.declared = {endpoint.name: endpoint for endpoint in endpoints}

    def log_in(self, user: User) -> str:
        """Return a token of a user, in a session that is kept."""
        token = f"token-{new_id()}"
        self.backend.tokens[token] = self.people.caller(user, self.people.session(user))
        return token

    async def __call__(
        self, method: str, path: str, body: object = None, token: str | None = None, **more: Any
    ) -> Reply:
        """Ask, and wait for the answer, which must be one that the endpoint declares."""
        connection = self.connect()
        connection.send(self.request(method, path, body, token=token, **more))
        await until(connection.received)
        (reply,) = connection.replies()
        endpoint = self._endpoint(method, path.partition("?")[0])
        if endpoint is not None and reply.status >= 400 and reply.status != 401:
            assert reply.refusal[1] in endpoint.refuses, (reply.refusal, endpoint.name)
        return reply

    def _endpoint(self, method: str, path: str) -> Endpoint | None:
        exact = self.declared.get(f"{method} {path}")
        if exact is not None:
            return exact
        parts = path.split("/")
        if len(parts) < 4 or parts[3] in ("keyset", "stats", "admin"):
            return None
        return self.declared.get(f"{method} {'/'.join([*parts[:3], '<id>', *parts[4:]])}")


@asynccontextmanager
async def site_of(url: str, server: DatabaseServer, plain: bool = True) -> AsyncIterator[tuple[Site, People, str]]:
    """A site, its people, and the token of an admin."""
    async with House(url, server) as house, people_of(house) as people:
        users = people.users
        endpoints = (
            *UserEndpoints(users).endpoints(),
            *UserAdminEndpoints(users).endpoints(),
            *ProfileEndpoints(users).endpoints(),
        )
        site = Site(people, endpoints, plain)
        yield site, people, site.log_in(await people.user("root", "admin"))


def registration(name: str = "ada", **changes: Any) -> dict[str, Any]:
    """The body that registers a user."""
    body = {
        "email": f"{name}@example.com",
        "full_name": name.title(),
        "password": PASSWORD,
        "password_confirmation": PASSWORD,
    }
    return {**body, **changes}


@pytest.mark.parametrize("plain", [True, False])
@on_reactor
async def test_anyone_registers_as_a_user(database_url: str, database_server: DatabaseServer, plain: bool) -> None:
    async with site_of(database_url, database_server, plain) as (ask, people, admin):
        made = await ask("POST", "/api/users", registration(email=" Ada@Example.com ", role="admin", status="DELETED"))
        assert made.status == 201
        assert list(made.data) == FIELDS
        assert [made.data[name] for name in FIELDS[1:9]] == [
            "ada@example.com", "Ada", "user", "ACTIVE", True, False, False, False
        ]  # fmt: skip
        assert PASSWORD.encode() not in made.body
        read = await ask("GET", f"/api/users/{made.data['id'].upper()}", token=admin)
        assert (read.status, read.data) == (200, made.data)
        assert people.house.sql("SELECT count(*) FROM accounts WHERE user_id = %s", made.data["id"]) == [(1,)]
        again = await ask("POST", "/api/users", registration(email="ADA@example.com"))
        assert again.refusal == (409, "email_already_exists")
        older = await ask("POST", "/users", {"name": "Eve", "email": "eve@example.com", "password": PASSWORD})
        assert (older.status, list(older.data)) == (201, ["id", "name", "email", "account", "token"])
        assert older.data["account"]["balance"] == "0.00"


BAD_REGISTRATIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"email": "ada"}, "invalid_email_format", "email"),
    ({"email": "a@b@c"}, "invalid_email_format", "email"),
    ({"email": "a" * 250 + "@b.com"}, "invalid_email_format", "email"),
    ({"full_name": "x" * 256}, "invalid_name_format", "full_name"),
    ({"full_name": " "}, "missing_fields", "full_name"),
    ({"password": None}, "missing_fields", "password"),
    ({"password_confirmation": ""}, "missing_fields", "password_confirmation"),
    ({"password": 12345678}, "invalid_request", "password"),
    ({"password": "1234567", "password_confirmation": "1234567"}, "invalid_password_format", "password"),
    ({"password": "x" * 73, "password_confirmation": "x" * 73}, "invalid_password_format", "password"),
    ({"password_confirmation": "correct horsf"}, "invalid_password_format", "password_confirmation"),
]


@on_reactor
async def test_what_cannot_be_registered(database_url: str, database_server: DatabaseServer) -> None:
    async with site_of(database_url, database_server) as (ask, people, admin):
        for changes, reason, field in BAD_REGISTRATIONS:
            for path, token in (("/api/users", None), ("/api/users/admin", admin)):
                reply = await ask("POST", path, registration(**changes, role="user"), token)
                assert reply.refusal == (400, reason), (path, changes)
                assert reply.error["details"]["field"] == field
        assert people.house.sql("SELECT count(*) FROM users") == [(1,)]


@on_reactor
async def test_an_admin_makes_users_of_any_role(database_url: str, database_server: DatabaseServer) -> None:
    async with site_of(database_url, database_server) as (ask, _, admin):

        async def make(role: object, password: str = LONG_PASSWORD) -> Reply:
            body = registration(f"{role}", password=password, password_confirmation=password, role=role)
            return await ask("POST", "/api/users/admin", body, admin)

        for role in ("support", "admin"):
            assert (await make(role, "x" * 14)).refusal == (400, "invalid_password_format")
            made = await make(role)
            assert (made.status, made.data["role"]) == (201, role)
        assert (await make("user", "x" * 8)).data["role"] == "user"
        assert (await make("root")).refusal == (400, "invalid_role")
        assert (await make(None)).refusal == (400, "missing_fields")


@pytest.mark.parametrize("plain", [True, False])
@on_reactor
async def test_what_is_for_admins_is_for_nobody_else(
    database_url: str, database_server: DatabaseServer, plain: bool
) -> None:
    async with site_of(database_url, database_server, plain) as (ask, people, _):
        others = [ask.log_in(await people.user(role, role)) for role in ("user", "support")]
        account_token = ask.token
        for method, path in ADMIN_ONLY:
            body: Any = {} if method in ("POST", "PUT") else None
            for target in (new_id(), "not-an-id"):  # the role decides before ids are parsed
                for token in (*others, account_token):
                    reply = await ask(method, path.format(target), body, token)
                    assert reply.refusal == (403, "insufficient_permissions"), (method, path)
                assert (await ask(method, path.format(target), body)).refusal == (401, "invalid_token")
        for method, path in OWN:
            body = {} if method == "PUT" else None
            assert (await ask(method, path, body, account_token)).refusal == (403, "insufficient_permissions")
            assert (await ask(method, path, body)).refusal == (401, "invalid_token")
        assert people.house.sql("SELECT count(*) FROM users") == [(3,)]


@on_reactor
async def test_paths_with_a_name_win_over_ids(database_url: str, database_server: DatabaseServer) -> None:
    async with site_of(database_url, database_server) as (ask, _, admin):
        assert (await ask("GET", "/api/users/stats", token=admin)).data == {
            "total_users": 1,
            "active_users": 1,
            "admin_users": 1,
            "suspended_users": 0,
        }
        keyset = await ask("GET", "/api/users/keyset", token=admin)
        assert keyset.json["metadata"]["pagination"] == {
            "type": "keyset",
            "limit": 20,
            "has_more": False,
            "next_cursor": None,
        }
        assert (await ask("GET", "/api/users/nobody", token=admin)).refusal == (400, "invalid_uuid_format")
        assert (await ask("GET", f"/api/users/{new_id()}", token=admin)).refusal == (404, "user_not_found")
        assert (await ask("DELETE", "/api/users/stats", token=admin)).refusal == (405, "method_not_allowed")
        posted = await ask("POST", f"/api/users/{new_id()}", {}, admin)
        assert posted.refusal == (405, "method_not_allowed")


@on_reactor
async def test_pages_of_users(database_url: str, database_server: DatabaseServer) -> None:
    async with site_of(database_url, database_server) as (ask, people, admin):
        made = [await people.user(name) for name in ("ada", "bob", "cleo", "dora")]
        assert (await ask("DELETE", f"/api/users/{made[1].id}", token=admin)).status == 200
        assert (await ask("PUT", f"/api/users/{made[2].id}", {"status": "SUSPENDED"}, admin)).status == 200

        async def names(query: str) -> list[str]:
            reply = await ask("GET", f"/api/users{query}", token=admin)
            assert reply.status == 200, reply.body
            assert reply.json["metadata"]["pagination"]["total_count"] == len(reply.data)
            return [user["full_name"] for user in reply.data]

        assert await names("") == ["Dora", "Cleo", "Ada", "Root"]
        assert await names("?sort=email:asc") == ["Ada", "Cleo", "Dora", "Root"]
        assert await names("?sort=role:asc,created_at:asc") == ["Root", "Ada", "Cleo", "Dora"]
        assert await names("?status=DELETED") == ["Bob"]
        assert await names("?status=SUSPENDED&role=user") == ["Cleo"]
        assert await names("?role=support") == []
        assert await names("?status=ACTIVE&sort=full_name:desc") == ["Root", "Dora", "Ada"]
        second = await ask("GET", "/api/users?page=2&page_size=3&sort=email:asc", token=admin)
        assert [user["full_name"] for user in second.data] == ["Root"]
        assert second.json["metadata"] == {
            "pagination": {
                "page": 2,
                "page_size": 3,
                "total_count": 4,
                "total_pages": 2,
                "has_next": False,
                "has_prev": True,
            }
        }
        far = await ask("GET", f"/api/users?page={'9' * 900}&page_size=1000", token=admin)
        assert (far.status, far.data) == (200, [])
        assert far.json["metadata"]["pagination"]["page_size"] == 100
        for query, reason in (
            ("page=0", "invalid_pagination"),
            ("page=-1", "invalid_pagination"),
            ("page=two", "invalid_pagination"),
            ("page=", "invalid_pagination"),
            ("page_size=0", "invalid_pagination"),
            ("page_size=1.5", "invalid_pagination"),
            ("sort=password_hash:asc", "invalid_sort"),
            ("sort=email:sideways", "invalid_sort"),
            ("sort=email:asc,email:desc", "invalid_sort"),
            ("status=active", "invalid_status"),
            ("role=root", "invalid_role"),
            ("role=", "invalid_role"),
        ):
            assert (await ask("GET", f"/api/users?{query}", token=admin)).refusal == (400, reason), query


@on_reactor
async def test_users_from_a_place_onwards(database_url: str, database_server: DatabaseServer) -> None:
    async with site_of(database_url, database_server) as (ask, people, admin):
        made = ["Root", *[(await people.user(f"user{n}")).full_name for n in range(6)]]
        told: list[str] = []
        cursor = ""
        while True:
            reply = await ask("GET", f"/api/users/keyset?limit=2{cursor}", token=admin)
            told += [user["full_name"] for user in reply.data]
            pagination = reply.json["metadata"]["pagination"]
            if not pagination["has_more"]:
                assert pagination["next_cursor"] is None
                break
            last = reply.data[-1]
            assert pagination["next_cursor"] == {"inserted_at": last["inserted_at"], "id": last["id"]}
            cursor = "&cursor=" + quote(json.dumps(pagination["next_cursor"]))
        assert told == made[::-1]
        documented = quote('{"inserted_at":"2024-01-01T00:00:00Z","id":"01980a2e-7c1f-7d3a-9b5e-4f2d6c8a1e01"}')
        assert (await ask("GET", f"/api/users/keyset?cursor={documented}", token=admin)).data == []
        early = quote('{"inserted_at":"0001-01-01T00:00:00+14:00","id":"01980a2e-7c1f-7d3a-9b5e-4f2d6c8a1e01"}')
        beyond = await ask("GET", f"/api/users/keyset?cursor={early}", token=admin)
        assert beyond.refusal == (400, "invalid_cursor")
        late = quote('{"inserted_at":"9999-12-31T23:59:59-14:00","id":"01980A2E-7c1f-7d3a-9b5e-4f2d6c8a1e01"}')
        beyond = await ask("GET", f"/api/users/keyset?cursor={late}", token=admin)
        assert beyond.refusal == (400, "invalid_cursor")
        assert (await ask("GET", "/api/users/keyset?role=admin", token=admin)).data[0]["full_name"] == "Root"
        for query, reason in (
            ("cursor=x", "invalid_cursor"),
            ("cursor=", "invalid_cursor"),
            ("cursor=" + quote('{"id":"1"}'), "invalid_cursor"),
            ("limit=0", "invalid_pagination"),
            ("limit=ten", "invalid_pagination"),
            ("status=GONE", "invalid_status"),
        ):
            assert (await ask("GET", f"/api/users/keyset?{query}", token=admin)).refusal == (400, reason), query


@on_reactor
async def test_an_admin_changes_a_user(database_url: str, database_server: DatabaseServer) -> None:
    async with site_of(database_url, database_server) as (ask, people, admin):
        ada, eve = await people.user(), await people.user("eve")
        session = people.session(ada)
        path = f"/api/users/{ada.id}"
        renamed = await ask("PUT", path, {"full_name": " Ada L ", "email": "Ada.L@Example.com", "role": None}, admin)
        assert (renamed.status, list(renamed.data)) == (200, FIELDS)
        assert (renamed.data["full_name"], renamed.data["email"]) == ("Ada L", "ada.l@example.com")
        assert session in people.live()
        suspended = await ask("PUT", path, {"status": "SUSPENDED", "role": "support"}, admin)
        assert [suspended.data[name] for name in ("role", "status", "active", "suspended", "deleted")] == [
            "support", "SUSPENDED", False, True, False
        ]  # fmt: skip
        assert session not in people.live()
        told = ask.audited[-1]
        assert (told.event, told.endpoint) == ("admin_action", "PUT /api/users/<id>")
        assert told.details == {"id": ada.id, "changed": ["role", "status"], "role": "support", "status": "SUSPENDED"}
        for body, status, reason in (
            ({}, 400, "missing_fields"),
            ({"email": None, "full_name": None, "role": None, "status": None}, 400, "missing_fields"),
            ({"password": "x"}, 400, "missing_fields"),
            ({"role": "root"}, 400, "invalid_role"),
            ({"role": ""}, 400, "invalid_role"),
            ({"role": 7}, 400, "invalid_request"),
            ({"status": "DELETED"}, 400, "invalid_status"),
            ({"status": "suspended"}, 400, "invalid_status"),
            ({"email": "nobody"}, 400, "invalid_email_format"),
            ({"full_name": "x" * 256}, 400, "invalid_name_format"),
            ({"email": eve.email}, 409, "email_already_exists"),
        ):
            assert (await ask("PUT", path, body, admin)).refusal == (status, reason), body
        unknown = await ask("PUT", f"/api/users/{new_id()}", {"role": "user"}, admin)
        assert unknown.refusal == (404, "user_not_found")
        own = people.house.sql("SELECT id::text FROM users WHERE role = 'admin'")[0][0]
        for change in ({"role": "user"}, {"status": "SUSPENDED"}):
            assert (await ask("PUT", f"/api/users/{own}", change, admin)).refusal == (403, "forbidden")


@on_reactor
async def test_an_admin_deletes_a_user_but_not_themselves(database_url: str, database_server: DatabaseServer) -> None:
    async with site_of(database_url, database_server) as (ask, people, admin):
        ada = await people.user()
        path = f"/api/users/{ada.id}"
        gone = await ask("DELETE", path, token=admin)
        assert (gone.status, list(gone.data)) == (200, FIELDS)
        assert [gone.data[name] for name in ("status", "active", "deleted")] == ["DELETED", False, True]
        assert (await ask("GET", path, token=admin)).data == gone.data
        for reply in (
            await ask("DELETE", path, token=admin),
            await ask("PUT", path, {"full_name": "Eve"}, admin),
            await ask("PUT", f"{path}/password", new_password(), admin),
        ):
            assert reply.refusal == (404, "user_not_found")
        own = people.house.sql("SELECT id::text FROM users WHERE role = 'admin'")[0][0]
        assert (await ask("DELETE", f"/api/users/{own}", token=admin)).refusal == (403, "forbidden")
        assert (await ask("GET", "/api/users/stats", token=admin)).data["total_users"] == 1
        await people.house.check_clean()


def new_password(new: object = "a new password", again: object = "a new password") -> dict[str, object]:
    """The body that sets a password."""
    return {"new_password": new, "password_confirmation": again}


@on_reactor
async def test_an_admin_sets_a_password(database_url: str, database_server: DatabaseServer) -> None:
    async with site_of(database_url, database_server) as (ask, people, admin):
        ada = await people.user()
        session, path = people.session(ada), f"/api/users/{ada.id}/password"
        for body, reason in (
            (new_password("short", "short"), "invalid_password_format"),
            (new_password(again="another"), "invalid_password_format"),
            ({"new_password": "a new password"}, "missing_fields"),
        ):
            assert (await ask("PUT", path, body, admin)).refusal == (400, reason)
        assert session in people.live()
        done = await ask("PUT", path, new_password(), admin)
        assert (done.status, done.data["id"]) == (200, ada.id)
        assert session not in people.live()
        assert people.stopped == [f"user:{ada.id}"]
        assert ask.audited[-1].endpoint == "PUT /api/users/<id>/password"
        assert "a new password" not in repr(ask.audited)


@pytest.mark.parametrize("plain", [True, False])
@on_reactor
async def test_the_profile_is_for_its_owner(database_url: str, database_server: DatabaseServer, plain: bool) -> None:
    async with site_of(database_url, database_server, plain) as (ask, people, _):
        ada, eve = await people.user(), await people.user("eve", "support")
        token = ask.log_in(ada)
        read = await ask("GET", "/api/profile", token=token)
        assert (read.status, list(read.data), read.data["id"]) == (200, FIELDS, ada.id)
        changed = await ask("PUT", "/api/profile", {"full_name": "Ada L", "email": "ADA.l@example.com"}, token)
        assert (changed.data["full_name"], changed.data["email"]) == ("Ada L", "ada.l@example.com")
        for name in ("role", "status", "active", "verified", "suspended", "deleted", "id"):
            for value in ("admin", True, False, {"a": 1}):
                reply = await ask("PUT", "/api/profile", {"full_name": "Eve", name: value}, token)
                assert reply.refusal == (403, "insufficient_permissions")
                assert reply.error["details"]["field"] == name
        for body, status, reason in (
            ({}, 400, "missing_fields"),
            ({"full_name": None}, 400, "missing_fields"),
            ({"password": "x"}, 400, "missing_fields"),
            ({"full_name": "x" * 256}, 400, "invalid_name_format"),
            ({"email": "nobody"}, 400, "invalid_email_format"),
            ({"email": eve.email}, 409, "email_already_exists"),
        ):
            assert (await ask("PUT", "/api/profile", body, token)).refusal == (status, reason), body
        assert (await ask("GET", "/api/profile", token=token)).data == changed.data
        support = ask.log_in(eve)
        assert (await ask("GET", "/api/profile", token=support)).data["role"] == "support"


@on_reactor
async def test_a_user_changes_the_password(database_url: str, database_server: DatabaseServer) -> None:
    async with site_of(database_url, database_server) as (ask, people, admin):
        ada = await people.user()
        token, path = ask.log_in(ada), "/api/profile/password"
        here = ask.backend.tokens[token].session_id
        there = people.session(ada)

        def body(current: str = LONG_PASSWORD, new: str = "a new password", again: str | None = None) -> Any:
            return {"current_password": current, **new_password(new, again or new)}

        for given, status, reason in (
            (body("not this one"), 401, "invalid_credentials"),
            (body("x" * 100), 401, "invalid_credentials"),
            (body(new=LONG_PASSWORD), 400, "invalid_password_format"),
            (body(new="short"), 400, "invalid_password_format"),
            (body(again="another one"), 400, "invalid_password_format"),
            (new_password(), 400, "missing_fields"),
        ):
            assert (await ask("PUT", path, given, token)).refusal == (status, reason), given
        assert {here, there} <= people.live()
        done = await ask("PUT", path, body(), token)
        assert (done.status, list(done.data)) == (200, ["message"])
        assert here in people.live()
        assert there not in people.live()
        assert people.stopped == [f"session:{there}"]
        own = ask.backend.tokens[admin]
        assert own.session_id in people.live()
        short = {"current_password": LONG_PASSWORD, **new_password("x" * 14, "x" * 14)}
        assert (await ask("PUT", path, short, admin)).refusal == (400, "invalid_password_format")


def test_what_the_endpoints_refuse_with_is_in_the_catalogue() -> None:
    users: Any = None
    declared = (*UserEndpoints(users).endpoints(), *UserAdminEndpoints(users).endpoints(),
                *ProfileEndpoints(users).endpoints())  # fmt: skip
    assert len(declared) == 13
    for endpoint in declared:
        assert set(endpoint.refuses) <= set(CATALOGUE)
        assert len(set(endpoint.refuses)) == len(endpoint.refuses)

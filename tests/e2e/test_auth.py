# mypy: disable-error-code="untyped-decorator"
"""Sessions over real sockets: logging in, staying, going, and everything that must stop with a session."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from tests.e2e.books import Books
from tests.e2e.client import Api, Clients, StreamFollower, websocket
from tests.e2e.kept_secrets import new_secret
from tests.e2e.server import Machine, Server, until

PASSWORD = "correct horse battery staple"
UNAUTHENTICATED = 4401


class Person:
    """Somebody who signed up, and logs in."""

    def __init__(self, api: Api, name: str) -> None:
        self.api = api
        self.email = f"{name}@example.com"
        self.user_id = ""
        self.account_token = ""

    async def sign_up(self) -> Person:
        """Become a user."""
        body = {"name": "Somebody", "email": self.email, "password": PASSWORD}
        made = (await self.api.ask("POST", "/users", body)).data
        self.user_id, self.account_token = made["id"], made["token"]
        return self

    async def log_in(self, api: Api | None = None) -> Any:
        """Begin a session, and return its tokens."""
        body = {"email": self.email, "password": PASSWORD}
        reply = await (api or self.api).ask("POST", "/api/auth/login", body)
        assert reply.status == 200, reply.json
        return reply.data


async def reason_at(api: Api, token: str) -> str | None:
    """What a token is refused with, or None where it is good."""
    reply = await api.ask("GET", "/api/auth/me", token=token)
    return None if reply.status == 200 else reply.reason


async def two_servers(machine: Machine, books: Books) -> list[Server]:
    """Two servers with one database and one secret."""
    secret = machine.write("jwt-secret", new_secret())
    options = ("--database", books.url, "--jwt-secret-file", str(secret), "--rate-limit", "0")
    return [await server.ready() for server in [machine.serve(*options) for _ in range(2)]]


@pytest_twisted.ensureDeferred
async def test_a_session_from_its_beginning_to_its_end(machine: Machine, books: Books, clients: Clients) -> None:
    server = await machine.serve("--database", books.url, "--rate-limit", "0").ready()
    api = clients(server)
    ada, bob = await Person(api, "ada").sign_up(), await Person(api, "bob").sign_up()
    given = await ada.log_in()
    assert (given["token_type"], given["expires_in"], given["user"]["id"]) == ("Bearer", 900, ada.user_id)
    access = given["access_token"]
    assert (await api.ask("GET", "/api/auth/me", token=access)).data == given["user"]

    # One caller, whatever the token: the user's key is one, and others' accounts are not theirs.
    body = {"user_id": ada.user_id, "amount": "5.00"}
    credited = await api.ask("POST", "/credit", body, access, "one key")
    again = await api.ask("POST", "/credit", body, ada.account_token, "one key")
    assert (credited.status, again.data, again.is_replay) == (201, credited.data, True)
    for token in (access, ada.account_token):
        stranger = await api.ask("POST", "/credit", {"user_id": bob.user_id, "amount": "5.00"}, token)
        assert (stranger.status, stranger.reason) == (403, "unauthorized_access")

    rotated = (await api.ask("POST", "/api/auth/refresh", {"refresh_token": given["refresh_token"]})).data
    assert await reason_at(api, rotated["access_token"]) is None
    assert await reason_at(api, rotated["refresh_token"]) == "invalid_token_type"
    assert (await api.ask("POST", "/api/auth/refresh", {"refresh_token": access})).reason == "invalid_token_type"
    gone = await api.ask("POST", "/api/auth/logout", {"refresh_token": rotated["refresh_token"]})
    assert gone.data == {"message": "Logged out"}
    for token in (access, rotated["access_token"]):
        assert await reason_at(api, token) == "invalid_token"

    sessions = [await ada.log_in() for _ in range(3)]
    his = await bob.log_in()
    assert (await api.ask("POST", "/api/auth/logout-all", token=sessions[0]["access_token"])).status == 200
    reasons = [await reason_at(api, one["access_token"]) for one in (*sessions, his)]
    assert reasons == ["invalid_token"] * 3 + [None]
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_a_logout_stops_everything_at_both_servers(machine: Machine, books: Books, clients: Clients) -> None:
    servers = await two_servers(machine, books)
    here, there = (clients(server) for server in servers)
    ada = await Person(here, "ada").sign_up()
    given, kept = await ada.log_in(), await ada.log_in(there)
    access, topic = given["access_token"], f"users:{ada.user_id}"
    for api in (here, there):
        assert [await reason_at(api, token) for token in (access, kept["access_token"])] == [None, None]
    sockets = [await websocket(server, access) for server in servers]
    lasting = await websocket(servers[1], kept["access_token"])
    for socket in (*sockets, lasting):
        assert (await socket.subscribe(topic))["type"] == "subscribed"
    stream = StreamFollower(topic, token=access)
    await stream.connect(servers[1])

    assert (await here.ask("POST", "/api/auth/logout", {"refresh_token": given["refresh_token"]})).status == 200
    started = time.monotonic()
    assert await reason_at(here, access) == "invalid_token"
    await until(lambda: all(socket.lost for socket in sockets))
    assert [socket.code for socket in sockets] == [UNAUTHENTICATED] * 2
    assert await stream.lost() == UNAUTHENTICATED
    assert await reason_at(there, access) == "invalid_token"
    assert time.monotonic() - started < 5  # a second is the aim; this machine may be busy
    assert await reason_at(there, kept["access_token"]) is None
    assert not lasting.lost
    lasting.transport.abortConnection()
    await until(lambda: lasting.lost)
    for server in servers:
        await server.stop()


@pytest_twisted.ensureDeferred
async def test_two_refreshes_at_once_through_both_doors(machine: Machine, books: Books, clients: Clients) -> None:
    servers = await two_servers(machine, books)
    apis = [clients(server) for server in servers]
    ada = await Person(apis[0], "ada").sign_up()
    given = await ada.log_in()
    for _ in range(20):
        body = {"refresh_token": given["refresh_token"]}
        asked = [Deferred.fromCoroutine(api.ask("POST", "/api/auth/refresh", body)) for api in apis]
        replies: list[Any] = list(await gatherResults(asked))
        assert sorted(reply.status for reply in replies) == [200, 401]
        (given,) = (reply.data for reply in replies if reply.status == 200)
        assert [reply.reason for reply in replies if reply.status == 401] == ["token_revoked"]
        assert [await reason_at(api, given["access_token"]) for api in apis] == [None, None]
    # The token that lost, used a while later, ends the session that won.
    books.rows("UPDATE refresh_tokens SET rotated_at = rotated_at - interval '3 s' RETURNING 1")
    assert (await apis[1].ask("POST", "/api/auth/refresh", body)).reason == "token_revoked"
    assert await reason_at(apis[1], given["access_token"]) == "invalid_token"
    for server in servers:
        await server.stop()


@pytest_twisted.ensureDeferred
async def test_guesses_are_limited_and_stop_nobody_else(machine: Machine, books: Books, clients: Clients) -> None:
    server = await machine.serve("--database", books.url, "--rate-limit", "1000/60").ready()
    api = clients(server)
    ada, bob = await Person(api, "ada").sign_up(), await Person(api, "bob").sign_up()
    guess = {"email": ada.email, "password": "a wrong guess"}
    statuses = [(await api.ask("POST", "/api/auth/login", guess)).status for _ in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    refused = await api.ask("POST", "/api/auth/login", {**guess, "password": PASSWORD})
    assert (refused.status, refused.reason) == (429, "rate_limit_exceeded")
    wait = refused.json["error"]["details"]["retry_after"]
    assert 0 < wait <= 60
    assert refused.headers.getRawHeaders("Retry-After") == [str(wait)]
    await bob.log_in()
    assert (await api.ask("GET", "/balance", token=ada.account_token)).status == 200
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_odd_texts_are_only_texts(machine: Machine, books: Books, clients: Clients) -> None:
    server = await machine.serve("--database", books.url, "--rate-limit", "0").ready()
    api = clients(server)
    ada = await Person(api, "ada").sign_up()
    access = (await ada.log_in())["access_token"]
    odd = ["' OR '1'='1", "'; DROP TABLE users; --", "../../etc/passwd%", "\u202e" + "\U0001f600" * 60]
    for text in odd:
        for email, password in ((ada.email, text), (f"{text}@example.com", text)):
            reply = await api.ask("POST", "/api/auth/login", {"email": email, "password": password})
            assert (reply.status, reply.reason) == (401, "invalid_credentials")
        for what in ("refresh", "logout"):
            reply = await api.ask("POST", f"/api/auth/{what}", {"refresh_token": text})
            assert (reply.status, reply.reason) == (401, "invalid_token")
        reply = await api.ask("GET", f"/balance?user_id={quote(text)}", token=access)
        assert (reply.status, reply.reason) == (400, "invalid_uuid_format")
        reply = await api.ask("GET", "/api/auth/me", token=quote(text))
        assert (reply.status, reply.reason) == (401, "invalid_token")
    assert await reason_at(api, access) is None
    await server.stop()

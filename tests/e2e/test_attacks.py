# mypy: disable-error-code="untyped-decorator"
"""Attacks on identity: forged tokens, tokens where they do not count, and roles that somebody gives themselves."""

from __future__ import annotations

import hmac
import json
import time
from base64 import urlsafe_b64encode
from typing import Any
from uuid import uuid4

import jwt
import pytest_twisted
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.e2e.attack import PASSWORD, Scene, check_error, operations, request, scene, sent
from tests.e2e.books import Books
from tests.e2e.client import Clients, StreamFollower, websocket
from tests.e2e.kept_secrets import new_secret, note
from tests.e2e.server import Machine, until

FOR_ACCOUNTS = {
    *(f"POST {path}" for path in ("/credit", "/debit", "/api/credit", "/api/debit", "/api/account/token")),
    *(f"GET {path}" for path in ("/balance", "/api/balance", "/api/account", "/api/transactions")),
    *(f"POST /api/transactions/{what}" for what in ("topup", "charge")),
    *(f"GET /api/{what}" for what in ("accounts", "holds", "transfers")),
    *(f"GET /api/{what}/{{id}}" for what in ("accounts", "holds", "transfers")),
    *(f"GET /api/accounts/{{id}}/{what}" for what in ("transactions", "balance", "statement")),
    *(f"POST /api/{what}" for what in ("holds", "holds/{id}/capture", "holds/{id}/void")),
    *(f"POST /api/{what}" for what in ("transfers", "transfers/{id}/reverse")),
    "PATCH /api/accounts/{id}",
}
FOR_USERS = {
    "POST /api/auth/logout-all",
    "POST /api/accounts",
    *(f"GET /api/payments{what}" for what in ("", "/stats", "/{id}", "/{id}/status")),
    *(f"POST /api/payments{what}" for what in ("", "/validate", "/{id}/process", "/{id}/schedule", "/{id}/cancel")),
    "DELETE /api/payments/{id}",
    *(f"GET /api/{what}" for what in ("auth/me", "profile")),
    *(f"PUT /api/profile{what}" for what in ("", "/password")),
}


def part(content: Any) -> str:
    """A part of a token."""
    return urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def by_hand(claims: Any, secret: bytes) -> str:
    """A token signed by HS256, whatever the secret: the library refuses those that make no sense."""
    text = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}"
    return f"{text}.{urlsafe_b64encode(hmac.digest(secret, text.encode(), 'sha256')).rstrip(b'=').decode()}"


def forgeries(good: str, secret: str, other: dict[str, str]) -> dict[str, tuple[str, str]]:
    """What is made of a good token, each with the reason that it must be refused with."""
    claims = jwt.decode(good, options={"verify_signature": False})
    head, body, signature = good.split(".")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    now = int(time.time())

    def signed(with_secret: str = secret, algorithm: str = "HS256", **changes: Any) -> str:
        return jwt.encode({**claims, **changes}, with_secret, algorithm)

    nobody = {f"alg {name!r}": f"{part({'alg': name, 'typ': 'JWT'})}.{body}." for name in ("none", "None", "nOnE", "")}
    bad = {
        **nobody,
        "alg none, its signature kept": f"{part({'alg': 'none'})}.{body}.{signature}",
        "no alg": f"{part({'typ': 'JWT'})}.{body}.{signature}",
        "RS256": jwt.encode(claims, private, "RS256"),
        "RS256 said, HS256 done": f"{part({'alg': 'RS256', 'typ': 'JWT'})}.{body}.{signature}",
        "HS256 with a public key": by_hand(claims, public),
        "HS512 with our secret": signed(algorithm="HS512"),
        "another secret": signed(new_secret()),
        "an empty secret": by_hand(claims, b""),
        "a key of its own": jwt.encode(
            claims, private, "RS256", {"jku": "http://127.0.0.1:1/", "kid": "../../dev/null"}
        ),
        "another role": f"{head}.{part({**claims, 'role': 'admin'})}.{signature}",
        "another user": f"{head}.{part({**claims, **other})}.{signature}",
        "no signature": f"{head}.{body}.",
        "another user, well signed": signed(sub=other["sub"]),
        "an unknown session": signed(jti=str(uuid4())),
        "not yet valid": signed(nbf=now + 60),
        "from the future": signed(iat=now + 60),
        "another audience": signed(aud="bank"),
        "audiences": by_hand({**claims, "aud": ["ledger", "bank"]}, secret.encode()),
        "another issuer": signed(iss="bank"),
        "no end": by_hand({name: value for name, value in claims.items() if name != "exp"}, secret.encode()),
        "SQL for an id": signed(sub="' OR '1'='1", jti="' OR '1'='1"),
    }
    reasons = {name: (token, "invalid_token") for name, token in bad.items()}
    reasons["expired"] = signed(exp=now - 1), "token_expired"
    reasons["a refresh token"] = signed(type="refresh"), "invalid_token_type"
    return reasons


@pytest_twisted.ensureDeferred
async def test_forged_tokens_open_no_door(machine: Machine, books: Books, clients: Clients) -> None:
    secret = 2 * new_secret()
    file = machine.write("jwt-secret", secret)
    stage = await scene(machine, books, clients, "--jwt-secret-file", str(file))
    ada, server = stage.ada, stage.server
    body = json.dumps({"user_id": ada.user_id, "amount": "1.00"}).encode()
    told = forgeries(ada.access, secret, {"sub": stage.bob.user_id, "email": stage.bob.email})
    for name, (token, reason) in told.items():
        note(token)
        requests = request("GET", "/api/auth/me", token=token) + request("POST", "/credit", body, token=token)
        stream = request("GET", f"/api/events?topics=users:{ada.user_id}", token=token)
        for answer in await sent(server, requests + stream, 3):
            assert (answer.status, answer.reason) == (401, reason), name
            assert answer.all("WWW-Authenticate") == ["Bearer"], name
        ears = await websocket(server)
        ears.say({"type": "auth", "token": token})
        assert (await ears.next())["type"] == "error", name
        ears.say({"type": "subscribe", "topic": f"users:{ada.user_id}"})
        assert (await ears.next())["type"] == "error", name
        ears.transport.abortConnection()
        assert await ears.closed() != 1000
    # The forger knows the trade: what differs in nothing is let in, and a role that is claimed does not count.
    claims = jwt.decode(ada.access, options={"verify_signature": False})
    copy, risen = (jwt.encode({**claims, "role": role}, secret, "HS256") for role in ("user", "admin"))
    for token in (copy, risen):
        assert (await stage.api.ask("GET", "/api/auth/me", token=token)).data["role"] == "user"
        assert (await stage.api.ask("GET", "/api/users", token=token)).reason == "insufficient_permissions"
    assert (await stage.api.ask("GET", "/balance", token=ada.access)).data["balance"] == "0.00"
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_tokens_go_no_further_than_they_reach(machine: Machine, books: Books, clients: Clients) -> None:
    stage = await scene(machine, books, clients)
    ada, bob, api = stage.ada, stage.bob, stage.api
    refused = 0
    for operation in operations(stage.document):
        if operation.is_open or operation.name == "GET /api/health/detailed":
            continue
        path = operation.path.replace("{id}", bob.user_id)
        tokens = {ada.account_token} if operation.name in FOR_USERS else {ada.account_token, ada.access}
        for token in tokens if operation.name not in FOR_ACCOUNTS else ():
            body = None if operation.method in ("GET", "DELETE") else {"role": "admin"}
            reply = await api.ask(operation.method, path, body, token)
            assert (reply.status, reply.reason) == (403, "insufficient_permissions"), operation.name
            check_error(reply.status, reply.json["error"])
            refused += 1
    assert refused >= 20
    await check_strangers_account(stage)
    ears = await websocket(stage.server, ada.account_token)
    for topic in (f"users:{bob.user_id}", f"accounts:{bob.account_id}", "balance_updated"):
        assert (await ears.subscribe(topic))["type"] == "error"
        (events,) = await sent(stage.server, request("GET", f"/api/events?topics={topic}", token=ada.access))
        assert (events.status, events.error["type"]) == (403, "forbidden")
    ears.transport.abortConnection()
    await until(lambda: ears.lost)
    assert books.balances() == {ada.account_id: 0, bob.account_id: 0}
    await stage.server.stop()


async def check_strangers_account(stage: Scene) -> None:
    """Ada gets nowhere with Bob's account, by either token and whichever way she names it."""
    ada, bob, api = stage.ada, stage.bob, stage.api
    there = {"account_id": bob.account_id, "amount": "1.00"}
    asked: list[tuple[str, str, object]] = [
        *(("POST", path, {**there, "user_id": bob.user_id}) for path in ("/credit", "/debit", "/api/credit")),
        *(("POST", path, {**there, "user_id": ada.user_id}) for path in ("/credit", "/debit", "/api/debit")),
        *(("POST", f"/api/transactions/{what}", there) for what in ("topup", "charge")),
        *(("GET", f"{path}?user_id={bob.user_id}", None) for path in ("/balance", "/api/balance")),
        *(("GET", f"/api/{what}?account_id={bob.account_id}", None) for what in ("account", "transactions")),
        ("POST", f"/api/account/token?account_id={bob.account_id}", None),
    ]
    for token in (ada.account_token, ada.access):
        for method, path, body in asked:
            reply = await api.ask(method, path, body, token)
            assert (reply.status, reply.json["error"]["type"]) == (403, "forbidden"), (path, reply.json)
            check_error(reply.status, reply.json["error"])
    assert (await api.ask("GET", "/balance", token=bob.account_token)).status == 200


@pytest_twisted.ensureDeferred
async def test_nobody_gives_themselves_a_role(machine: Machine, books: Books, clients: Clients) -> None:
    stage = await scene(machine, books, clients)
    api, server = stage.api, stage.server
    risen = {
        "role": "admin",
        "status": "ACTIVE",
        "verified": True,
        "is_admin": True,
        "id": stage.ada.user_id,
        "balance": "9",
    }
    person = {"name": "Eve", "full_name": "Eve", "password": PASSWORD, "password_confirmation": PASSWORD}
    for number, path in enumerate(("/users", "/api/users")):
        eve = {**risen, **person, "email": f"eve{number}@example.com"}
        made = await api.ask("POST", path, eve)
        assert made.status == 201
        assert made.data["id"] != stage.ada.user_id
    body = json.dumps({**person, "email": "eve2@example.com"})[:-1] + ', "role": "user", "role": "admin"}'
    (twice,) = await sent(server, request("POST", "/api/users", body.encode()))
    assert json.loads(twice.body)["data"]["role"] == "user"
    given = (await api.ask("POST", "/api/auth/login", {"email": "eve0@example.com", "password": PASSWORD})).data
    for name, value in risen.items():
        reply = await api.ask("PUT", "/api/profile", {"full_name": "Eve the First", name: value}, given["access_token"])
        expected = (200, None) if name in ("is_admin", "balance") else (403, "insufficient_permissions")
        assert (reply.status, None if reply.status == 200 else reply.reason) == expected, name
    opened = await api.ask("POST", "/api/register", {**risen, "name": "Shop", "type": "world", "credit_limit": 10**6})
    assert (opened.data["balance"], opened.status) == ("0.00", 201)
    charged = await api.ask("POST", "/api/transactions/charge", {"amount": "0.01"}, opened.data["token"])
    assert charged.reason == "insufficient_funds"
    assert [row[0] for row in books.rows("SELECT role FROM users ORDER BY role")] == ["admin", *["user"] * 5]
    assert books.rows("SELECT DISTINCT verified, status FROM users WHERE role = 'user'") == [(False, "ACTIVE")]
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_what_is_open_ends_with_the_right_to_it(machine: Machine, books: Books, clients: Clients) -> None:
    stage = await scene(machine, books, clients)
    ada, bob, api, server = stage.ada, stage.bob, stage.api, stage.server
    one, other = (f"/api/users/{person.user_id}" for person in (ada, bob))
    assert (await api.ask("PUT", other, {"role": "support"}, stage.admin)).status == 200
    watched = [(bob.access, "balance_updated"), (ada.access, f"users:{ada.user_id}")]
    ears = [await websocket(server, token) for token, _ in watched]
    for ear, (_, topic) in zip(ears, watched, strict=True):
        assert (await ear.subscribe(topic))["type"] == "subscribed"
    streams = [StreamFollower(topic, token=token) for token, topic in watched]
    for stream in streams:
        await stream.connect(server)
    assert (await api.ask("PUT", other, {"role": "user"}, stage.admin)).status == 200
    assert (await api.ask("PUT", one, {"status": "SUSPENDED"}, stage.admin)).status == 200
    assert [await ear.closed() for ear in ears] == [4401, 4401]
    assert [await stream.lost() for stream in streams] == [4401, 4401]
    again = await websocket(server, bob.access)
    assert (await again.subscribe("balance_updated"))["type"] == "error"
    again.transport.abortConnection()
    assert (await again.closed()) != 1000
    await server.stop()

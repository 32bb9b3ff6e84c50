# mypy: disable-error-code="untyped-decorator"
"""Attacks by content: what no field of any endpoint may take, in every field that the OpenAPI document tells of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest_twisted

from ledger.domain.errors import CATALOGUE
from tests.e2e.attack import PASSWORD, Operation, Scene, Told, operations, request, scene, sent
from tests.e2e.books import Books
from tests.e2e.client import Clients
from tests.e2e.server import Machine

MIB = 1 << 20
UNCLEAN = ("a\0b", "\ud800", "b\udc00c", ["\0"], {"\ud9ff": 1}, {"a": [{"b": "\0"}]})
MISFITS = (12, True, ["x"], {"a": "b"}, -1.5)
TAKEN = {"amount": (int, float), "users": (list,)}  # all other fields are texts
SQL = ("'; DROP TABLE users; --", "' OR '1'='1", "1) UNION SELECT password_hash FROM users --")
ENDLESS = ("x" * 900_000, "\u0301" * 5_000, "9" * 5_000)
HUGE: tuple[Any, ...] = json.loads("9" * 4_000), [[[[[]]]]] * 40_000
IN_QUERIES = (*map(quote, SQL), "%FF", "%ED%A0%80", "%", "%zz", "x" * 10_000, "9" * 900, "%5B" * 900, "null", "", "-1")
IDS = (
    *("..%2f..%2fetc%2fpasswd", "%2e%2e", "..", "%00", "%ED%A0%80", "%FF", "a%2Fb", "%0d%0aSet-Cookie:%20a=b", "{id}"),
    *(quote(SQL[0]), "x" * 10_000, "%E2%80%AE", "0199cdfe-0200-7000-8000-000000000006%0a", "%252e%252e%252f", "%u0041"),
)
# Where the caller's right, or what is asked for, may be looked at before a field is: refused it is all the same.
LATER = tuple(f"/api/{what}" for what in ("accounts", "holds", "transfers", "payments", "periods", "jobs"))
TOLD_INSIDE = ("/api/transfers/batch", "/api/payments/validate")  # where 200 tells what is wrong
FIXED = {"role", "status", "active", "verified", "suspended", "deleted", "id"}  # of one's own profile


def depth(levels: int) -> Any:
    """An array in an array in an array …"""
    nested: Any = []
    for _ in range(levels):
        nested = [nested]
    return nested


class Asking:
    """One operation, asked with one thing wrong at a time."""

    def __init__(self, stage: Scene, operation: Operation) -> None:
        self.stage = stage
        self.operation = operation
        own = operation.path.startswith("/api/profile") or "account" in operation.path or "transact" in operation.path
        self.token = None if operation.is_open else stage.ada.access if own else stage.admin
        self.path = operation.path.replace("{id}", stage.bob.user_id)

    def good(self, name: str) -> str:
        """A value that would be taken."""
        return {
            "email": f"{uuid4()}@example.com",
            "user_id": self.stage.ada.user_id,
            "amount": "0.01",
            "role": "user",
            "current_password": "not this one",
        }.get(name, PASSWORD)

    def body(self, name: str, value: Any) -> bytes:
        """A body with one field as it is told, and the others that are required good."""
        return json.dumps({**{other: self.good(other) for other in self.operation.required}, name: value}).encode()

    async def answers(self, bodies: list[bytes]) -> list[Told]:
        """Ask with each body."""
        method = self.operation.method
        requests = b"".join(request(method, self.path, body, token=self.token) for body in bodies)
        told = await sent(self.stage.server, requests, len(bodies))
        assert len(told) == len(bodies), self.operation.name
        return [self.checked(answer) for answer in told]

    async def queried(self, queries: list[str]) -> list[Told]:
        """Ask with each query."""
        method = self.operation.method
        requests = b"".join(request(method, f"{self.path}?{query}", token=self.token) for query in queries)
        told = await sent(self.stage.server, requests, len(queries))
        assert len(told) == len(queries), self.operation.name
        return [self.checked(answer) for answer in told]

    def checked(self, answer: Told) -> Told:
        """Return an answer, which must be ours and documented."""
        assert answer.status in self.operation.statuses, (self.operation.name, answer)
        assert answer.status < 300 or CATALOGUE[answer.reason], self.operation.name
        return answer


def asked(stage: Scene) -> Iterator[Asking]:
    """Every operation that the document tells of."""
    for operation in operations(stage.document):
        yield Asking(stage, operation)


@pytest_twisted.ensureDeferred
async def test_no_field_takes_what_no_field_may_hold(machine: Machine, books: Books, clients: Clients) -> None:
    stage = await scene(machine, books, clients)
    fields = 0
    for asking in asked(stage):
        if asking.operation.path in TOLD_INSIDE:
            continue
        is_profile = asking.operation.name == "PUT /api/profile"
        for name in asking.operation.fields:
            fields += 1
            where = f"{asking.operation.name} {name}"
            for answer in await asking.answers([asking.body(name, value) for value in UNCLEAN]):
                told = answer.status, answer.reason, answer.error["details"].get("field")
                assert told == (400, "invalid_request", name), where
            misfits = [value for value in MISFITS if type(value) not in TAKEN.get(name, ())]
            for answer in await asking.answers([asking.body(name, value) for value in misfits]):
                if asking.operation.path.startswith(LATER):
                    assert 400 <= answer.status < 500, where
                    continue
                expected = 403 if is_profile and name in FIXED else 400
                assert (answer.status, answer.error["details"].get("field")) == (expected, name), where
            deep, *huge = await asking.answers([asking.body(name, value) for value in (depth(40), *HUGE)])
            assert (deep.status, deep.reason) == (400, "invalid_request"), where
            assert name in TAKEN or all(400 <= answer.status < 500 for answer in huge), where
        for name in asking.operation.query:
            (nul,) = await asking.queried([f"{name}=a%00b"])
            assert (nul.status, nul.error["details"]) == (400, {"field": name}), f"{asking.operation.name} {name}"
            await asking.queried([f"{name}={value}" for value in IN_QUERIES])
    assert fields >= 40
    await stage.server.stop()


@pytest_twisted.ensureDeferred
async def test_endless_texts_and_sql_are_only_texts(machine: Machine, books: Books, clients: Clients) -> None:
    stage = await scene(machine, books, clients)
    ada = stage.ada
    for asking in asked(stage):
        for name in asking.operation.fields:
            if asking.operation.path.startswith(LATER):
                continue
            for answer in await asking.answers([asking.body(name, text) for text in ENDLESS]):
                assert 400 <= answer.status < 500, f"{asking.operation.name} {name}"
                assert len(answer.body) < 2_000
            bodies = [asking.body(name, text) for text in (SQL[:1] if "password" in name else SQL)]
            await asking.answers(bodies)
        if "{id}" in asking.operation.path:
            paths = [asking.operation.path.replace("{id}", text) for text in IDS]
            passwords = {name: PASSWORD for name in asking.operation.fields if "password" in name}
            good = json.dumps(passwords or {"role": "user"}).encode() if asking.operation.fields else b""
            requests = [request(asking.operation.method, path, good, token=stage.admin) for path in paths]
            for path, answer in zip(paths, await sent(stage.server, b"".join(requests), len(paths)), strict=True):
                expected = {(400, "invalid_uuid_format"), (404, "resource_not_found")}
                assert (answer.status, answer.reason) in expected, path
                assert answer.all("Set-Cookie") == []
    # Nothing was carried out, and what is text was kept as it was.
    assert (await stage.api.ask("GET", "/api/auth/me", token=ada.access)).data["email"] == ada.email
    assert {row[0] for row in books.rows("SELECT role FROM users WHERE email = ANY (%s)", [ada.email])} == {"user"}
    names = {row[0] for row in books.rows("SELECT full_name FROM users")}
    assert set(SQL) <= names
    assert books.rows("SELECT count(*) FROM users WHERE role = 'admin'") == [(1,)]
    await stage.server.stop()
    await machine.verify("--database", books.url)


@pytest_twisted.ensureDeferred
async def test_a_mebibyte_of_brackets(machine: Machine, books: Books, clients: Clients) -> None:
    stage = await scene(machine, books, clients)
    half = MIB // 2
    bodies = {
        "arrays": b"[" * half + b"]" * half,
        "objects": b'{"a":' * (MIB // 6) + b"1" + b"}" * (MIB // 6),
        "begun only": b"[" * MIB,
        "in a field": b'{"email": ' + b"[" * (half - 50) + b"]" * (half - 50) + b', "password": "x"}',
        "in a string": b'{"email": "' + b"[" * (MIB - 100) + b'", "password": "x"}',
        "escapes": b'{"email": "' + rb"\"[" * (MIB // 3 - 50) + b'", "password": "x"}',
        "blanks": b" " * (MIB - 2) + b"{}",
        "names": b"{" + b",".join(b'"%d":0' % number for number in range(90_000)) + b"}",
        "digits": b'{"email": ' + b"9" * (MIB - 100) + b"}",
        "not UTF-8": b"\xff" * MIB,
        "UTF-16": '{"email": "a"}'.encode("utf-16"),
    }
    for name, body in bodies.items():
        assert len(body) <= MIB, name
        for path, token in (("/api/auth/login", None), ("/credit", stage.ada.access), ("/api/profile", None)):
            method = "PUT" if path == "/api/profile" else "POST"
            (answer,) = await sent(stage.server, request(method, path, body, token=token))
            assert answer.status in (400, 401), (name, path, answer)
            assert answer.reason in ("invalid_request", "missing_fields", "invalid_credentials", "invalid_token"), name
    (answer,) = await sent(stage.server, request("POST", "/credit", b"[" * (MIB + 1), token=stage.ada.access))
    assert (answer.status, answer.reason) == (413, "payload_too_large")
    await stage.server.stop()

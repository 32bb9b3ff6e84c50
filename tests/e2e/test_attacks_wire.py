# mypy: disable-error-code="untyped-decorator"
"""Attacks below the endpoints: requests smuggled in requests, lines smuggled into answers, heads and paths that lie."""

from __future__ import annotations

import json

import pytest_twisted

from tests.e2e.attack import request, scene, sent
from tests.e2e.books import Books
from tests.e2e.client import Clients
from tests.e2e.kept_secrets import new_secret
from tests.e2e.server import Machine

ORIGIN = "https://app.example"
FRAMINGS = {
    "two lengths": "Content-Length: {}\r\nContent-Length: 5",
    "one length twice": "Content-Length: {0}\r\nContent-Length: {0}",
    "a list of lengths": "Content-Length: {0}, {0}",
    "length and chunks": "Content-Length: {}\r\nTransfer-Encoding: chunked",
    "chunks and length": "Transfer-Encoding: chunked\r\nContent-Length: {}",
    "chunks twice": "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "an unknown coding": "Transfer-Encoding: xchunked",
    "codings": "Transfer-Encoding: chunked, identity",
    "a blank before the colon": "Content-Length : {}",
    "a blank before chunks' colon": "Transfer-Encoding : chunked\r\nContent-Length: {}",
    "a sign": "Content-Length: +{}",
    "below zero": "Content-Length: -1",
    "another base": "Content-Length: 0x1c",
    "an underscore": "Content-Length: 2_8",
    "no number": "Content-Length:",
    "not ASCII": "Content-Length: \xb28",
    "NUL": "Content-Length: {}\r\nX-Note: a\0b",
    "a bare carriage return": "X-Note: a\rContent-Length: 5\r\nContent-Length: {}",
    "a bare line feed": "Cookie: a\nContent-Length: 5\r\nContent-Length: {}",
    "a line without a colon": "Content-Length: {}\r\ngarbage",
    "a line without a name": "Content-Length: {}\r\n: a",
}
CHUNKS = {
    "below zero": b"-1\r\n",
    "another base": b"0x5\r\nabcde\r\n0\r\n\r\n",
    "more than it says": b"2\r\n{}XX0\r\n\r\n",
    "no number": b"\r\n\r\n",
    "an endless number": b"0" * 70_000,
}
HEADS = {
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "another version": b"GET /api/health HTTP/9.9\r\n\r\n",
    "no version": b"GET /api/health\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64 + b"\r\n\r\n",
    "a method of control characters": b"G\x01T /api/health HTTP/1.1\r\n\r\n",
    "a line too long": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
    "a header too long": b"GET /api/health HTTP/1.1\r\nX-Note: " + b"a" * 20_000 + b"\r\n\r\n",
    "too many headers": b"GET /api/health HTTP/1.1\r\n" + b"X-Note: a\r\n" * 1_000 + b"\r\n",
    "too much of headers": b"GET /api/health HTTP/1.1\r\n" + (b"X-Note: " + b"a" * 8_000 + b"\r\n") * 100 + b"\r\n",
    "no end": b"GET /api/health HTTP/1.1\r\nX-Note: " + b"a" * 100_000,
}


@pytest_twisted.ensureDeferred
async def test_no_request_is_smuggled_in_another(machine: Machine, books: Books, clients: Clients) -> None:
    stage = await scene(machine, books, clients)
    ada, server = stage.ada, stage.server
    hidden = json.dumps({"user_id": ada.user_id, "amount": "1.00"}).encode()
    smuggled = request("POST", "/credit", hidden, token=ada.access)
    body = b"0\r\n\r\n" + smuggled
    for path in ("/credit", "/api/profile"):  # the plain way and Klein's
        start = request("POST" if path == "/credit" else "PUT", path, token=ada.access).removesuffix(b"\r\n")
        for name, lines in FRAMINGS.items():
            framed = lines.format(len(body)).encode("latin-1")
            told = await sent(server, start + framed + b"\r\n\r\n" + body + smuggled, 2)
            assert [(answer.status, answer.reason) for answer in told] == [(400, "invalid_request")], (path, name)
            assert told[0].all("Connection") == ["close"], name
        for name, chunks in CHUNKS.items():
            told = await sent(server, start + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + smuggled, 2)
            assert [(answer.status, answer.reason) for answer in told] == [(400, "invalid_request")], (path, name)
    # A body is a body, also where none is read: what stands in it is no request.
    for method, path in (("GET", "/api/balance"), ("DELETE", "/nowhere"), ("POST", "/api/nowhere")):
        (answer, last) = await sent(server, request(method, path, smuggled) + request("GET", "/api/health/live"), 2)
        assert (answer.status, last.status) == (401 if method == "GET" else 404, 200)
    assert books.head() == 0
    (answer,) = await sent(server, smuggled)
    assert (answer.status, books.head()) == (201, 1)
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_heads_that_are_none(machine: Machine, books: Books, clients: Clients) -> None:
    stage = await scene(machine, books, clients)
    for name, head in HEADS.items():
        told = await sent(stage.server, head)
        assert [(answer.status, answer.reason) for answer in told] == [(400, "invalid_request")], name
        assert told[0].all("X-Content-Type-Options") == ["nosniff"]
    for method in ("get", "TRACE", "PROPFIND", "A" * 5_000):
        (answer,) = await sent(stage.server, request(method, "/api/health"))
        assert (answer.status, answer.reason) == (405, "method_not_allowed")
        assert answer.all("Allow") == ["GET, HEAD, OPTIONS"]
    (answer,) = await sent(stage.server, request("CONNECT", "evil.example:443"))
    assert (answer.status, answer.reason) == (404, "resource_not_found")
    await stage.server.stop()


@pytest_twisted.ensureDeferred
async def test_no_line_is_smuggled_into_an_answer(machine: Machine, books: Books, clients: Clients) -> None:
    stage = await scene(machine, books, clients, "--cors-origin", ORIGIN)
    server, api = stage.server, stage.api
    refused = ["X-Correlation-ID: a\rEvil: 1", f"Origin: {ORIGIN}\rEvil: 1", "X-Correlation-ID: a\0"]
    ignored = [
        *(f"X-Correlation-ID: {text}" for text in ("%0d%0aEvil: 1\x0b", "\xff\xfe", "a\tb", "a\x7f", "a" * 129, "")),
        "X-Correlation-ID: a\r\nX-Correlation-ID: b",
        "X-Correlation-ID: a\r\n\tEvil: 1\x01",
        "Origin: https://evil.example",
        f"Origin: {ORIGIN}.evil.example",
        f"Origin: {ORIGIN.upper()}",
        "Origin: null",
    ]
    for path in ("/api/health", "/credit", "/%0d%0aEvil:%201", "/api/users/%0d%0aEvil:%201", "/docs", "/api/events"):
        method = "POST" if path == "/credit" else "GET"
        for line in refused:
            told = await sent(server, request(method, path, b"", "Content-Length: 0", line))
            assert [(answer.status, answer.reason) for answer in told] == [(400, "invalid_request")], line
        for line in ignored:
            (answer,) = await sent(server, request(method, path, b"", "Content-Length: 0", line))
            names = {name for name, _ in answer.headers}
            assert not names & {"evil", "access-control-allow-origin"}, line
            (correlation_id,) = answer.all("X-Correlation-ID")
            assert len(correlation_id) == 32, line
            assert int(correlation_id, 16) >= 0
    (answer,) = await sent(server, request("GET", "/nowhere", b"", 'X-Correlation-ID: "}\\{a} %s', f"Origin: {ORIGIN}"))
    assert answer.error["correlation_id"] == '"}\\{a} %s'
    assert answer.all("Access-Control-Allow-Origin") == [ORIGIN]
    for doubled in ("Authorization: Bearer {0}\r\nAuthorization: Bearer {0}", "Authorization: Bearer {0}, Bearer {0}"):
        (answer,) = await sent(server, request("GET", "/api/auth/me", b"", doubled.format(stage.ada.access)))
        assert (answer.status, answer.reason) == (401, "invalid_token")
    keys = ("Idempotency-Key: a\r\nIdempotency-Key: b", f"Idempotency-Key: {'a' * 256}", "Idempotency-Key: \xff")
    for key in keys:
        (answer,) = await sent(server, request("POST", "/credit", b"{}", key, token=stage.ada.access))
        assert (answer.status, answer.reason) == (400, "invalid_idempotency_key")
    assert (await api.ask("GET", "/api/health")).status == 200
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_paths_lead_nowhere_else(machine: Machine, books: Books, clients: Clients) -> None:
    stage = await scene(machine, books, clients)
    server, admin = stage.server, stage.admin
    up = ("..", "%2e%2e", "..%2f..", "%252e%252e", "%00", "%ff", ".", "%5c..%5c..")
    roots = ("", "/api", "/docs", "/api/users/stats", "/api/health")
    for path in [f"{root}/{step}/{step}/etc/passwd" for root in roots for step in up]:
        (answer,) = await sent(server, request("GET", path, token=admin))
        assert (answer.status, answer.reason) == (404, "resource_not_found"), path
    aliases = [
        "//api/users",
        "/api//users",
        "/api/users/",
        "/api/./users",
        "/x/../api/users",
        "/API/users",
        "/api/users;a=b",
    ]
    for path in (
        *aliases,
        "/api/users%2f",
        "/api/users%00",
        "/api/users%20",
        "http://localhost/api/users",
        "*",
    ):
        for token in (None, admin):
            (answer,) = await sent(server, request("GET", path, token=token))
            assert (answer.status, answer.reason) == (404, "resource_not_found"), path
    for path in ("/api%2fusers", "/api/%75sers"):  # other spellings of one path, behind the same door
        told = await sent(server, request("GET", path) + request("GET", path, token=stage.ada.access), 2)
        assert [answer.reason for answer in told] == ["invalid_token", "insufficient_permissions"]
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_refused_methods_are_answered_and_not_logged(machine: Machine, books: Books, clients: Clients) -> None:
    stage = await scene(machine, books, clients)
    server = stage.server
    before = server.log
    for path in ("/credit", "//nowhere", "/nowhere", "/ws", "/api/events", "/docs/nowhere", "/api/users/x/y", "*"):
        for method in ("HEAD", "PATCH", "OPTIONS"):
            asked = request(method, f"{path}?note={new_secret()}")
            (answer,) = await sent(server, asked, bodies=method != "HEAD")
            assert answer.status in ({204, 404} if method == "OPTIONS" else {404, 405}), (method, path)
            assert answer.all("X-Content-Type-Options") == ["nosniff"]
            assert len(answer.all("X-Correlation-ID")) == 1, (method, path)
            if method == "HEAD":
                assert answer.body == b""
                assert int(answer.all("Content-Length")[0]) > 0
    assert (await stage.api.ask("GET", "/api/health/ready")).status == 200
    assert server.log == before
    await server.stop()

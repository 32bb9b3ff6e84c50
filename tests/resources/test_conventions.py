"""What holds for every JSON endpoint, through both adapters."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ledger.domain.errors import CATALOGUE, Refused
from ledger.domain.policy import Action, Role
from ledger.resources.endpoint import MIB, Answer, Call, Endpoint
from ledger.resources.screening import MAX_DEPTH
from tests.resources.backend import MemoryBackend, Settings
from tests.resources.harness import Connection, Reply, Server

SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-XSS-Protection": "1; mode=block",
    "Referrer-Policy": "strict-origin-when-cross-origin",
}


def check_standard_headers(reply: Reply) -> None:
    """Every answer carries these."""
    for name, value in SECURITY.items():
        assert reply.header(name) == value
    policy = reply.header("Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert reply.header("Date") == "Thu, 28 May 2026 20:26:40 GMT"
    assert reply.header("Strict-Transport-Security") is None
    assert reply.header("Server") is None
    if reply.body:
        assert reply.header("Content-Type") == "application/json"


def test_every_kind_of_answer_carries_the_standard_headers(server: Server) -> None:
    for reply in (
        server.credit(1),
        server.credit(0),
        server.ask("GET", "/balance"),
        server.ask("GET", "/api/health"),
        server.ask("GET", "/nothing"),
        server.ask("PUT", "/credit"),
        server.ask("OPTIONS", "/credit"),
        server.ask("POST", "/credit", token=None),
        server.ask("POST", "/credit", raw=b"{" + b" " * MIB),
        server.ask("HEAD", "/balance"),
    ):
        check_standard_headers(reply)
        correlation_id = reply.header("X-Correlation-ID")
        assert correlation_id is not None
        assert len(correlation_id) == 32


def test_a_refusal_has_the_form_of_the_contract(server: Server) -> None:
    reply = server.credit(0)
    assert list(reply.json) == ["error"]
    assert reply.error == {
        "type": "unprocessable_entity",
        "message": "The amount must be above zero",
        "code": 422,
        "reason": "negative_amount",
        "details": {"field": "amount"},
        "timestamp": "2026-05-28T20:26:40.250Z",
        "correlation_id": reply.header("X-Correlation-ID"),
    }


def test_every_reason_is_answered_with_its_status(server: Server) -> None:
    for reason, row in CATALOGUE.items():
        server.backend.trouble = Refused(reason, account_id="x")
        reply = server.credit(1)
        assert reply.refusal == (row.category.status, reason)
        assert reply.error["type"] == row.category.wire_type
        assert reply.error["details"] == {"account_id": "x"}
        assert (reply.header("Retry-After") == "1") == (reply.status in (429, 503))
        assert (reply.header("WWW-Authenticate") == "Bearer") == (reply.status == 401)


@pytest.mark.parametrize("given", ["abc", "x" * 128, 'quo"te\\', "with space", "~!#"])
def test_a_fit_correlation_id_is_echoed(server: Server, given: str) -> None:
    for reply in (
        server.ask("POST", "/credit", {"user_id": server.user_id, "amount": 1}, {"X-Correlation-ID": given}),
        server.ask("GET", "/balance", headers={"X-Correlation-ID": given}),
        server.ask("GET", "/nothing", headers={"X-Correlation-ID": given}),
    ):
        assert reply.header("X-Correlation-ID") == given
        assert (reply.json if "data" in reply.json else reply.error)["correlation_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "h\xe9", "a\tb", "\x7f"])
def test_an_unfit_correlation_id_is_replaced(server: Server, given: str) -> None:
    body = {"user_id": server.user_id, "amount": 1}
    first = server.ask("POST", "/credit", body, {"X-Correlation-ID": given})
    second = server.ask("POST", "/credit", body, {"X-Correlation-ID": given})
    ids = {reply.json["correlation_id"] for reply in (first, second)}
    assert len(ids) == 2
    assert all(len(text) == 32 and set(text) <= set("0123456789abcdef") for text in ids)
    assert first.header("X-Correlation-ID") in ids


@pytest.mark.parametrize(
    "smuggled", [b"a\rSet-Cookie: x=1", b"a\nSet-Cookie: x=1", b"a\0b", b"a\r\n Set-Cookie: x=1", b"a\x0bb", b"a\x85b"]
)
def test_nothing_can_be_smuggled_into_the_headers(server: Server, smuggled: bytes) -> None:
    request = server.request("POST", "/credit", {"user_id": server.user_id, "amount": 1}, {"X-Correlation-ID": "HERE"})
    connection = server.connect()
    connection.send(request.replace(b"HERE", smuggled))
    head = connection.received().partition(b"\r\n\r\n")[0]
    assert head.startswith((b"HTTP/1.1 201", b"HTTP/1.1 400"))
    assert not any(line.startswith(b"Set-Cookie") for line in head.splitlines())
    assert head.count(b"\n") == head.count(b"\r\n")


NO_OBJECTS = (
    *(
        b"",
        b"[]",
        b'"x"',
        b"7",
        b"null",
        b"{",
        b"{}x",
        b"{'a':1}",
        b'{"a":1,}',
        b"\xff\xfe{}",
        b'\xef\xbb\xbf{"a":1}',
    ),
    *(b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\x00"}', b'{"a":"\n"}', b'{"a":"\\x"}', b'{"a":"\\u12"}'),
    *(
        b"[" * 500_000,
        b'{"a":' * 100_000,
        b"[" * 500_000 + b"]" * 500_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    ),
)


def test_what_is_no_json_object_is_refused(server: Server) -> None:
    for body in NO_OBJECTS:
        assert server.ask("POST", "/credit", raw=body).refusal == (400, "invalid_request"), body[:20]


@pytest.mark.parametrize(("open_", "close"), [("[", "]"), ('{"a":', "}")])
def test_nesting_has_a_limit(server: Server, open_: str, close: str) -> None:
    def nested(depth: int, extra: str = "1") -> Reply:
        value = open_ * (depth - 1) + extra + close * (depth - 1)
        raw = f'{{"user_id":"{server.user_id}","amount":1,"deep":{value}}}'.encode()
        return server.ask("POST", "/credit", raw=raw)

    assert nested(MAX_DEPTH).status == 201
    assert nested(MAX_DEPTH + 1).refusal == (400, "invalid_request")
    assert nested(MAX_DEPTH, json.dumps('[[[{{{"\\[' * 20)).status == 201  # brackets in text do not nest
    assert nested(3, "[],{},[],{}," * 20 + "1" if open_ == "[" else "1").status == 201


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_has_a_limit(server: Server, chunked: bool) -> None:
    def post(size: int) -> Connection:
        start = f'{{"user_id":"{server.user_id}","amount":1,"x":"'.encode()
        body = start + b"x" * (size - len(start) - 2) + b'"}'
        connection = server.connect()
        if chunked:
            connection.send(server.request("POST", "/credit", None, {"Transfer-Encoding": "chunked"}))
            for place in range(0, size, 100_000):
                piece = body[place : place + 100_000]
                connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            connection.send(b"0\r\n\r\n")
        else:
            connection.send(server.request("POST", "/credit", raw=body))
        return connection

    (fits,) = post(MIB).replies()
    assert fits.status == 201
    connection = post(MIB + 1)
    (reply,) = connection.replies()
    assert reply.refusal == (413, "payload_too_large")
    assert reply.header("Connection") == "close"
    assert connection.transport.disconnecting
    assert len(server.backend.submitted) == 1


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(server: Server) -> None:
    connection = server.connect()
    head = server.request("POST", "/users", None, {"Content-Length": str(MIB + 1), "Expect": "100-continue"})
    connection.send(head)
    (reply,) = connection.replies()
    assert reply.refusal == (413, "payload_too_large")
    assert not connection.transport.disconnecting  # a client that sends on would see a reset instead of the answer
    connection.send(b"x" * (MIB + 1))
    assert connection.transport.disconnecting
    assert len(connection.replies()) == 1


def test_who_goes_on_sending_what_was_refused_is_cut_off(server: Server) -> None:
    connection = server.connect()
    connection.send(server.request("POST", "/credit", None, {"Transfer-Encoding": "chunked"}))
    for _ in range(40):
        connection.send(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
    (reply,) = connection.replies()
    assert reply.refusal == (413, "payload_too_large")
    assert connection.transport.disconnected


def test_an_unknown_path_is_told(server: Server) -> None:
    for path in ("/", "/nothing", "/credit/", "//credit", "/CREDIT", "/api", "/api/health/x", "/%ff", "/%00", "*x"):
        assert server.ask("GET", path).refusal == (404, "resource_not_found")
        assert server.ask("POST", path, {"a": 1}, token=None).refusal == (404, "resource_not_found")


@pytest.mark.parametrize("host", ["a..b", "\xff\xfe", "[::1", "x" * 300, "", "*", "localhost:99999999"])
def test_whatever_host_is_asked_for_the_paths_are_the_same(server: Server, host: str) -> None:
    assert server.ask("GET", "/balance", headers={"Host": host}).status == 200
    assert server.ask("GET", "/nothing", headers={"Host": host}).status == 404


def test_an_encoded_path_is_the_same_path(server: Server) -> None:
    reply = server.ask("POST", "/%63redit", {"user_id": server.user_id, "amount": 1})
    assert reply.status == 201


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/credit", "OPTIONS, POST"),
        ("DELETE", "/api/debit", "OPTIONS, POST"),
        ("POST", "/balance", "GET, HEAD, OPTIONS"),
        ("FOO", "/users", "OPTIONS, POST"),
        ("PUT", "/api/health/live", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_method_that_is_not_allowed_is_told_those_that_are(
    server: Server, method: str, path: str, allow: str
) -> None:
    reply = server.ask(method, path, token=None)
    assert reply.refusal == (405, "method_not_allowed")
    assert reply.error["type"] == "method_not_allowed"
    assert reply.header("Allow") == allow


def test_head_is_get_without_the_body(server: Server) -> None:
    got, asked = server.ask("GET", "/balance"), server.ask("HEAD", "/balance")
    assert asked.status == got.status == 200
    assert asked.header("Content-Length") == got.header("Content-Length")
    missing = server.ask("HEAD", "/nothing")
    assert missing.status == 404
    assert server.ask("HEAD", "/balance", token=None).status == 401


def test_options_tells_the_methods(server: Server) -> None:
    reply = server.ask("OPTIONS", "/balance", token=None)
    assert (reply.status, reply.body) == (204, b"")
    assert reply.header("Allow") == "GET, HEAD, OPTIONS"
    assert reply.header("Access-Control-Allow-Origin") is None
    assert server.ask("OPTIONS", "/nothing").refusal == (404, "resource_not_found")


class TestCrossOrigin:
    """Pages of configured origins may call; others are not told that they may."""

    @pytest.fixture
    def server(self, adapter: str) -> Server:
        """A server that knows one origin."""
        return Server(MemoryBackend(Settings(cors_origins=("https://app.example",))), plain=adapter == "plain")

    def test_a_known_origin(self, server: Server) -> None:
        """The answers may be read, the correlation id and the replay mark too."""
        body = {"user_id": server.user_id, "amount": 1}
        for reply in (
            server.ask("POST", "/credit", body, {"Origin": "https://app.example"}),
            server.ask("POST", "/credit", {}, {"Origin": "https://app.example"}),
            server.ask("GET", "/nothing", headers={"Origin": "https://app.example"}),
        ):
            assert reply.header("Access-Control-Allow-Origin") == "https://app.example"
            assert reply.header("Vary") == "Origin"
            assert "Idempotent-Replayed" in str(reply.header("Access-Control-Expose-Headers"))
            check_standard_headers(reply)

    def test_a_preflight(self, server: Server) -> None:
        """The request that would follow may come."""
        headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
        reply = server.ask("OPTIONS", "/credit", headers=headers, token=None)
        assert reply.status == 204
        assert reply.header("Access-Control-Allow-Origin") == "https://app.example"
        assert "POST" in str(reply.header("Access-Control-Allow-Methods"))
        allowed = str(reply.header("Access-Control-Allow-Headers"))
        assert {"Authorization", "Content-Type", "Idempotency-Key"} <= set(allowed.split(", "))

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://app.example.evil", ""])
    def test_an_unknown_origin(self, server: Server, origin: str) -> None:
        """Nothing is permitted, and caches are told that it depends on the origin."""
        for reply in (
            server.credit(1),
            server.ask("POST", "/credit", {"user_id": server.user_id, "amount": 1}, {"Origin": origin}),
            server.ask("OPTIONS", "/credit", headers={"Origin": origin}),
        ):
            assert not [name for name, _ in reply.headers if name.lower().startswith("access-control-")]
            assert reply.header("Vary") == "Origin"


def test_without_origins_configured_no_page_may_call(server: Server) -> None:
    body = {"user_id": server.user_id, "amount": 1}
    reply = server.ask("POST", "/credit", body, {"Origin": "https://app.example"})
    assert reply.header("Access-Control-Allow-Origin") is None


class TestAccess:
    """What is for admins."""

    @pytest.fixture
    def server(self, adapter: str) -> Server:
        """A server with an endpoint for admins."""

        async def who(caller: Any, call: Call[None, None]) -> Answer:
            return Answer({"role": caller.role, "id": call.params.get("id")})

        endpoint = Endpoint("GET", "/api/secret/<id>", who, summary="", policy=Action.MANAGE_USERS)
        return Server(plain=adapter == "plain", endpoints=(endpoint,))

    def test_an_admins_token_is_enough(self, server: Server) -> None:
        """From anywhere."""
        for peer in ("192.0.2.7", "127.0.0.1"):
            reply = server.ask("GET", "/api/secret/7", token=server.backend.admin_token, peer=peer)
            assert reply.data == {"role": "admin", "id": "7"}

    def test_an_account_token_is_not(self, server: Server) -> None:
        """Not even that of an admin's account, and not from this machine."""
        admin = server.backend.tokens[server.backend.admin_token]
        _, token = server.backend.open_account(admin.user_id)
        for given in (server.token, token):
            for peer in ("192.0.2.7", "127.0.0.1"):
                reply = server.ask("GET", "/api/secret/7", token=given, peer=peer)
                assert reply.refusal == (403, "insufficient_permissions")

    @pytest.mark.parametrize("role", ["user", "support"])
    def test_other_roles_are_not(self, server: Server, role: Role) -> None:
        """Whoever has them."""
        reply = server.ask("GET", "/api/secret/7", token=server.backend.log_in(role))
        assert reply.refusal == (403, "insufficient_permissions")

    @pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "192.0.2.7"])
    def test_no_token_is_nobody(self, server: Server, peer: str) -> None:
        """Wherever it comes from."""
        for token in (None, "nope"):
            reply = server.ask("GET", "/api/secret/7", token=token, peer=peer)
            assert reply.refusal == (401, "invalid_token")

    @pytest.mark.parametrize("given", ["admin-token", "Basic admin-token", "Bearer admin-token x", "Bearer", ""])
    def test_a_token_is_sent_in_one_way(self, server: Server, given: str) -> None:
        """As a bearer's."""
        reply = server.ask("GET", "/api/secret/7", headers={"Authorization": given}, token=None)
        assert reply.refusal == (401, "invalid_token")

    def test_two_tokens_are_none(self, server: Server) -> None:
        """Nobody guesses which one counts."""
        request = server.request("GET", "/api/secret/7", token=server.backend.admin_token)
        connection = server.connect()
        connection.send(request.replace(b"User-Agent: test", b"Authorization: Bearer x"))
        assert connection.replies()[0].refusal == (401, "invalid_token")


def test_an_endpoint_can_have_a_limit_of_its_own(adapter: str) -> None:
    async def size(_caller: Any, _call: Call[None, None]) -> Answer:
        return Answer("ok")

    large = Endpoint("POST", "/large", size, summary="", policy=Action.READ_DOCUMENTS, body_limit=2 * MIB, hot=True)
    small = Endpoint("POST", "/small", size, summary="", policy=Action.READ_DOCUMENTS, body_limit=10, hot=True)
    server = Server(plain=adapter == "plain", endpoints=(large, small))
    assert server.ask("POST", "/large", raw=b"x" * 2 * MIB).status == 200
    assert server.ask("POST", "/large", raw=b"x" * (2 * MIB + 1)).refusal == (413, "payload_too_large")
    assert server.ask("POST", "/small", raw=b"x" * 10).status == 200
    assert server.ask("POST", "/small", raw=b"x" * 11).refusal == (413, "payload_too_large")


def test_answers_can_carry_metadata_and_a_status_of_their_own(adapter: str) -> None:
    async def list_(_caller: Any, _call: Call[None, None]) -> Answer:
        return Answer([1, 2], status=202, metadata={"pagination": {"page": 1}})

    endpoint = Endpoint("GET", "/list", list_, summary="", policy=Action.READ_DOCUMENTS, hot=True)
    reply = Server(plain=adapter == "plain", endpoints=(endpoint,)).ask("GET", "/list")
    assert reply.status == 202
    assert reply.json["metadata"] == {"pagination": {"page": 1}}
    assert reply.data == [1, 2]

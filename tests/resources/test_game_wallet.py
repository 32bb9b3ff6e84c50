"""The game wallet's endpoints on both adapters: signatures, and an answer in the dialect whatever is sent."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from twisted.logger import LogLevel, capturedLogs

from ledger import games
from ledger.domain.errors import Refused, unavailable
from ledger.resources.endpoint import MIB
from tests.cleanliness import LoggedErrors
from tests.game_keys import GAMES, SIGNATURE, private_key, sign
from tests.resources.backend import MemoryBackend, Settings
from tests.resources.harness import Reply, Server

CALLS = ("/transaction/bet", "/transaction/win", "/transaction/rollback", "/user/balance", "/user/info")
REQUEST = "583c985f-fee6-4c0e-bbf5-308aad6265af"
BET = {"user": "ada", "transaction_uuid": str(uuid4()), "request_uuid": REQUEST, "currency": "USD", "amount": 400}
MADE = {"user": "ada", "status": "RS_OK", "request_uuid": REQUEST, "currency": "USD", "balance": 99_600}


class MemoryGames:
    """The wallet in process, as the endpoints see the one over the journal."""

    def __init__(self) -> None:
        self.server = games.start()
        self.names: set[str] = set()
        self.trouble: Exception | None = None
        self.asked = 0
        games.create_users(self.server, ["ada"])

    async def transact(self, kind: str, body: object) -> dict[str, Any]:
        """Answer a bet, a win or a rollback."""
        return self._answer(self.server.transact(kind, body))

    async def balance(self, body: object) -> dict[str, Any]:
        """Answer a question."""
        return self._answer(self.server.balance(body))

    async def create(self, names: Iterable[object]) -> list[str]:
        """Make users."""
        wanted = [name for name in names if isinstance(name, str) and name]
        made = [name for name in dict.fromkeys(wanted) if name not in {*self.names, "ada"}]
        games.create_users(self.server, made)
        self.names |= set(made)
        return made

    async def set_status(self, name: str, status: str) -> None:
        """Let a user bet, or not."""
        self.server.set_status(name, status)

    def _answer(self, answer: dict[str, Any]) -> dict[str, Any]:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        return answer


class House:
    """A server that games call."""

    def __init__(self, adapter: str, *, key: bool = True, **more: Any) -> None:
        public_key = private_key(GAMES).public_key() if key else None
        self.backend = MemoryBackend(Settings(games_public_key=public_key))
        self.games = self.backend.games = MemoryGames()
        self.server = Server(self.backend, plain=adapter == "plain", **more)

    def post(self, path: str, raw: bytes, signature: str | None = "right", **headers: str) -> Reply:
        """Call with a body as it is."""
        given = {SIGNATURE: sign(raw) if signature == "right" else signature, "Content-Length": str(len(raw))}
        return self.server.ask("POST", path, None, {**given, **headers}, token=None, raw=raw)

    def call(self, path: str, body: object, **headers: str) -> dict[str, Any]:
        """Make a signed call, which must be answered with 200, and return its answer."""
        return told(self.post(path, json.dumps(body).encode(), **headers))


def told(reply: Reply) -> dict[str, Any]:
    """What a call was answered with."""
    assert reply.status == 200
    assert reply.header("Content-Type") == "application/json"
    assert reply.header("X-Content-Type-Options") == "nosniff"
    assert reply.header("X-RateLimit-Limit") is None
    assert len(reply.header("X-Correlation-ID") or "") > 0
    answer: dict[str, Any] = reply.json
    assert answer.keys() <= MADE.keys()
    return answer


@pytest.fixture
def house(adapter: str) -> House:
    return House(adapter)


def test_a_game_from_bet_to_rollback(house: House) -> None:
    assert house.call("/transaction/bet", BET) == MADE
    win = {**BET, "transaction_uuid": str(uuid4()), "reference_transaction_uuid": BET["transaction_uuid"]}
    assert house.call("/transaction/win", {**win, "amount": 1_000})["balance"] == 100_600
    undo = {**win, "transaction_uuid": str(uuid4()), "reference_transaction_uuid": win["transaction_uuid"]}
    assert house.call("/transaction/rollback", undo)["balance"] == 99_600
    question = {"user": "ada", "request_uuid": REQUEST}
    for path in ("/user/balance", "/user/info"):
        assert house.call(path, question) == MADE
    again = {**BET, "request_uuid": str(uuid4()), "token": "another"}
    assert house.call("/transaction/bet", again) == {**MADE, "request_uuid": again["request_uuid"]}
    assert house.call("/transaction/bet", {**BET, "amount": 401}) == {
        "user": "ada",
        "status": "RS_ERROR_DUPLICATE_TRANSACTION",
        "request_uuid": REQUEST,
    }


@pytest.mark.parametrize("path", CALLS)
def test_what_is_not_signed_is_told_so_and_not_done(house: House, path: str) -> None:
    body = json.dumps(BET).encode()
    right = sign(body)
    for signature in (
        None,
        "",
        "nonsense",
        "é",
        right[:-4],
        right + "AAAA",
        right[:-1] + " ",
        sign(body + b" "),
        sign(body, "stranger"),
        f"{right}, {right}",
        "A" * 10_000,
    ):
        answer = told(house.post(path, body, signature))
        assert answer == {"user": "ada", "status": "RS_ERROR_INVALID_SIGNATURE", "request_uuid": REQUEST}
    assert house.games.asked == 0
    spaced = json.dumps(BET, indent=1).encode()  # the same content, but not the same bytes
    assert told(house.post(path, spaced, right))["status"] == "RS_ERROR_INVALID_SIGNATURE"


def test_two_signatures_are_none(house: House) -> None:
    body = json.dumps(BET).encode()
    connection = house.server.connect()
    line = f"{SIGNATURE}: {sign(body)}\r\n"
    connection.send(
        f"POST /transaction/bet HTTP/1.1\r\nHost: x\r\n{line}{line}Content-Length: {len(body)}\r\n\r\n".encode() + body
    )
    (reply,) = connection.replies()
    assert told(reply)["status"] == "RS_ERROR_INVALID_SIGNATURE"


def test_the_name_of_the_header_is_read_in_any_case(house: House) -> None:
    body = json.dumps(BET).encode()
    for name in (SIGNATURE.lower(), SIGNATURE.upper()):
        assert told(house.post("/transaction/bet", body, None, **{name: sign(body)})) == MADE


@pytest.mark.parametrize("path", CALLS)
def test_without_a_key_nobody_is_a_partner(adapter: str, path: str) -> None:
    house = House(adapter, key=False)
    expected = {"user": "ada", "status": "RS_ERROR_INVALID_PARTNER", "request_uuid": REQUEST}
    body = json.dumps(BET).encode()
    assert told(house.post(path, body)) == expected
    assert told(house.post(path, body, None)) == expected
    assert told(house.post(path, b"nonsense")) == {"status": "RS_ERROR_INVALID_PARTNER"}
    assert told(house.post(path, b"x" * (MIB + 1), "x")) == {"status": "RS_ERROR_INVALID_PARTNER"}
    assert house.games.asked == 0


NO_OBJECTS = {
    "nothing": b"",
    "space": b" \r\n",
    "text": b"hello",
    "half an object": b'{"user": "ada", "request_uuid": "' + REQUEST.encode(),
    "array": b"[]",
    "number": b"1",
    "huge number": b"9" * MIB,
    "string": b'"x"',
    "null": b"null",
    "not UTF-8": b'{"user": "\xff\xfe"}',
    "not UTF-8 at all": b"\xff\xfe\x00",
    "NUL": b"\0" * 100,
    "nested": b"[" * 10**6,
    "nested and closed": b"[" * 500_000 + b"]" * 500_000,
    "objects nested": b'{"a":' * 170_000,
    "form": b"user=ada&amount=1",
    "NaN": b"NaN",
}


@pytest.mark.parametrize("body", NO_OBJECTS.values(), ids=NO_OBJECTS)
def test_what_is_no_object_is_wrong_syntax(house: House, body: bytes) -> None:
    for path in CALLS:
        assert told(house.post(path, body)) == {"status": "RS_ERROR_WRONG_SYNTAX"}
        assert told(house.post(path, body, "x")) == {"status": "RS_ERROR_INVALID_SIGNATURE"}


ODD = {
    "nested in meta": (b'"meta":' + b"[" * 400_000 + b"]" * 400_000, "RS_ERROR_WRONG_SYNTAX"),
    "huge integer": (b'"amount":' + b"9" * 5_000, "RS_ERROR_WRONG_TYPES"),
    "beyond 64 bits": (b'"amount":18446744073709551616', "RS_ERROR_WRONG_TYPES"),
    "beyond any range": (b'"amount":1e999', "RS_ERROR_WRONG_TYPES"),
    "the like in meta": (b'"meta":[1e999,' + b"9" * 5_000 + b"]", "RS_OK"),
    "fraction": (b'"amount":1.0', "RS_ERROR_WRONG_TYPES"),
    "NUL in a name": (b'"user":"\\u0000"', "RS_ERROR_UNKNOWN"),
    "lone surrogate in a name": (b'"user":"\\ud800"', "RS_ERROR_WRONG_SYNTAX"),
    "lone surrogate in meta": (b'"meta":"\\udfff"', "RS_ERROR_WRONG_SYNTAX"),
    "NUL in meta": (b'"meta":"\\u0000","\\u0000":1', "RS_OK"),
    "a field twice": (b'"amount":true,"amount":400', "RS_OK"),
    "a field twice, the last one wrong": (b'"amount":400,"amount":true', "RS_ERROR_WRONG_TYPES"),
    "a large field": (b'"meta":"' + b"x" * 900_000 + b'"', "RS_OK"),
    "a long name": (b'"user":"' + b"x" * 900_000 + b'"', "RS_ERROR_UNKNOWN"),
}


@pytest.mark.parametrize(("field", "status"), ODD.values(), ids=ODD)
def test_what_is_odd_is_answered_like_all_else(house: House, field: bytes, status: str) -> None:
    body = json.dumps({**BET, "amount": 400}).encode()[:-1] + b", " + field + b"}"
    answer = told(house.post("/transaction/bet", body))
    assert answer["status"] == status
    if b'"user"' not in field and b"[[" not in field:
        assert (answer["user"], answer["request_uuid"]) == ("ada", REQUEST)
    assert told(house.post("/transaction/bet", body, "x"))["status"] == "RS_ERROR_INVALID_SIGNATURE"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "é"]
)
def test_a_content_type_does_not_matter(house: House, content_type: str) -> None:
    assert house.call("/transaction/bet", BET, **{"Content-Type": content_type}) == MADE


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_has_a_limit(house: House, chunked: bool) -> None:
    start = json.dumps(BET).encode()[:-1] + b', "meta": "'
    for size, expected in ((MIB, "RS_OK"), (MIB + 1, "RS_ERROR_WRONG_SYNTAX")):
        body = start + b"x" * (size - len(start) - 2) + b'"}'
        assert len(body) == size
        connection = house.server.connect()
        headers: dict[str, str | None] = {SIGNATURE: sign(body)}
        if chunked:
            headers["Transfer-Encoding"] = "chunked"
            connection.send(house.server.request("POST", "/transaction/bet", None, headers, token=None))
            for place in range(0, size, 100_000):
                piece = body[place : place + 100_000]
                connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            connection.send(b"0\r\n\r\n")
        else:
            connection.send(house.server.request("POST", "/transaction/bet?x=1", None, headers, token=None, raw=body))
        (reply,) = connection.replies()
        assert told(reply)["status"] == expected
    assert house.games.asked == 1


def test_a_body_may_come_in_pieces(house: House) -> None:
    body = json.dumps(BET).encode()
    request = house.server.request("POST", "/transaction/bet", None, {SIGNATURE: sign(body)}, token=None, raw=body)
    connection = house.server.connect()
    for place in range(0, len(request), 100):
        connection.send(request[place : place + 100])
    (reply,) = connection.replies()
    assert told(reply) == MADE


@pytest.mark.parametrize("path", CALLS)
def test_an_outage_is_unknown_and_logged(house: House, path: str, logged_errors: LoggedErrors) -> None:
    for trouble in (unavailable(), unavailable("unknown"), Refused("database_error"), RuntimeError("broken")):
        house.games.trouble = trouble
        with capturedLogs() as events:
            answer = house.call(path, {**BET, "reference_transaction_uuid": str(uuid4())})
        assert answer == {"user": "ada", "status": "RS_ERROR_UNKNOWN", "request_uuid": REQUEST}
        (event,) = events
        assert (event["endpoint"], event["log_level"] >= LogLevel.error) == (f"POST {path}", True)
    assert len(logged_errors(RuntimeError)) == 1
    assert house.server.exchange.live == 0


def test_what_was_refused_in_the_dialect_is_no_error_in_the_log(house: House) -> None:
    assert house.call("/transaction/bet", {**BET, "user": "nobody"})["status"] == "RS_ERROR_UNKNOWN"
    assert house.call("/transaction/bet", {**BET, "amount": 10**9}) == {
        **MADE,
        "status": "RS_ERROR_NOT_ENOUGH_MONEY",
        "balance": 100_000,
    }
    assert house.call("/transaction/bet", {"user": "ada"}) == {"user": "ada", "status": "RS_ERROR_WRONG_SYNTAX"}
    assert house.server.audited == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_not_allowed(house: House, method: str) -> None:
    for path in CALLS:
        reply = house.server.ask(method, path, token=None)
        assert reply.refusal == (405, "method_not_allowed")
        assert reply.header("Allow") == "OPTIONS, POST"


def test_calls_are_not_counted(adapter: str) -> None:
    house = House(adapter, limit=(2, 60))
    for _ in range(5):
        for path in CALLS:
            house.call(path, {"user": "ada"})
            told(house.post(path, b"x" * (MIB + 1), "x"))
    assert house.server.ask("GET", "/nothing").refusal == (404, "resource_not_found")


def test_the_correlation_id_is_repeated(house: House) -> None:
    reply = house.post("/transaction/bet", b"x", **{"X-Correlation-ID": "mine"})
    assert reply.header("X-Correlation-ID") == "mine"


def test_a_token_is_not_looked_at(house: House) -> None:
    assert house.call("/transaction/bet", BET, Authorization="Bearer nonsense") == MADE


class TestUsers:
    """Users, which admins make."""

    def ask(self, house: House, method: str, path: str, body: object, token: str | None = None) -> Reply:
        """Ask as an admin."""
        return house.server.ask(method, path, body, token=token or house.backend.admin_token)

    def test_they_are_made_once(self, house: House) -> None:
        house.server.audited.clear()
        names = ["ada", "eve", "", None, 5, ["x"], {"y": 1}, "eve", "bob"]
        reply = self.ask(house, "POST", "/api/games/users", {"users": names})
        assert (reply.status, reply.data) == (201, {"created": ["eve", "bob"]})
        (event,) = house.server.audited
        assert (event.event, event.endpoint, event.details) == ("admin_action", "POST /api/games/users", {"created": 2})
        reply = self.ask(house, "POST", "/api/games/users", {"users": names})
        assert (reply.status, reply.data) == (200, {"created": []})
        assert self.ask(house, "POST", "/api/games/users", {"users": []}).status == 200
        for users, reason in (
            ("eve", "invalid_request"),
            ({"0": "eve"}, "invalid_request"),
            (5, "invalid_request"),
            (None, "missing_fields"),
        ):
            assert self.ask(house, "POST", "/api/games/users", {"users": users}).refusal == (400, reason)

    @pytest.mark.parametrize("name", ["eve", "a/b", "/", "a//b/", "Zoë ü", "%2F", "a?b#c", "..", "a\nb", "\n", " "])
    def test_they_are_disabled_and_enabled(self, house: House, name: str) -> None:
        self.ask(house, "POST", "/api/games/users", {"users": [name]})
        path = f"/api/games/users/{quote(name, safe='')}"
        house.server.audited.clear()
        reply = self.ask(house, "PATCH", path, {"status": "DISABLED"})
        assert (reply.status, reply.data) == (200, {"user": name, "status": "DISABLED"})
        (event,) = house.server.audited
        assert event.details == {"name": name, "status": "DISABLED"}
        assert house.call("/transaction/bet", {**BET, "user": name})["status"] == "RS_ERROR_USER_DISABLED"
        assert self.ask(house, "PATCH", path, {"status": "ACTIVE"}).data == {"user": name, "status": "ACTIVE"}
        assert house.call("/transaction/bet", {**BET, "user": name})["status"] == "RS_OK"

    def test_what_cannot_be_set(self, house: House) -> None:
        path = "/api/games/users/ada"
        assert self.ask(house, "PATCH", path, {"status": "GONE"}).refusal == (400, "invalid_status")
        assert self.ask(house, "PATCH", path, {"status": ""}).refusal == (400, "missing_fields")
        assert self.ask(house, "PATCH", path, {"status": 1}).refusal == (400, "invalid_request")
        for unknown in ("nobody", "%00", "x" * 300):
            reply = self.ask(house, "PATCH", f"/api/games/users/{unknown}", {"status": "ACTIVE"})
            assert reply.refusal == (404, "user_not_found")
        assert self.ask(house, "GET", path, None).refusal == (405, "method_not_allowed")

    def test_they_are_for_admins(self, house: House) -> None:
        for token in (house.backend.log_in("user"), house.backend.log_in("support")):
            for method, path in (("POST", "/api/games/users"), ("PATCH", "/api/games/users/x")):
                reply = self.ask(house, method, path, {}, token)
                assert reply.refusal == (403, "insufficient_permissions")
        for token in (house.server.token, "unknown"):
            refused = self.ask(house, "POST", "/api/games/users", {"users": ["eve"]}, token)
            assert refused.status in (401, 403)
        assert house.games.names == set()

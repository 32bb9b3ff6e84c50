"""The endpoints of holds: who may do what with which account, what is asked and what is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ledger.domain.accounts import world_id
from ledger.domain.errors import CATALOGUE, Refused, unavailable
from ledger.domain.game_users import ASSET as GAMES_ASSET
from ledger.domain.held import Hold, HoldStatus
from ledger.domain.holds import HOLDS, LONGEST, OPEN_HOLDS, CaptureHold
from ledger.domain.policy import Role
from ledger.resources.holds import HoldEndpoints
from ledger.store.holds import HoldPage, KeptHold
from tests.resources.backend import INSTANT, MemoryBackend, Settings
from tests.resources.harness import Reply, Server

UNKNOWN = "01900000-0000-7000-8000-ffffffffffff"
EXPIRY = "2026-01-02T03:05:05.678901Z"  # a minute after the instant of the book
BEFORE, AFTER = "2026-01-02T03:05:05.678900Z", "2026-01-02T03:05:05.678902Z"


class MemoryHolds:
    """The holds that a book in memory knows."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend
        self.asked: list[tuple[str, HoldStatus | None, str | None, int]] = []
        self.following: str | None = None
        backend.book.facts = {HOLDS: {}, OPEN_HOLDS: {}}

    async def find(self, hold_id: str) -> KeptHold:
        """Return a hold as it is at the book's instant."""
        hold: Hold | None = self._backend.book.facts[HOLDS].get(hold_id)
        if hold is None:
            raise Refused("hold_not_found")
        ends = [c.id for c in self._backend.submitted if isinstance(c, CaptureHold) and c.hold_id == hold_id]
        transfer_id = ends[-1] if hold.status == "captured" else None
        status = hold.status_at(self._backend.book.instant)
        return KeptHold(msgspec.structs.replace(hold, status=status), transfer_id)

    async def of_account(self, account_id: str, status: HoldStatus | None, below: str | None, limit: int) -> HoldPage:
        """Return all of an account's, and what the test has put there."""
        self.asked.append((account_id, status, below, limit))
        holds = [await self.find(hold_id) for hold_id in self._backend.book.facts[HOLDS]]
        return HoldPage([kept for kept in holds if kept.hold.account_id == account_id], self.following)


class House:
    """A server with a user's two accounts, 100.00 in the first, and somebody else's."""

    def __init__(self, adapter: str = "plain", **settings: Any) -> None:
        kind, _, slowly = adapter.partition(", ")
        self.backend = MemoryBackend(Settings(**settings), slowly=bool(slowly))
        self.holds = self.backend.holds = MemoryHolds(self.backend)
        self.server = Server(self.backend, plain=kind == "plain")
        self.first = self.server.account
        self.second, self.second_token = self.backend.open_account(self.server.user_id)
        self.strange, self.strange_token = self.backend.open_account(self.backend.new_id())
        self.jwt = self.backend.log_in("user", self.server.user_id)
        self.state.balance = 10_000

    @property
    def state(self) -> Any:
        """The first account in the book."""
        return self.backend.book.accounts[self.first.account_id]

    def ask(self, method: str, path: str, body: object = None, key: str | None = None, **more: Any) -> Reply:
        """Ask as the user, unless another token is given."""
        return self.server.ask(method, path, body, {"Idempotency-Key": key}, **{"token": self.jwt, **more})

    def hold(self, amount: object = "30", key: str | None = None, **more: Any) -> Reply:
        """Set something aside in the first account."""
        token = more.pop("token", self.jwt)
        body = {"account_id": self.first.account_id, "amount": amount, **more}
        return self.ask("POST", "/api/holds", body, key, token=token)

    def open(self, **more: Any) -> str:
        """Set 30.00 aside, and return the hold's id."""
        hold_id: str = self.hold(**more).data["id"]
        return hold_id

    def capture(self, hold_id: str, key: str | None = None, token: str | None = None, **body: Any) -> Reply:
        """Capture."""
        return self.ask("POST", f"/api/holds/{hold_id}/capture", body, key, token=token or self.jwt)

    def void(self, hold_id: str, key: str | None = None, token: str | None = None) -> Reply:
        """Let go."""
        return self.ask("POST", f"/api/holds/{hold_id}/void", None, key, token=token or self.jwt)


@pytest.fixture(params=["plain", "plain, later"])
def house(request: pytest.FixtureRequest) -> House:
    return House(str(request.param))


def test_a_hold_from_open_to_captured(house: House) -> None:
    reply = house.hold("30", expires_in_seconds=60, description="room 7")
    assert reply.status == 201
    hold_id = reply.data["id"]
    opened = {
        "id": hold_id,
        "account_id": house.first.account_id,
        "amount": "30.00",
        "captured": "0.00",
        "status": "open",
        "expires_at": EXPIRY,
        "created_at": INSTANT,
        "description": "room 7",
        "transfer_id": None,
    }
    assert reply.data == opened
    assert (house.state.balance, house.state.available) == (10_000, 7_000)
    assert house.ask("GET", f"/api/holds/{hold_id}").data == opened
    captured = house.capture(hold_id, amount="12.5", to=house.strange.account_id)
    assert captured.status == 201
    transfer_id = house.backend.submitted[-1].id
    expected = {**opened, "captured": "12.50", "status": "captured", "transfer_id": transfer_id}
    assert captured.data == expected
    assert house.ask("GET", f"/api/holds/{hold_id.upper()}").data == expected
    assert (house.state.balance, house.state.available) == (8_750, 8_750)
    assert house.backend.book.accounts[house.strange.account_id].balance == 1_250


def test_a_hold_that_is_let_go(house: House) -> None:
    hold_id = house.open()
    reply = house.void(hold_id)
    assert reply.status == 200
    assert (reply.data["status"], reply.data["captured"], reply.data["transfer_id"]) == ("voided", "0.00", None)
    assert reply.data["expires_at"] is None
    assert house.state.available == 10_000


@pytest.mark.parametrize("body", [{}, {"amount": None, "to": None}, {"amount": "30.00"}, {"amount": 30}])
def test_a_capture_takes_all_and_leaves_the_ledger_unless_it_is_said(house: House, body: dict[str, Any]) -> None:
    hold_id = house.open()
    reply = house.capture(hold_id, **body)
    assert reply.data["captured"] == "30.00"
    assert house.backend.book.accounts[world_id("USD/2")].balance == 3_000


def test_what_has_ended_has_ended(house: House) -> None:
    captured, voided, expired = house.open(), house.open(), house.open(expires_in_seconds=60)
    house.capture(captured)
    house.void(voided)
    house.backend.book.instant = BEFORE
    assert house.ask("GET", f"/api/holds/{expired}").data["status"] == "open"
    house.backend.book.instant = EXPIRY
    for hold_id, status in ((captured, "captured"), (voided, "voided"), (expired, "expired")):
        assert house.ask("GET", f"/api/holds/{hold_id}").data["status"] == status
        for reply in (house.capture(hold_id), house.void(hold_id)):
            assert reply.refusal == (409, "already_processed")
            assert reply.error["details"] == {"hold_id": hold_id, "status": status}
            assert reply.error["message"] == f"The hold is {status}"


@pytest.mark.parametrize(
    ("given", "refusal", "field"),
    [
        ({"account_id": None}, (400, "missing_fields"), "account_id"),
        ({"account_id": "x"}, (400, "invalid_uuid_format"), "account_id"),
        ({"amount": None}, (400, "missing_fields"), "amount"),
        ({"amount": " "}, (400, "missing_fields"), "amount"),
        ({"amount": "1.001"}, (400, "invalid_amount_format"), "amount"),
        ({"amount": "1e2"}, (400, "invalid_amount_format"), "amount"),
        ({"amount": 0}, (422, "negative_amount"), "amount"),
        ({"amount": "-1"}, (422, "negative_amount"), "amount"),
        ({"amount": "50.01"}, (422, "amount_exceeds_limit"), "amount"),
        ({"amount": "9" * 60}, (422, "amount_exceeds_limit"), "amount"),
        ({"expires_in_seconds": 0}, (400, "invalid_request"), "expires_in_seconds"),
        ({"expires_in_seconds": -1}, (400, "invalid_request"), "expires_in_seconds"),
        ({"expires_in_seconds": LONGEST + 1}, (400, "invalid_request"), "expires_in_seconds"),
        ({"expires_in_seconds": 10**30}, (400, "invalid_request"), "expires_in_seconds"),
        ({"expires_in_seconds": 1.5}, (400, "invalid_request"), "expires_in_seconds"),
        ({"expires_in_seconds": "60"}, (400, "invalid_request"), "expires_in_seconds"),
        ({"expires_in_seconds": True}, (400, "invalid_request"), "expires_in_seconds"),
        ({"description": "x" * 256}, (400, "invalid_request"), "description"),
        ({"description": "a\0b"}, (400, "invalid_request"), "description"),
    ],
)
def test_what_cannot_be_held(given: dict[str, Any], refusal: tuple[int, str], field: str) -> None:
    house = House(max_amount=5_000)
    reply = house.hold(**{"amount": 1, **given})
    assert reply.refusal == refusal
    assert reply.error["details"]["field"] == field
    assert house.state.held == 0


@pytest.mark.parametrize("seconds", [1, LONGEST])
def test_how_long_a_hold_may_be(seconds: int) -> None:
    reply = House().hold(1, expires_in_seconds=seconds)
    assert reply.data["expires_at"][:10] == ("2026-01-02" if seconds == 1 else "2035-12-31")


def test_a_hold_is_covered_and_of_an_active_account(house: House) -> None:
    reply = house.hold("100.01")
    assert reply.refusal == (422, "insufficient_funds")
    assert reply.error["details"] == {
        "account_id": house.first.account_id,
        "available": "100.00",
        "requested": "100.01",
    }
    hold_id = house.open()
    house.state.status = "FROZEN"
    assert house.hold(1).refusal == (422, "account_frozen")
    assert house.capture(hold_id).refusal == (422, "account_frozen")
    assert house.void(hold_id).status == 200


@pytest.mark.parametrize(
    ("given", "refusal", "field"),
    [
        ({"amount": "30.01"}, (422, "amount_exceeds_limit"), "amount"),
        ({"amount": "9" * 60}, (422, "amount_exceeds_limit"), "amount"),
        ({"amount": 0}, (422, "negative_amount"), "amount"),
        ({"amount": "1.001"}, (400, "invalid_amount_format"), "amount"),
        ({"amount": [1]}, (400, "invalid_amount_format"), "amount"),
        ({"to": "x"}, (400, "invalid_uuid_format"), "to"),
        ({"to": 7}, (400, "invalid_request"), "to"),
        ({"to": UNKNOWN}, (404, "account_not_found"), "to"),
        ({"to": "itself"}, (400, "invalid_request"), "to"),
        ({"to": "world"}, (404, "account_not_found"), "to"),
        ({"to": "a game user"}, (403, "forbidden"), "to"),
    ],
)
def test_what_cannot_be_captured(house: House, given: dict[str, Any], refusal: tuple[int, str], field: str) -> None:
    named = {
        "itself": house.first.account_id,
        "world": world_id("USD/2"),
        "a game user": house.backend.open_account(None, GAMES_ASSET)[0].account_id,
    }
    hold_id = house.open()
    body = {name: named.get(value, value) if isinstance(value, str) else value for name, value in given.items()}
    reply = house.capture(hold_id, **body)
    assert reply.refusal == refusal
    assert reply.error["details"]["field"] == field
    assert house.holds._backend.book.facts[HOLDS][hold_id].status == "open"
    assert house.state.held == 3_000


def test_a_capture_pays_only_accounts_of_its_asset(house: House) -> None:
    euros, _ = house.backend.open_account(None, "EUR/2")
    assert house.capture(house.open(), to=euros.account_id).refusal == (422, "currency_mismatch")


def test_admins_may_name_the_world(house: House) -> None:
    reply = house.capture(house.open(), token=house.backend.admin_token, to=world_id("USD/2"))
    assert reply.data["captured"] == "30.00"


def test_nothing_is_held_in_accounts_of_the_system_or_of_games(house: House) -> None:
    game, _ = house.backend.open_account(None, GAMES_ASSET)
    world = world_id("USD/2")
    admin = house.backend.admin_token
    for account_id in (game.account_id, world):
        assert house.hold(1, account_id=account_id, token=admin).refusal == (403, "forbidden")
    assert house.hold(1, account_id=world).refusal == (404, "account_not_found")
    assert house.hold(1, account_id=game.account_id).refusal == (403, "unauthorized_access")


# What each role is answered for an account of its own, of somebody else, and for one that does not exist.
_OWN, _ANY = ("ok", (403, "unauthorized_access"), 404), ("ok", "ok", 404)
_READS: dict[Role, tuple[Any, Any, Any]] = {"account": _OWN, "user": _OWN, "support": _ANY, "admin": _ANY}
_WRITES: dict[Role, tuple[Any, Any, Any]] = {**_READS, "support": _OWN}


@pytest.mark.parametrize("role", ["account", "user", "support", "admin"])
def test_who_may_do_what(house: House, role: Role) -> None:
    token = house.server.token if role == "account" else house.backend.log_in(role, house.server.user_id)
    stranger = house.backend.log_in("user", house.strange.user_id)
    house.backend.book.accounts[house.strange.account_id].balance = 10_000
    theirs: dict[str, Any] = {"account_id": house.strange.account_id, "token": stranger}

    def check(reply: Reply, expected: Any, unknown: str) -> None:
        if expected == "ok":
            assert reply.status in (200, 201), reply.body
        else:
            assert reply.refusal == ((404, unknown) if expected == 404 else expected)

    def read(hold_id: str, token: str) -> Reply:
        return house.ask("GET", f"/api/holds/{hold_id}", token=token)

    accounts = (house.first.account_id, house.strange.account_id, UNKNOWN)
    for account_id, expected in zip(accounts, _WRITES[role], strict=True):
        check(house.hold(1, account_id=account_id, token=token), expected, "account_not_found")
    for account_id, expected in zip(accounts, _READS[role], strict=True):
        check(house.ask("GET", f"/api/holds?account_id={account_id}", token=token), expected, "account_not_found")
    acts: tuple[tuple[Callable[..., Reply], Any], ...] = (
        (house.capture, _WRITES),
        (house.void, _WRITES),
        (read, _READS),
    )
    for act, row in acts:
        for hold_id, expected in zip((house.open(), house.open(**theirs), UNKNOWN), row[role], strict=True):
            check(act(hold_id, token=token), expected, "hold_not_found")


def test_an_account_s_token_acts_for_its_one_account(house: House) -> None:
    hold_id = house.open()
    for reply in (
        house.hold(1, token=house.second_token),
        house.capture(hold_id, token=house.second_token),
        house.void(hold_id, token=house.second_token),
        house.ask("GET", f"/api/holds/{hold_id}", token=house.second_token),
        house.ask("GET", f"/api/holds?account_id={house.first.account_id}", token=house.second_token),
    ):
        assert reply.refusal == (403, "insufficient_permissions")


def test_who_is_not_known_and_what_is_no_id(house: House) -> None:
    for method, path in (
        ("POST", "/api/holds"), ("GET", "/api/holds"), ("GET", f"/api/holds/{UNKNOWN}"),
        ("POST", f"/api/holds/{UNKNOWN}/capture"), ("POST", f"/api/holds/{UNKNOWN}/void"),
    ):  # fmt: skip
        assert house.ask(method, path, {}, token=None).refusal == (401, "invalid_token")
    for reply in (house.capture("x"), house.void("x"), house.ask("GET", "/api/holds/x")):
        assert reply.refusal == (400, "invalid_uuid_format")
        assert reply.error["details"]["field"] == "id"


def test_a_replay_is_the_first_answer_again(house: House) -> None:
    first = house.hold("30", "k1", expires_in_seconds=60, description="d")
    hold_id = first.data["id"]
    replies: list[tuple[Reply, Callable[[], Reply]]] = [
        (first, lambda: house.hold(30.0, "k1", description="d", expires_in_seconds=60))
    ]
    captured = house.capture(hold_id, "k2")
    replies.append((captured, lambda: house.capture(hold_id.upper(), "k2", amount="30.00", to=None)))
    other = house.open()
    voided = house.void(other, "k3")
    replies.append((voided, lambda: house.void(other, "k3")))
    house.state.status = "FROZEN"
    house.backend.book.instant = AFTER
    for reply, again in replies:
        replayed = again()
        assert (replayed.status, replayed.header("Idempotent-Replayed")) == (reply.status, "true")
        assert reply.header("Idempotent-Replayed") is None
        raw = [one.body.partition(b'"data":')[2].partition(b',"success"')[0] for one in (reply, replayed)]
        assert raw[0] == raw[1]
    for reply, named in (
        (house.hold(31, "k1", expires_in_seconds=60, description="d"), {"hold_id": hold_id}),
        (house.hold(30, "k1", expires_in_seconds=61, description="d"), {"hold_id": hold_id}),
        (house.void(other, "k1"), {"hold_id": hold_id}),
        (house.capture(hold_id, "k2", amount=1), {"transfer_id": captured.data["transfer_id"]}),
        (house.capture(other, "k2"), {"transfer_id": captured.data["transfer_id"]}),
    ):
        assert reply.refusal == (409, "duplicate_transaction")
        assert reply.error["details"] == named
    bad = [house.hold(1, " "), house.capture(hold_id, " "), house.void(hold_id, " ")]
    assert {reply.refusal for reply in bad} == {(400, "invalid_idempotency_key")}


def test_a_list_and_how_it_goes_on(house: House) -> None:
    ids = {house.open(), house.open()}
    reply = house.ask("GET", "/api/holds")
    assert {one["id"] for one in reply.data} == ids
    assert reply.json["metadata"]["pagination"] == {
        "type": "keyset", "limit": 20, "has_more": False, "next_cursor": None,
    }  # fmt: skip
    house.holds.following = UNKNOWN
    path = f"/api/holds?account_id={house.second.account_id}&status=expired&limit=700&cursor={UNKNOWN.upper()}"
    reply = house.ask("GET", path)
    assert reply.data == []
    assert reply.json["metadata"]["pagination"] == {
        "type": "keyset", "limit": 100, "has_more": True, "next_cursor": UNKNOWN,
    }  # fmt: skip
    assert house.ask("GET", "/api/holds", token=house.second_token).status == 200
    first, second = house.first.account_id, house.second.account_id
    assert house.holds.asked == [(first, None, None, 20), (second, "expired", UNKNOWN, 100), (second, None, None, 20)]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("account_id=x", "invalid_uuid_format"),
        ("status=gone", "invalid_status"),
        ("status=OPEN", "invalid_status"),
        ("limit=0", "invalid_pagination"),
        ("cursor=x", "invalid_cursor"),
        ("cursor=", "invalid_cursor"),
    ],
)
def test_a_list_that_cannot_be_told(house: House, query: str, reason: str) -> None:
    assert house.ask("GET", f"/api/holds?{query}").refusal == (400, reason)


def test_while_the_database_is_away() -> None:
    house = House()
    hold_id = house.open()
    house.backend.trouble = unavailable()
    for reply in (house.hold(1), house.capture(hold_id), house.void(hold_id)):
        assert reply.refusal == (503, "service_unavailable")


def test_every_reason_is_declared() -> None:
    for endpoint in HoldEndpoints(MemoryBackend()).endpoints():
        assert set(endpoint.refuses) <= set(CATALOGUE)
        assert len(endpoint.refuses) == len(set(endpoint.refuses)), endpoint.name
        assert endpoint.idempotent is (endpoint.method == "POST")

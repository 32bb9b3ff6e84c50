"""The accounts' endpoints: who may do what, what is asked and what is answered, on both adapters."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.domain.account_commands import AccountView, AmendAccount, OpenAccount, account_view
from ledger.domain.accounts import ACCOUNT_STATUSES, ACCOUNT_TYPES, Owner, world_id
from ledger.domain.deletion import USERS, Member
from ledger.domain.errors import unavailable
from ledger.store.account_lists import Page, Wanted
from tests.resources.backend import INSTANT, MemoryBackend, Settings
from tests.resources.harness import Reply, Server

UNKNOWN = "01900000-0000-7000-8000-ffffffffffff"
ALL = "/api/accounts"


class MemoryAccounts:
    """The accounts of a backend in memory, and a list that is always the same."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend
        self.names: dict[str, str] = {}
        self.asked: list[tuple[Wanted, str | None, int]] = []
        self.listed = Page([], None)

    async def read(self, account_id: str) -> AccountView:
        """Read an account."""
        return account_view(self._backend.book.accounts[account_id], self.names.get(account_id), INSTANT)

    async def page(self, wanted: Wanted, after: str | None, limit: int) -> Page:
        """Return what the test has put there."""
        self.asked.append((wanted, after, limit))
        return self.listed


class House:
    """A server with a user's accounts, one of somebody else and one of nobody."""

    def __init__(self, adapter: str = "plain", **settings: Any) -> None:
        kind, _, slowly = adapter.partition(", ")
        self.backend = MemoryBackend(Settings(**settings), slowly=bool(slowly))
        self.accounts = self.backend.accounts = MemoryAccounts(self.backend)
        self.server = Server(self.backend, plain=kind == "plain")
        self.user_id, self.other_id = self.server.user_id, self.backend.new_id()
        admin_id = self.backend.tokens[self.backend.admin_token].user_id or ""
        users = {name: Member(name, "ACTIVE") for name in (self.user_id, self.other_id, admin_id)}
        self.backend.book.facts = {USERS: users}
        self.users = users
        self.mine, self.token = self.server.account, self.server.token
        self.second, _ = self.backend.open_account(self.user_id, account_type="CREDIT")
        self.strange, _ = self.backend.open_account(self.other_id)
        self.nobodys, self.bearer = self.backend.open_account(None)
        self.jwt = self.backend.log_in("user", self.user_id)
        self.support = self.backend.log_in("support")
        self.admin = self.backend.admin_token

    def ask(
        self, method: str, path: str, body: object = None, *, by: str | None = None, key: str | None = None
    ) -> Reply:
        """Ask, as the user unless somebody else is named."""
        return self.server.ask(method, path, body, {"Idempotency-Key": key}, token=by or self.jwt)

    def open(self, by: str | None = None, key: str | None = None, **body: Any) -> Reply:
        """Open an account."""
        return self.ask("POST", ALL, {"account_type": "SAVINGS", **body}, by=by, key=key)

    def amend(self, account: Owner | str, by: str | None = None, **body: Any) -> Reply:
        """Amend an account."""
        account_id = account if isinstance(account, str) else account.account_id
        return self.ask("PATCH", f"{ALL}/{account_id}", body, by=by)


@pytest.fixture(params=["plain", "plain, later", "klein"])
def house(request: pytest.FixtureRequest) -> House:
    return House(str(request.param))


def test_a_user_opens_a_further_account(house: House) -> None:
    reply = house.open(name="  Rainy day ", currency="JPY")
    assert reply.status == 201
    (command,) = house.backend.submitted
    assert isinstance(command, OpenAccount)
    assert command.scope == house.user_id
    assert reply.data == {
        "id": command.id,
        "user_id": house.user_id,
        "name": "Rainy day",
        "account_type": "SAVINGS",
        "currency": "JPY",
        "scale": 0,
        "status": "ACTIVE",
        "balance": "0",
        "available": "0",
        "held": "0",
        "version": 0,
        "credit_limit": "0",
        "created_at": INSTANT,
    }


def test_what_is_not_said_is_as_usual() -> None:
    house = House(currency="EUR")
    data = house.open(name=None, currency=None, user_id=None, credit_limit=None).data
    assert (data["currency"], data["name"], data["credit_limit"]) == ("EUR", None, "0.00")
    assert data["user_id"] == house.user_id


@pytest.mark.parametrize("kind", ACCOUNT_TYPES)
def test_of_every_type(kind: str) -> None:
    assert House().open(account_type=kind).data["account_type"] == kind


def test_an_admin_opens_for_others_and_sets_limits(house: House) -> None:
    house.server.audited.clear()
    data = house.open(by=house.admin, account_type="CREDIT", user_id=house.other_id.upper(), credit_limit=500).data
    assert (data["user_id"], data["credit_limit"], data["available"]) == (house.other_id, "500.00", "500.00")
    (event,) = house.server.audited
    assert (event.details["account_id"], event.details["user_id"]) == (data["id"], house.other_id)
    own = house.open(by=house.admin).data
    assert own["user_id"] == house.backend.tokens[house.admin].user_id
    assert house.open(by=house.admin, credit_limit="0.00").data["credit_limit"] == "0.00"
    assert house.open(by=house.admin, user_id=UNKNOWN).refusal == (404, "user_not_found")
    house.users[house.other_id].status = "SUSPENDED"
    assert house.open(by=house.admin, user_id=house.other_id).refusal == (422, "account_inactive")


def test_what_only_admins_may_say_is_refused_before_it_is_read(house: House) -> None:
    openings: list[dict[str, Any]] = [
        *({"user_id": user_id} for user_id in ("x", house.user_id, UNKNOWN)),
        {"credit_limit": "much"},
    ]
    changes: list[dict[str, Any]] = [
        *({"status": status} for status in ("nonsense", "FROZEN")),
        *({"credit_limit": limit} for limit in ("much", 0)),
    ]
    for by in (house.jwt, house.support):
        for said in openings:
            assert house.open(by=by, **said).refusal == (403, "insufficient_permissions"), said
            if "user_id" in said:
                reply = house.ask("GET", f"{ALL}?user_id={said['user_id']}", by=by)
                assert reply.refusal == (403, "insufficient_permissions")
        for said in changes:
            for account in ("x", UNKNOWN, house.strange, house.mine):
                assert house.amend(account, by, name="Mine", **said).refusal == (403, "insufficient_permissions")
    assert house.ask("GET", f"{ALL}?user_id=x", by=house.admin).refusal == (400, "invalid_uuid_format")
    assert house.open(by=house.admin, user_id="x").refusal == (400, "invalid_uuid_format")
    assert house.backend.submitted == []
    assert house.accounts.asked == []


def test_a_token_of_an_account_opens_none(house: House) -> None:
    for by in (house.token, house.bearer):
        assert house.open(by=by).refusal == (403, "insufficient_permissions")


@pytest.mark.parametrize(
    ("body", "reason", "field"),
    [
        ({"account_type": None}, "missing_fields", "account_type"),
        ({"account_type": " "}, "missing_fields", "account_type"),
        ({"account_type": "savings"}, "invalid_account_type", "account_type"),
        ({"account_type": "WORLD"}, "invalid_account_type", "account_type"),
        ({"account_type": 7}, "invalid_request", "account_type"),
        ({"currency": "usd"}, "invalid_currency_format", "currency"),
        ({"currency": ""}, "invalid_currency_format", "currency"),
        ({"name": " "}, "missing_fields", "name"),
        ({"name": "x" * 256}, "invalid_name_format", "name"),
        ({"name": 7}, "invalid_request", "name"),
        ({"name": "a\0b"}, "invalid_request", "name"),
        ({"user_id": 7}, "invalid_request", "user_id"),
        ({"credit_limit": "1"}, "invalid_account_type", "credit_limit"),
        ({"account_type": "CREDIT", "credit_limit": "1.001"}, "invalid_amount_format", "credit_limit"),
        ({"account_type": "CREDIT", "credit_limit": [1]}, "invalid_amount_format", "credit_limit"),
        ({"account_type": "CREDIT", "credit_limit": "1e3"}, "invalid_amount_format", "credit_limit"),
    ],
)
def test_what_cannot_be_opened(body: dict[str, Any], reason: str, field: str) -> None:
    house = House()
    reply = house.open(by=house.admin, **body)
    assert reply.refusal == (400, reason)
    assert reply.error["details"]["field"] == field
    assert house.backend.submitted == []


@pytest.mark.parametrize(("limit", "reason"), [(-1, "negative_amount"), ("1000.01", "amount_exceeds_limit")])
def test_limits_are_bounded(limit: object, reason: str) -> None:
    house = House(max_amount=100_000)
    for reply in (
        house.open(by=house.admin, account_type="CREDIT", credit_limit=limit),
        house.amend(house.second, house.admin, credit_limit=limit),
    ):
        assert reply.refusal == (422, reason)
        assert reply.error["details"]["field"] == "credit_limit"
    assert house.amend(house.second, house.admin, credit_limit="1000.00").data["credit_limit"] == "1000.00"


def test_an_opening_is_replayed_byte_for_byte(house: House) -> None:
    first = house.open(key="k", name="Rent")
    assert (first.status, first.header("Idempotent-Replayed")) == (201, None)
    again = house.open(key="k", name=" Rent ", currency="USD", credit_limit=None)
    assert (again.status, again.header("Idempotent-Replayed")) == (201, "true")
    assert again.data == first.data
    other = house.open(key="k", name="Food")
    assert other.refusal == (409, "duplicate_transaction")
    assert other.error["details"]["transfer_id"] == first.data["id"]
    assert house.open(key="ü").refusal == (400, "invalid_idempotency_key")
    assert house.open(by=house.admin, key="k", name="Rent").status == 201  # another's keys are another's


def test_who_may_read_an_account(house: House) -> None:
    house.accounts.names[house.mine.account_id] = "Daily"
    for by in (house.jwt, house.token, house.support, house.admin):
        reply = house.ask("GET", f"{ALL}/{house.mine.account_id.upper()}", by=by)
        assert (reply.status, reply.data["id"], reply.data["name"]) == (200, house.mine.account_id, "Daily")
        assert (reply.data["account_type"], reply.data["scale"]) == ("CHECKING", 2)
    for by, account, refusal in (
        (house.jwt, house.strange, (403, "unauthorized_access")),
        (house.jwt, house.nobodys, (403, "unauthorized_access")),
        (house.token, house.second, (403, "insufficient_permissions")),
        (house.bearer, house.mine, (403, "unauthorized_access")),
    ):
        assert house.ask("GET", f"{ALL}/{account.account_id}", by=by).refusal == refusal
    world = f"{ALL}/{world_id('USD/2')}"
    for by in (house.jwt, house.token, house.support):
        assert house.ask("GET", world, by=by).refusal == (404, "account_not_found")
        assert house.ask("GET", f"{ALL}/{UNKNOWN}", by=by).refusal == (404, "account_not_found")
        assert house.ask("GET", f"{ALL}/x", by=by).refusal == (400, "invalid_uuid_format")
    assert house.ask("GET", world, by=house.admin).data["account_type"] == "WORLD"


def test_an_owner_names_an_account(house: House) -> None:
    for by in (house.jwt, house.token, house.admin):
        reply = house.amend(house.mine, by, name=" Daily ")
        assert (reply.status, reply.data["name"], reply.data["status"]) == (200, "Daily", "ACTIVE")
    assert house.amend(house.nobodys, house.bearer, name="Card").data["name"] == "Card"
    for by, account, refusal in (
        (house.jwt, house.strange, (403, "unauthorized_access")),
        (house.support, house.mine, (403, "unauthorized_access")),
        (house.token, house.second, (403, "insufficient_permissions")),
        (house.jwt, UNKNOWN, (404, "account_not_found")),
        (house.support, world_id("USD/2"), (404, "account_not_found")),
        (house.jwt, "x", (400, "invalid_uuid_format")),
    ):
        assert house.amend(account, by, name="Stolen").refusal == refusal


@pytest.mark.parametrize("status", ACCOUNT_STATUSES)
def test_an_admin_sets_the_status(house: House, status: str) -> None:
    house.server.audited.clear()
    reply = house.amend(house.strange, house.admin, status=status)
    assert (reply.status, reply.data["status"]) == (200, status)
    (event,) = house.server.audited
    assert (event.details["id"], event.details["status"]) == (house.strange.account_id, status)


def test_all_at_once_is_one_command(house: House) -> None:
    reply = house.amend(house.second, house.admin, name="Card", status="FROZEN", credit_limit="250")
    data = reply.data
    assert (data["name"], data["status"], data["credit_limit"], data["available"]) == (
        "Card",
        "FROZEN",
        "250.00",
        "250.00",
    )
    (command,) = house.backend.submitted
    assert isinstance(command, AmendAccount)
    assert command.asked == {"name": "Card", "status": "FROZEN", "credit_limit": 25_000}
    debit = {"user_id": house.user_id, "account_id": house.second.account_id, "amount": 250}
    assert house.ask("POST", "/debit", debit).refusal == (422, "account_frozen")
    assert house.amend(house.second, house.admin, status="ACTIVE").status == 200
    assert house.ask("POST", "/debit", debit).data["balance"] == "-250.00"
    assert house.amend(house.second, house.admin, credit_limit="249.99").refusal == (422, "negative_balance")
    closing = house.amend(house.second, house.admin, status="CLOSED")
    assert closing.refusal == (422, "account_not_empty")
    assert closing.error["details"] == {"account_id": house.second.account_id, "balance": "-250.00", "held": "0.00"}


@pytest.mark.parametrize(
    ("body", "reason", "field"),
    [
        ({}, "missing_fields", None),
        ({"name": None, "status": None, "credit_limit": None}, "missing_fields", None),
        ({"name": " "}, "missing_fields", "name"),
        ({"name": "x" * 256}, "invalid_name_format", "name"),
        ({"status": "frozen"}, "invalid_status", "status"),
        ({"status": ""}, "invalid_status", "status"),
        ({"status": 7}, "invalid_request", "status"),
        ({"credit_limit": "x"}, "invalid_amount_format", "credit_limit"),
        ({"credit_limit": "1"}, "invalid_account_type", "credit_limit"),
    ],
)
def test_what_cannot_be_amended(body: dict[str, Any], reason: str, field: str | None) -> None:
    house = House()
    reply = house.amend(house.mine, house.admin, **body)
    assert reply.refusal == (400, reason)
    assert reply.error["details"].get("field") == field
    assert house.backend.book.head.seq == 0


def test_system_accounts_and_those_of_games_are_not_amended(house: House) -> None:
    player, _ = house.backend.open_account(None, asset="USD/5")
    for account in (world_id("USD/2"), player):
        for body in ({"name": "New"}, {"status": "FROZEN"}, {"credit_limit": "0"}):
            assert house.amend(account, house.admin, **body).refusal == (403, "forbidden")


def test_whose_accounts_are_listed(house: House) -> None:
    for by, wanted in (
        (house.jwt, Wanted(user_id=house.user_id)),
        (house.support, Wanted(user_id=house.backend.tokens[house.support].user_id)),
        (house.token, Wanted(account_id=house.mine.account_id)),
        (house.bearer, Wanted(account_id=house.nobodys.account_id)),
        (house.admin, Wanted()),
    ):
        reply = house.ask("GET", ALL, by=by)
        assert (reply.status, reply.data) == (200, [])
        pagination = {"type": "keyset", "limit": 20, "has_more": False, "next_cursor": None}
        assert reply.json["metadata"]["pagination"] == pagination
        assert house.accounts.asked.pop() == (wanted, None, 20)
    house.ask("GET", f"{ALL}?user_id={house.other_id.upper()}", by=house.admin)
    assert house.accounts.asked.pop() == (Wanted(user_id=house.other_id), None, 20)


def test_lists_go_on_and_are_filtered(house: House) -> None:
    view = account_view(house.backend.book.accounts[house.mine.account_id], "Daily", INSTANT)
    house.accounts.listed = Page([view], house.mine.account_id)
    path = f"{ALL}?limit=500&cursor={UNKNOWN.upper()}&account_type=CREDIT&currency=EUR&status=FROZEN"
    reply = house.ask("GET", path)
    assert [account["name"] for account in reply.data] == ["Daily"]
    pagination = {"type": "keyset", "limit": 100, "has_more": True, "next_cursor": house.mine.account_id}
    assert reply.json["metadata"]["pagination"] == pagination
    wanted = Wanted(user_id=house.user_id, account_type="CREDIT", currency="EUR", status="FROZEN")
    assert house.accounts.asked == [(wanted, UNKNOWN, 100)]


@pytest.mark.parametrize(
    ("query", "reason", "field"),
    [
        ("limit=0", "invalid_pagination", "limit"),
        ("limit=x", "invalid_pagination", "limit"),
        ("cursor=x", "invalid_cursor", "cursor"),
        ("cursor=", "invalid_cursor", "cursor"),
        ("account_type=WORLD", "invalid_account_type", "account_type"),
        ("account_type=", "invalid_account_type", "account_type"),
        ("currency=XXY", "invalid_currency_format", "currency"),
        ("status=GONE", "invalid_status", "status"),
    ],
)
def test_what_cannot_be_listed(query: str, reason: str, field: str) -> None:
    house = House()
    reply = house.ask("GET", f"{ALL}?{query}")
    assert reply.refusal == (400, reason)
    assert reply.error["details"]["field"] == field
    assert house.accounts.asked == []


def test_what_the_database_does_not_take_is_told(house: House) -> None:
    house.backend.trouble = unavailable()
    assert house.open().refusal == (503, "service_unavailable")
    assert house.amend(house.mine, name="Daily").refusal == (503, "service_unavailable")

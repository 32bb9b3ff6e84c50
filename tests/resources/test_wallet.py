"""The wallet's endpoints: who may do what with which account, what is asked and what is answered, on both adapters."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest

from ledger.domain.accounts import Owner, world_id
from ledger.domain.errors import Refused, unavailable
from ledger.domain.money import asset_of
from ledger.domain.policy import Caller
from ledger.domain.secret import Secret
from ledger.domain.transactions import Transaction
from ledger.services.wallets import Opened
from ledger.store.history import Page, Wanted
from ledger.store.wallets import Wallet
from tests.resources.backend import INSTANT, MemoryBackend, Settings
from tests.resources.harness import Reply, Server

UNKNOWN = "01900000-0000-7000-8000-ffffffffffff"
MONEY = ("topup", "charge")


class MemoryWallets:
    """Wallets over the accounts of a backend in memory, with a list of transactions that is always the same."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend
        self.names: dict[str, str] = {}
        self.renewed: list[tuple[Caller, str]] = []
        self.asked: list[tuple[str, Wanted, int | None, int]] = []
        self.page = Page([], None)

    async def open(self, name: str, currency: str | None) -> Opened:
        """Open an account."""
        asset = asset_of(self._backend.config.currency if currency is None else currency).name
        owner, token = self._backend.open_account(None, asset)
        self.names[owner.account_id] = name
        return Opened(owner, name, Secret(token))

    async def read(self, account_id: str) -> Wallet:
        """Read an account."""
        return Wallet(self._backend.book.accounts[account_id], self.names.get(account_id))

    async def renew_token(self, caller: Caller, account_id: str) -> Secret:
        """End all tokens of the account, and give a new one."""
        self.renewed.append((caller, account_id))
        tokens = self._backend.tokens
        former = [token for token, known in tokens.items() if known.account_id == account_id]
        token = sha256(f"{account_id} {len(self.renewed)}".encode()).hexdigest()
        tokens[token] = tokens[former[0]]
        for one in former:
            del tokens[one]
        return Secret(token)

    async def transactions(self, owner: Owner, wanted: Wanted, below: int | None, limit: int) -> Page:
        """Return what the test has put there."""
        self.asked.append((owner.account_id, wanted, below, limit))
        return self.page


class House:
    """A server with wallets: one of nobody's, and a user's two accounts."""

    def __init__(self, adapter: str, **settings: Any) -> None:
        kind, _, slowly = adapter.partition(", ")
        self.backend = MemoryBackend(Settings(**settings), slowly=bool(slowly))
        self.wallets = self.backend.wallets = MemoryWallets(self.backend)
        self.server = Server(self.backend, plain=kind == "plain")
        self.wallet, self.token = self.backend.open_account(None)
        self.first = self.server.account
        self.second, self.second_token = self.backend.open_account(self.server.user_id)
        self.strange, self.strange_token = self.backend.open_account(self.backend.new_id())
        self.jwt = self.backend.log_in("user", self.server.user_id)

    def ask(self, method: str, path: str, body: object = None, key: str | None = None, **more: Any) -> Reply:
        """Ask, with the wallet's token unless another is given."""
        return self.server.ask(method, path, body, {"Idempotency-Key": key}, **{"token": self.token, **more})

    def move(self, kind: str, amount: object, key: str | None = None, token: str | None = None, **more: Any) -> Reply:
        """Top up or charge."""
        body = {"amount": amount, **more}
        return self.ask("POST", f"/api/transactions/{kind}", body, key, token=token or self.token)


@pytest.fixture(params=["plain", "plain, later", "klein"])
def house(request: pytest.FixtureRequest) -> House:
    return House(str(request.param))


def test_anyone_opens_an_account(house: House) -> None:
    reply = house.ask("POST", "/api/register", {"name": "  Coffee  "}, token=None)
    assert reply.status == 201
    account_id, token = reply.data["account_id"], reply.data["token"]
    assert reply.data == {
        "account_id": account_id,
        "name": "Coffee",
        "currency": "USD",
        "balance": "0.00",
        "token": token,
    }
    assert house.backend.owners[account_id].user_id is None
    assert house.ask("GET", "/api/account", token=token).data == {
        "account_id": account_id,
        "name": "Coffee",
        "currency": "USD",
        "balance": "0.00",
        "available": "0.00",
        "status": "ACTIVE",
        "version": 0,
    }


@pytest.mark.parametrize(("currency", "balance"), [("JPY", "0"), ("EUR", "0.00"), ("KWD", "0.000")])
def test_in_a_currency_of_its_own(house: House, currency: str, balance: str) -> None:
    data = house.ask("POST", "/api/register", {"name": "Tea", "currency": currency}, token=None).data
    assert (data["currency"], data["balance"]) == (currency, balance)


def test_the_currency_is_the_servers_unless_it_is_said() -> None:
    house = House("plain", currency="JPY")
    for body in ({"name": "Tea"}, {"name": "Tea", "currency": None}):
        assert house.ask("POST", "/api/register", body, token=None).data["currency"] == "JPY"


@pytest.mark.parametrize(
    ("body", "reason", "field"),
    [
        ({}, "missing_fields", "name"),
        ({"name": " "}, "missing_fields", "name"),
        ({"name": None}, "missing_fields", "name"),
        ({"name": "x" * 256}, "invalid_name_format", "name"),
        ({"name": 7}, "invalid_request", "name"),
        ({"name": "x", "currency": "DOLLARS"}, "invalid_currency_format", "currency"),
        ({"name": "x", "currency": "usd"}, "invalid_currency_format", "currency"),
        ({"name": "x", "currency": ""}, "invalid_currency_format", "currency"),
        ({"name": "x", "currency": "XAU"}, "invalid_currency_format", "currency"),
        ({"name": "x", "currency": 978}, "invalid_request", "currency"),
    ],
)
def test_what_opens_no_account(house: House, body: object, reason: str, field: str) -> None:
    before = len(house.backend.owners)
    reply = house.ask("POST", "/api/register", body, token=None)
    assert reply.refusal == (400, reason)
    assert reply.error["details"]["field"] == field
    assert len(house.backend.owners) == before


def test_a_topup_is_answered_as_the_transaction_that_it_is(house: House) -> None:
    reply = house.move("topup", "12.5", description="Salary")
    assert reply.status == 201
    (command,) = house.backend.submitted
    assert reply.data == {
        "id": reply.data["id"],
        "type": "credit",
        "kind": "topup",
        "amount": "12.50",
        "balance": "12.50",
        "description": "Salary",
        "timestamp": INSTANT,
        "transfer_id": command.id,
    }
    charged = house.move("charge", 2).data
    assert {name: charged[name] for name in ("type", "kind", "amount", "balance", "description")} == {
        "type": "debit",
        "kind": "charge",
        "amount": "2.00",
        "balance": "10.50",
        "description": None,
    }
    assert list(charged) == list(reply.data)
    state = house.ask("GET", "/api/account").data
    assert (state["balance"], state["available"], state["version"], state["name"]) == ("10.50", "10.50", 2, None)


def test_a_charge_over_what_is_available(house: House) -> None:
    house.move("topup", 10)
    house.backend.book.accounts[house.wallet.account_id].held = 300
    reply = house.move("charge", "7.01")
    assert reply.refusal == (422, "insufficient_funds")
    assert reply.error["details"] == {
        "account_id": house.wallet.account_id,
        "available": "7.00",
        "requested": "7.01",
    }
    state = house.ask("GET", "/api/account").data
    assert (state["balance"], state["available"]) == ("10.00", "7.00")


@pytest.mark.parametrize("kind", MONEY)
@pytest.mark.parametrize(
    ("amount", "refusal"),
    [
        ("1.001", (400, "invalid_amount_format")),
        ("1e2", (400, "invalid_amount_format")),
        (True, (400, "invalid_amount_format")),
        (None, (400, "missing_fields")),
        (0, (422, "negative_amount")),
        ("-1", (422, "negative_amount")),
        ("9" * 40, (422, "amount_exceeds_limit")),
    ],
)
def test_amounts_that_are_none(house: House, kind: str, amount: object, refusal: tuple[int, str]) -> None:
    house.move("topup", 10)
    reply = house.move(kind, amount)
    assert reply.refusal == refusal
    assert reply.error["details"]["field"] == "amount"
    assert house.ask("GET", "/api/account").data["version"] == 1


@pytest.mark.parametrize("status", ["FROZEN", "SUSPENDED", "INACTIVE", "CLOSED"])
@pytest.mark.parametrize("kind", MONEY)
def test_an_account_that_is_not_active(house: House, kind: str, status: str) -> None:
    house.move("topup", 10)
    house.backend.book.accounts[house.wallet.account_id].status = status
    expected = {"FROZEN": "account_frozen", "SUSPENDED": "account_suspended"}.get(status, "account_inactive")
    assert house.move(kind, 1).refusal == (422, expected)
    assert house.ask("GET", "/api/account").data["status"] == status


def test_a_key_names_one_operation(house: House) -> None:
    first = house.move("topup", "5", "k", description="x")
    again = house.move("topup", "5.00", "k", description="x")
    assert (again.status, again.data, again.header("Idempotent-Replayed")) == (201, first.data, "true")
    assert first.header("Idempotent-Replayed") is None
    for other in (
        house.move("topup", "5", "k"),
        house.move("topup", "6", "k", description="x"),
        house.move("charge", "5", "k", description="x"),
    ):
        assert other.refusal == (409, "duplicate_transaction")
        assert other.error["details"]["transfer_id"] == first.data["transfer_id"]
    assert house.move("topup", "5", "").refusal == (400, "invalid_idempotency_key")
    assert house.ask("GET", "/api/account").data["balance"] == "5.00"


def test_a_topup_is_no_credit(house: House) -> None:
    token, user_id = house.server.token, house.server.user_id
    assert house.move("topup", 5, "k", token).status == 201
    credit = house.ask("POST", "/credit", {"user_id": user_id, "amount": 5}, "k", token=token)
    assert credit.refusal == (409, "duplicate_transaction")


def test_keys_are_the_users_whichever_token_is_used(house: House) -> None:
    first = house.move("topup", 5, "k", house.server.token)
    assert house.move("topup", 5, "k", house.jwt).data == first.data
    other = house.move("topup", 5, "k", house.jwt, account_id=house.second.account_id)
    assert other.refusal == (409, "duplicate_transaction")


def test_who_has_logged_in_uses_the_first_account_or_another_of_theirs(house: House) -> None:
    house.move("topup", 5, token=house.jwt)
    house.move("topup", 7, token=house.jwt, account_id=house.second.account_id.upper())
    assert house.move("charge", 1, token=house.jwt).data["balance"] == "4.00"
    assert house.ask("GET", "/api/account", token=house.jwt).data["account_id"] == house.first.account_id
    named = house.ask("GET", f"/api/account?account_id={house.second.account_id}", token=house.jwt)
    assert (named.data["account_id"], named.data["balance"]) == (house.second.account_id, "7.00")
    for account in (house.first, house.second):
        house.ask("GET", f"/api/transactions?account_id={account.account_id}", token=house.jwt)
    house.ask("GET", "/api/transactions", token=house.jwt)
    assert [asked[0] for asked in house.wallets.asked] == [
        house.first.account_id,
        house.second.account_id,
        house.first.account_id,
    ]


def refusals(house: House, token: str, account_id: str) -> list[tuple[int, str]]:
    """What every endpoint answers to a caller who names an account."""
    return [
        house.ask("GET", f"/api/account?account_id={account_id}", token=token).refusal,
        house.ask("GET", f"/api/transactions?account_id={account_id}", token=token).refusal,
        house.ask("POST", f"/api/account/token?account_id={account_id}", token=token).refusal,
        *(house.move(kind, 1, token=token, account_id=account_id).refusal for kind in MONEY),
    ]


def test_accounts_that_are_not_the_callers(house: House) -> None:
    world = world_id("USD/2")
    for token in (house.jwt, house.token, house.server.token):
        assert refusals(house, token, house.strange.account_id) == [(403, "unauthorized_access")] * 5
        for account_id in (UNKNOWN, world):
            assert refusals(house, token, account_id) == [(404, "account_not_found")] * 5
        assert refusals(house, token, "x") == [(400, "invalid_uuid_format")] * 5
    assert refusals(house, house.jwt, house.wallet.account_id) == [(403, "unauthorized_access")] * 5
    # A token acts for its one account, even where another is its user's too.
    assert refusals(house, house.server.token, house.second.account_id) == [(403, "insufficient_permissions")] * 5
    assert house.backend.submitted == []
    assert house.wallets.renewed == []


def test_a_token_may_name_its_own_account(house: House) -> None:
    named = house.wallet.account_id
    assert house.move("topup", 1, account_id=named).status == 201
    assert house.ask("GET", f"/api/account?account_id={named}").data["account_id"] == named


def test_support_reads_all_and_moves_nothing_of_others(house: House) -> None:
    token = house.backend.log_in("support")
    named = f"account_id={house.wallet.account_id}"
    assert house.ask("GET", f"/api/account?{named}", token=token).status == 200
    assert house.ask("GET", f"/api/transactions?{named}", token=token).status == 200
    assert house.ask("POST", f"/api/account/token?{named}", token=token).refusal == (403, "unauthorized_access")
    for kind in MONEY:
        reply = house.move(kind, 1, token=token, account_id=house.wallet.account_id)
        assert reply.refusal == (403, "unauthorized_access")


def test_an_admin_acts_for_any_account_but_a_system_account(house: House) -> None:
    admin, world = house.backend.admin_token, world_id("USD/2")
    assert house.move("topup", 5, token=admin, account_id=house.wallet.account_id).data["balance"] == "5.00"
    assert house.move("charge", 5, token=admin, account_id=house.wallet.account_id).data["balance"] == "0.00"
    assert house.ask("GET", f"/api/account?account_id={world}", token=admin).data["version"] == 2
    for kind in MONEY:
        assert house.move(kind, 5, token=admin, account_id=world).refusal == (403, "forbidden")
    assert house.ask("POST", f"/api/accounts/{world}/token", token=admin).refusal == (403, "forbidden")
    player, _ = house.backend.open_account(None, asset="USD/5")
    for kind in MONEY:  # games have rules of their own, and no way past them
        assert house.move(kind, 5, token=admin, account_id=player.account_id).refusal == (403, "forbidden")
    assert house.ask("POST", f"/api/accounts/{player.account_id}/token", token=admin).refusal == (403, "forbidden")
    renewed = house.ask("POST", f"/api/account/token?account_id={house.wallet.account_id}", token=admin)
    assert renewed.refusal == (403, "unauthorized_access")
    assert house.move("topup", 5, token=admin).refusal == (404, "account_not_found")  # this one has none


@pytest.mark.parametrize("adapter", ["plain", "klein"])
def test_where_users_bring_no_money_in_only_admins_do(adapter: str) -> None:
    house = House(adapter, self_funding=False)
    for token in (house.token, house.jwt, house.backend.log_in("support")):
        assert house.move("topup", "nonsense", token=token).refusal == (403, "insufficient_permissions")
    admin = house.backend.admin_token
    assert house.move("topup", 5, token=admin, account_id=house.wallet.account_id).status == 201
    assert house.move("charge", 5).status == 201


def test_a_new_token_takes_the_place_of_the_old_one(house: House) -> None:
    reply = house.ask("POST", "/api/account/token")
    assert reply.status == 201
    token = reply.data["token"]
    assert reply.data == {"account_id": house.wallet.account_id, "token": token}
    assert house.ask("GET", "/api/account").refusal == (401, "invalid_token")
    assert house.ask("GET", "/api/account", token=token).data["account_id"] == house.wallet.account_id
    reply = house.ask("POST", f"/api/account/token?account_id={house.second.account_id}", token=house.jwt)
    assert (reply.status, reply.data["account_id"]) == (201, house.second.account_id)
    reply = house.ask("POST", "/api/account/token", token=house.jwt)
    assert (reply.status, reply.data["account_id"]) == (201, house.first.account_id)


def test_an_admin_replaces_a_lost_token_and_that_is_on_record(house: House) -> None:
    path = f"/api/accounts/{house.wallet.account_id.upper()}/token"
    for token in (house.token, house.jwt, house.backend.log_in("support")):
        for one in (path, "/api/accounts/x/token"):
            assert house.ask("POST", one, token=token).refusal == (403, "insufficient_permissions")
    house.server.audited.clear()
    admin = house.backend.admin_token
    reply = house.ask("POST", path, token=admin)
    assert (reply.status, reply.data["account_id"]) == (201, house.wallet.account_id)
    assert house.ask("GET", "/api/account", token=reply.data["token"]).status == 200
    (event,) = house.server.audited
    assert event.details["account_id"] == house.wallet.account_id
    assert reply.data["token"] not in repr(event)
    assert house.ask("POST", "/api/accounts/x/token", token=admin).refusal == (400, "invalid_uuid_format")
    assert house.ask("POST", f"/api/accounts/{UNKNOWN}/token", token=admin).refusal == (404, "account_not_found")


PLAIN = Transaction("i", "credit", "topup", "1.00", "1.00", None, INSTANT, "t")


def test_a_page_of_transactions(house: House) -> None:
    house.wallets.page = Page([PLAIN], 7)
    reply = house.ask("GET", "/api/transactions?limit=1")
    assert reply.data == [
        {
            "id": "i",
            "type": "credit",
            "kind": "topup",
            "amount": "1.00",
            "balance": "1.00",
            "description": None,
            "timestamp": INSTANT,
            "transfer_id": "t",
        }
    ]
    pagination = {"type": "keyset", "limit": 1, "has_more": True, "next_cursor": "7"}
    assert reply.json["metadata"] == {"pagination": pagination}
    house.wallets.page = Page([], None)
    last = house.ask("GET", "/api/transactions?limit=500&cursor=7")
    assert last.json["metadata"]["pagination"] == {
        "type": "keyset",
        "limit": 100,
        "has_more": False,
        "next_cursor": None,
    }
    account_id = house.wallet.account_id
    assert house.wallets.asked == [(account_id, Wanted(), None, 1), (account_id, Wanted(), 7, 100)]


def test_what_transactions_can_be_asked_for(house: House) -> None:
    house.ask(
        "GET",
        "/api/transactions?type=debit&kind=charge&from=2026-01-02T00:00:00Z&to=2026-01-02T03:00:00.5%2B02:00",
    )
    ((_, wanted, _, limit),) = house.wallets.asked
    assert wanted == Wanted(
        "debit",
        "charge",
        datetime(2026, 1, 2, tzinfo=UTC),
        datetime(2026, 1, 2, 1, 0, 0, 500_000, tzinfo=UTC),
    )
    assert limit == 20


@pytest.mark.parametrize(
    ("query", "reason", "field"),
    [
        ("limit=0", "invalid_pagination", "limit"),
        ("limit=x", "invalid_pagination", "limit"),
        ("cursor=", "invalid_cursor", "cursor"),
        ("cursor=0", "invalid_cursor", "cursor"),
        ("cursor=-1", "invalid_cursor", "cursor"),
        ("cursor=null", "invalid_cursor", "cursor"),
        ("cursor=1.5", "invalid_cursor", "cursor"),
        ("cursor=%D9%A1", "invalid_cursor", "cursor"),
        (f"cursor={2**63}", "invalid_cursor", "cursor"),
        ("type=up", "invalid_direction", "type"),
        ("type=", "invalid_direction", "type"),
        ("type=null", "invalid_direction", "type"),
        ("kind=theft", "invalid_request", "kind"),
        ("kind=", "invalid_request", "kind"),
        ("from=2026-01-02", "invalid_datetime_format", "from"),
        ("to=2026-01-02T00:00:00", "invalid_datetime_format", "to"),
        ("account_id=x", "invalid_uuid_format", "account_id"),
    ],
)
def test_what_transactions_cannot_be_asked_for(house: House, query: str, reason: str, field: str) -> None:
    reply = house.ask("GET", f"/api/transactions?{query}")
    assert reply.refusal == (400, reason)
    assert reply.error["details"]["field"] == field
    assert house.wallets.asked == []


def test_without_a_token_there_is_nothing_but_a_new_account(house: House) -> None:
    for method, path in (
        ("GET", "/api/account"),
        ("GET", "/api/transactions"),
        ("POST", "/api/transactions/topup"),
        ("POST", "/api/transactions/charge"),
        ("POST", "/api/account/token"),
        ("POST", f"/api/accounts/{house.wallet.account_id}/token"),
    ):
        for token in (None, "unknown"):
            assert house.ask(method, path, token=token).refusal == (401, "invalid_token")


def test_an_outage_is_told(house: House) -> None:
    house.backend.trouble = unavailable()
    assert house.move("topup", 1).refusal == (503, "service_unavailable")
    house.backend.trouble = Refused("account_frozen")
    assert house.move("charge", 1).refusal == (422, "account_frozen")

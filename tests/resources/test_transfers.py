"""Transfers and reversals over HTTP: what is asked, who may, and what each is told, on both adapters."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from ledger.domain.accounts import world_id
from ledger.domain.errors import Refused
from ledger.domain.game_users import ASSET as GAMES_ASSET
from ledger.domain.journal import Entry, Record
from ledger.domain.periods import LATEST, PERIODS, Closed
from ledger.domain.reversals import REVERSED
from ledger.store.transfers import TransferPage, TransfersWanted
from tests.resources.backend import INSTANT, MemoryBackend, Settings
from tests.resources.harness import Reply, Server

UNKNOWN = "01900000-0000-7000-8000-ffffffffffff"
WORLD = world_id("USD/2")
EARLIER = "2026-01-01T00:00:00.000000Z"


class MemoryTransfers:
    """What a backend in memory has booked."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.asked: list[tuple[str | None, TransfersWanted, int | None, int]] = []
        self.scopes: list[Collection[str]] = []
        self.following: int | None = None

    async def find(self, transfer_id: str) -> Record:
        """Return a record that moved money."""
        if transfer_id not in self.records:
            raise Refused("transfer_not_found")
        return self.records[transfer_id]

    async def under(self, scopes: Collection[str], key: str) -> list[Record]:
        """Return the records under a key, newest first."""
        self.scopes.append(scopes)
        return [one for one in self._newest() if one.scope in scopes and one.key == key]

    async def page(
        self, account_id: str | None, wanted: TransfersWanted, below: int | None, limit: int
    ) -> TransferPage:
        """Return all there is of an account, or of all."""
        self.asked.append((account_id, wanted, below, limit))
        found = [
            one
            for one in self._newest()
            if account_id is None or account_id in {entry.account for entry in one.entries}
        ]
        return TransferPage(found, self.following)

    def _newest(self) -> list[Record]:
        return sorted(self.records.values(), key=lambda record: -record.seq)


class House:
    """A server with a user's two accounts, a stranger's, a wallet, one in EUR, and one of a game user."""

    def __init__(self, adapter: str = "plain", **settings: Any) -> None:
        kind, _, slowly = adapter.partition(", ")
        self.backend = MemoryBackend(Settings(**settings), slowly=bool(slowly))
        self.transfers = self.backend.transfers = MemoryTransfers()
        self.backend.book.facts = {PERIODS: {}, REVERSED: {}}
        self.server = Server(self.backend, plain=kind == "plain")
        self.first = self.server.account.account_id
        self.second = self.open(self.server.user_id)
        self.stranger = self.backend.new_id()
        self.strange = self.open(self.stranger)
        self.wallet, self.wallet_token = self.open_with_token(None)
        self.euro = self.open(self.server.user_id, "EUR/2")
        self.game = self.open(None, GAMES_ASSET)
        self.user = self.backend.log_in("user", self.server.user_id)
        self.other = self.backend.log_in("user", self.stranger)
        self.support = self.backend.log_in("support")
        self.admin = self.backend.admin_token
        self.give(self.first, 10_000)

    def open_with_token(self, user_id: str | None, asset: str = "USD/2") -> tuple[str, str]:
        """Open an account."""
        owner, token = self.backend.open_account(user_id, asset)
        return owner.account_id, token

    def open(self, user_id: str | None, asset: str = "USD/2") -> str:
        """Open an account."""
        return self.open_with_token(user_id, asset)[0]

    def give(self, account_id: str, amount: int) -> None:
        """Set a balance."""
        self.backend.book.accounts[account_id].balance = amount

    def balance(self, account_id: str) -> int:
        """What is in an account."""
        return self.backend.book.accounts[account_id].balance

    def transfer(self, body: object, token: str | None = None, key: str | None = None) -> Reply:
        """Make a transfer, as the user unless another token is given."""
        headers = {"Idempotency-Key": key}
        return self._booked(self.server.ask("POST", "/api/transfers", body, headers, token=token or self.user))

    def reverse(self, transfer_id: str, body: object, token: str | None = None, key: str | None = None) -> Reply:
        """Reverse one."""
        path, headers = f"/api/transfers/{transfer_id}/reverse", {"Idempotency-Key": key}
        return self._booked(self.server.ask("POST", path, body, headers, token=token or self.user))

    def get(self, path: str, token: str | None = None) -> Reply:
        """Read."""
        return self.server.ask("GET", f"/api/transfers{path}", token=token or self.user)

    def asked(self) -> tuple[Any, ...]:
        """What was last looked for."""
        return self.transfers.asked[-1]

    def _booked(self, reply: Reply) -> Reply:
        """Keep what has been booked where it is read from."""
        for record in self.backend.book.known.values():
            self.transfers.records[record.id] = record
        return reply

    def leg(self, amount: object = "1.00", source: str | None = None, target: str | None = None) -> dict[str, Any]:
        """An amount from the user's first account to the stranger's."""
        return {"from": source or self.first, "to": target or self.strange, "amount": amount}

    def made(self, body: object, token: str | None = None, key: str = "made") -> str:
        """The id of a transfer that is made."""
        reply = self.transfer(body, token, key)
        assert reply.status == 201, reply.body
        return str(reply.data["id"])


@pytest.fixture(params=["plain", "plain, later", "klein"])
def house(request: pytest.FixtureRequest) -> House:
    return House(str(request.param))


def failed(reply: Reply) -> tuple[int, str, str | None]:
    """Why something was refused, and which field is to blame."""
    return (*reply.refusal, reply.error["details"].get("field"))


def test_a_transfer(house: House) -> None:
    body = {**house.leg("12.5"), "description": "Rent", "metadata": {"b": 1, "a": [None, 1.5]}}
    reply = house.transfer(body)
    assert reply.status == 201
    assert reply.data == {
        "id": reply.data["id"],
        "seq": 1,
        "kind": "transfer",
        "legs": [{"from": house.first, "to": house.strange, "amount": "12.50"}],
        "posted_at": INSTANT,
        "effective_at": INSTANT,
        "reverses": None,
        "description": "Rent",
        "metadata": {"a": [None, 1.5], "b": 1},
        "balances": [{"account_id": house.first, "balance": "87.50", "available": "87.50", "version": 1}],
    }
    assert reply.header("Idempotent-Replayed") is None
    assert (house.balance(house.first), house.balance(house.strange)) == (8_750, 1_250)


def test_many_legs(house: House) -> None:
    house.give(house.euro, 300)
    other_euro = house.open(None, "EUR/2")
    legs = [
        house.leg("10", target=house.second),
        house.leg("2.50", house.second),
        house.leg("3", house.euro, other_euro),
    ]
    reply = house.transfer({"legs": legs})
    assert reply.status == 201
    assert [leg["amount"] for leg in reply.data["legs"]] == ["10.00", "2.50", "3.00"]
    assert [(one["account_id"], one["balance"]) for one in reply.data["balances"]] == [
        (house.first, "90.00"),
        (house.second, "7.50"),
        (house.euro, "0.00"),
    ]


def test_a_replay_is_the_same_byte_for_byte(house: House) -> None:
    body = {"legs": [house.leg(1), house.leg("2", target=house.second)], "metadata": {"z": 1e3, "a": "€"}}
    first = house.transfer(body, key="k")
    house.backend.book.accounts[house.first].status = "FROZEN"
    body = {"metadata": {"a": "\u20ac", "z": 1000.0}, "legs": [house.leg("1.00"), house.leg(2, target=house.second)]}
    again = house.transfer(body, key="k")
    assert (first.status, again.status) == (201, 201)
    assert first.body.partition(b'"success"')[0] == again.body.partition(b'"success"')[0]
    assert again.header("Idempotent-Replayed") == "true"
    other = house.transfer({**body, "description": "other"}, key="k")
    assert other.refusal == (409, "duplicate_transaction")
    assert other.error["details"] == {"transfer_id": first.data["id"]}
    assert house.balance(house.first) == 9_700


@pytest.mark.parametrize("body", [b"[]", b"{", b"null"])
def test_what_is_no_request(house: House, body: bytes) -> None:
    reply = house.server.ask("POST", "/api/transfers", raw=body, token=house.user)
    assert reply.refusal == (400, "invalid_request")


LEG = {"from": UNKNOWN, "to": UNKNOWN[:-1] + "0", "amount": 1}


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"from": None}, "missing_fields", "from"),
        ({"from": ""}, "missing_fields", "from"),
        ({"to": " "}, "missing_fields", "to"),
        ({"amount": None}, "missing_fields", "amount"),
        ({"amount": ""}, "missing_fields", "amount"),
        ({"amount": " \u00a0"}, "missing_fields", "amount"),
        ({"from": "x"}, "invalid_uuid_format", "from"),
        ({"from": UNKNOWN + " "}, "invalid_uuid_format", "from"),
        ({"to": "x"}, "invalid_uuid_format", "to"),
        ({"to": 7}, "invalid_request", "to"),
        ({"amount": "x"}, "invalid_amount_format", "amount"),
        ({"amount": "1e3"}, "invalid_amount_format", "amount"),
        ({"amount": True}, "invalid_amount_format", "amount"),
        ({"amount": ["1"]}, "invalid_amount_format", "amount"),
        ({"to": UNKNOWN}, "invalid_request", "to"),
        ({"to": UNKNOWN.upper()}, "invalid_request", "to"),
        ({"description": "x" * 256}, "invalid_request", "description"),
        ({"description": 7}, "invalid_request", "description"),
        ({"description": "\0"}, "invalid_request", "description"),
        ({"metadata": []}, "invalid_request", "metadata"),
        ({"metadata": {"\0": 1}}, "invalid_request", "metadata"),
        ({"metadata": {"a": "x" * 16_384}}, "invalid_request", "metadata"),
        ({"legs": [LEG, LEG]}, "invalid_request", "legs"),
        ({"legs": []}, "invalid_request", "legs"),
        ({"expect": []}, "invalid_request", "expect"),
        ({"expect": {"account_id": UNKNOWN, "version": "1"}}, "invalid_request", "expect"),
        ({"expect": {"account_id": UNKNOWN, "version": -1}}, "invalid_request", "expect"),
        ({"expect": {"account_id": UNKNOWN, "version": 1, "available_at_least": 1}}, "invalid_request", "expect"),
        ({"expect": {"account_id": UNKNOWN}}, "invalid_request", "expect"),
        ({"expect": {"version": 1}}, "missing_fields", "expect.account_id"),
        ({"expect": {"account_id": "x", "version": 1}}, "invalid_uuid_format", "expect.account_id"),
        (
            {"expect": {"account_id": UNKNOWN, "available_at_least": "x"}},
            "invalid_amount_format",
            "expect.available_at_least",
        ),
    ],
)
def test_what_is_malformed_is_so_whoever_owns_the_accounts(
    house: House, change: dict[str, Any], reason: str, field: str
) -> None:
    assert failed(house.transfer({**LEG, **change})) == (400, reason, field)
    assert house.backend.submitted == []


def test_all_that_is_missing_is_named() -> None:
    house = House()
    nothing: dict[str, Any] = {}
    for body in (nothing, None):
        assert house.transfer(body).error["details"] == {"field": "from", "fields": ["from", "to", "amount"]}
    reply = house.transfer({"legs": [LEG, nothing]})
    assert reply.error["details"]["fields"] == ["legs.1.from", "legs.1.to", "legs.1.amount"]


@pytest.mark.parametrize(
    ("leg", "reason", "field"),
    [
        ({**LEG, "from": "x"}, "invalid_uuid_format", "legs.1.from"),
        ({**LEG, "to": "x"}, "invalid_uuid_format", "legs.1.to"),
        ({**LEG, "to": UNKNOWN}, "invalid_request", "legs.1.to"),
        ({**LEG, "amount": "x"}, "invalid_amount_format", "legs.1.amount"),
        ({**LEG, "amount": None}, "missing_fields", "legs.1.amount"),
        ({**LEG, "to": 7}, "invalid_request", "legs"),
        (None, "invalid_request", "legs"),
    ],
)
def test_legs_are_numbered(house: House, leg: object, reason: str, field: str) -> None:
    assert failed(house.transfer({"legs": [LEG, leg]})) == (400, reason, field)


@pytest.mark.parametrize("number", [0, 1, 101])
def test_two_to_a_hundred_legs(house: House, number: int) -> None:
    assert failed(house.transfer({"legs": [house.leg("0.01")] * number})) == (400, "invalid_request", "legs")
    assert house.transfer({"legs": [house.leg("0.01")] * 100}).status == 201
    assert house.balance(house.strange) == 100


@pytest.mark.parametrize(
    ("amount", "status", "reason"),
    [
        ("0", 422, "negative_amount"),
        ("-1", 422, "negative_amount"),
        ("1.001", 400, "invalid_amount_format"),
        ("20000000000000.01", 422, "amount_exceeds_limit"),
        ("99999999999999999999", 422, "amount_exceeds_limit"),
        ("100.01", 422, "insufficient_funds"),
    ],
)
def test_amounts(house: House, amount: str, status: int, reason: str) -> None:
    assert house.transfer(house.leg(amount)).refusal == (status, reason)
    numbered = house.transfer({"legs": [house.leg("0.01"), house.leg(amount)]})
    assert numbered.refusal == (status, reason)
    if reason != "insufficient_funds":
        assert numbered.error["details"]["field"] == "legs.1.amount"
    assert house.balance(house.first) == 10_000


def test_who_may_take_money_out(house: House) -> None:
    token = house.server.token
    asked = [
        (house.user, house.first, 201, None),
        (house.user, house.second, 422, "insufficient_funds"),
        (house.user, house.strange, 403, "unauthorized_access"),
        (house.user, UNKNOWN, 404, "account_not_found"),
        (house.user, WORLD, 404, "account_not_found"),
        (token, house.first, 201, None),
        (token, house.second, 403, "insufficient_permissions"),
        (token, house.strange, 403, "unauthorized_access"),
        (house.wallet_token, house.first, 403, "unauthorized_access"),
        (house.support, house.first, 403, "unauthorized_access"),
        (house.admin, house.first, 201, None),
        (house.admin, house.second, 422, "insufficient_funds"),
        (house.admin, UNKNOWN, 404, "account_not_found"),
        (house.admin, WORLD, 201, None),
    ]
    for number, (who, source, status, reason) in enumerate(asked):
        reply = house.transfer(house.leg("1", source, house.wallet), who)
        assert reply.status == status, (number, reply.body)
        if status in (403, 404):
            assert failed(reply) == (status, reason, "from")
    assert house.balance(house.wallet) == 400


def test_to_any_account_that_there_is(house: House) -> None:
    for target in (UNKNOWN, WORLD):
        assert failed(house.transfer(house.leg("1", target=target))) == (404, "account_not_found", "to")
    assert house.transfer(house.leg("1", target=WORLD), house.admin).status == 201
    assert house.transfer(house.leg("1", target=house.wallet)).status == 201
    reply = house.transfer(house.leg("1", target=house.euro))
    assert reply.refusal == (422, "currency_mismatch")
    assert reply.error["details"] == {"account_id": house.euro}


def test_game_users_take_part_in_none_for_admins_too(house: House) -> None:
    house.give(house.game, 10_000)
    other = house.open(None, GAMES_ASSET)
    assert failed(house.transfer(house.leg("1", target=house.game))) == (403, "forbidden", "to")
    assert failed(house.transfer(house.leg("1", house.game, other), house.admin)) == (403, "forbidden", "from")
    assert failed(house.transfer(house.leg("1", world_id(GAMES_ASSET), other), house.admin))[0] == 404
    legs = {"legs": [house.leg("1"), house.leg("1", target=house.game)]}
    assert failed(house.transfer(legs, house.admin)) == (403, "forbidden", "legs.1.to")


@pytest.mark.parametrize("status", ["FROZEN", "SUSPENDED", "INACTIVE", "CLOSED"])
def test_accounts_that_are_not_active(house: House, status: str) -> None:
    reasons = {"FROZEN": "account_frozen", "SUSPENDED": "account_suspended"}
    for account_id in (house.first, house.strange):
        house.backend.book.accounts[account_id].status = status
        assert house.transfer(house.leg()).refusal == (422, reasons.get(status, "account_inactive"))
        house.backend.book.accounts[account_id].status = "ACTIVE"


def test_what_is_expected(house: House) -> None:
    def expecting(**expect: Any) -> Reply:
        return house.transfer({**house.leg("10"), "expect": {"account_id": house.first, **expect}})

    assert expecting(version=0).status == 201
    reply = expecting(version=0)
    assert reply.refusal == (409, "version_conflict")
    assert reply.error["details"] == {"account_id": house.first, "expected": 0, "version": 1}
    assert expecting(available_at_least="90").status == 201
    reply = expecting(available_at_least="80.01")
    assert reply.refusal == (422, "insufficient_funds")
    assert reply.error["details"]["requested"] == "80.01"
    assert expecting(available_at_least="0.00").status == 201
    for text, status, reason in (
        ("0.000", 400, "invalid_amount_format"),
        ("-1", 422, "negative_amount"),
        ("1.001", 400, "invalid_amount_format"),
    ):
        assert failed(expecting(available_at_least=text)) == (status, reason, "expect.available_at_least")
    assert house.balance(house.strange) == 3_000


def test_of_what_something_may_be_expected(house: House) -> None:
    def expecting(account_id: str, token: str | None = None) -> Reply:
        expect = {"account_id": account_id.upper(), "version": 0}
        return house.transfer({**house.leg("1"), "expect": expect}, token)

    field = "expect.account_id"
    assert failed(expecting(UNKNOWN)) == (404, "account_not_found", field)
    assert failed(expecting(WORLD)) == (404, "account_not_found", field)
    assert failed(expecting(house.wallet)) == (403, "unauthorized_access", field)
    assert failed(expecting(house.second, house.server.token)) == (403, "insufficient_permissions", field)
    assert expecting(house.second).status == 201
    assert expecting(house.wallet, house.admin).status == 201
    assert expecting(WORLD, house.admin).status == 201


def test_backdating_is_for_admins(house: House) -> None:
    body = {**house.leg("1"), "effective_at": "2026-01-01T01:00:00+01:00"}
    for token in (house.user, house.server.token, house.support):
        assert house.transfer({**body, "from": "x"}, token).refusal == (403, "insufficient_permissions")
    reply = house.transfer(body, house.admin)
    assert (reply.status, reply.data["effective_at"], reply.data["posted_at"]) == (201, EARLIER, INSTANT)
    house.backend.book.facts[PERIODS][LATEST] = Closed(LATEST, INSTANT)
    assert house.transfer(body, house.admin).refusal == (422, "period_closed")
    for moment in ("2026-01-02T03:04:05.678902Z", "2026-01-01T00:00:00", "yesterday", "0001-01-01T00:00:00+23:00"):
        reply = house.transfer({**body, "effective_at": moment}, house.admin)
        assert failed(reply) == (400, "invalid_datetime_format", "effective_at")


def test_whoever_may_read_an_account_of_it_sees_it(house: House) -> None:
    body = {"legs": [house.leg("5"), house.leg("3", house.strange, house.wallet)]}
    transfer_id = house.made(body, house.admin)

    def seen(token: str) -> tuple[list[str], list[str]]:
        data = house.get(f"/{transfer_id}", token).data
        assert (data["id"], data["kind"]) == (transfer_id, "transfer")
        return [leg["amount"] for leg in data["legs"]], [one["account_id"] for one in data["balances"]]

    everything = (["5.00", "3.00"], [house.first, house.strange, house.wallet])
    assert seen(house.admin) == seen(house.support) == everything
    assert seen(house.user) == seen(house.server.token) == (["5.00"], [house.first])
    assert seen(house.other) == (["5.00", "3.00"], [house.strange])
    assert seen(house.wallet_token) == (["3.00"], [house.wallet])
    nobody = house.backend.log_in("user")
    assert house.get(f"/{transfer_id}", nobody).refusal == (403, "unauthorized_access")
    assert house.get(f"/{UNKNOWN}").refusal == (404, "transfer_not_found")
    assert failed(house.get("/x")) == (400, "invalid_uuid_format", "id")
    assert house.get(f"/{transfer_id.upper()}").status == 200


def test_the_world_is_told_to_admins_only(house: House) -> None:
    transfer_id = house.made(house.leg("5", WORLD, house.first), house.admin)
    for token, expected in (
        (house.admin, [(WORLD, "-5.00"), (house.first, "105.00")]),
        (house.support, [(house.first, "105.00")]),
        (house.user, [(house.first, "105.00")]),
    ):
        balances = house.get(f"/{transfer_id}", token).data["balances"]
        assert [(one["account_id"], one["balance"]) for one in balances] == expected


def test_lists(house: House) -> None:
    mine = house.made(house.leg("5"), key="a")
    house.made(house.leg("4", WORLD, house.wallet), house.admin, key="b")
    assert [one["id"] for one in house.get("").data] == [mine]
    assert house.asked() == (house.first, TransfersWanted(), None, 20)
    house.get("", house.wallet_token)
    assert house.asked()[0] == house.wallet
    house.get(f"?account_id={house.second}&limit=1000&cursor=77&kind=reversal")
    assert house.asked() == (house.second, TransfersWanted("reversal"), 77, 100)
    assert len(house.get("", house.admin).data) == 2
    assert house.asked()[0] is None
    house.get(f"?account_id={house.wallet}&from=2026-01-01T00:00:00Z&to=2026-02-01T00:00:00Z", house.admin)
    wanted = house.asked()[1]
    assert wanted.since is not None
    assert wanted.before is not None
    assert (wanted.since.month, wanted.before.month) == (1, 2)
    house.transfers.following = 7
    pagination = house.get("").json["metadata"]["pagination"]
    assert pagination == {"type": "keyset", "limit": 20, "has_more": True, "next_cursor": "7"}


@pytest.mark.parametrize(
    ("query", "status", "reason"),
    [
        ("limit=0", 400, "invalid_pagination"),
        ("cursor=0", 400, "invalid_cursor"),
        ("cursor=x", 400, "invalid_cursor"),
        ("cursor=9223372036854775808", 400, "invalid_cursor"),
        ("kind=x", 400, "invalid_request"),
        ("from=x", 400, "invalid_datetime_format"),
        ("account_id=x", 400, "invalid_uuid_format"),
        (f"account_id={UNKNOWN}", 404, "account_not_found"),
        (f"account_id={UNKNOWN}&idempotency_key=k", 404, "account_not_found"),
        ("idempotency_key=", 400, "invalid_idempotency_key"),
        ("idempotency_key=%C3%A9", 400, "invalid_idempotency_key"),
        ("idempotency_key=" + "x" * 256, 400, "invalid_idempotency_key"),
    ],
)
def test_lists_that_are_none(house: House, query: str, status: int, reason: str) -> None:
    assert house.get(f"?{query}").refusal == (status, reason)
    assert house.get(f"?account_id={house.strange}").refusal == (403, "unauthorized_access")


def test_by_idempotency_key(house: House) -> None:
    mine = house.made(house.leg("5"), key="k")
    theirs = house.made(house.leg("4", WORLD, house.wallet), house.admin, key="k")
    wallets = house.made(house.leg("1", house.wallet, house.first), house.wallet_token, key="k")

    def found(query: str, token: str | None = None) -> list[str]:
        return [one["id"] for one in house.get(f"?idempotency_key=k{query}", token).data]

    assert found("") == [mine]
    assert found("", house.server.token) == [mine]
    assert found("", house.wallet_token) == [wallets]
    assert found("", house.admin) == [theirs]
    assert found("", house.support) == []
    assert found(f"&account_id={house.wallet}", house.admin) == [wallets, theirs]
    assert found(f"&account_id={house.wallet}&limit=1", house.admin) == [wallets]
    assert found(f"&account_id={house.wallet}&limit=1&cursor=3", house.admin) == [theirs]
    assert found(f"&account_id={house.first}", house.admin) == [mine]
    assert found(f"&account_id={house.second}") == []
    assert found("&kind=reversal") == []
    assert found("&kind=transfer&from=2026-01-02T03:04:05.678901Z") == [mine]
    assert found("&from=2026-01-02T03:04:05.678902Z") == []
    assert found("&to=2026-01-02T03:04:05.678901Z") == []
    assert found("k") == []
    page = house.get(f"?idempotency_key=k&limit=1&account_id={house.wallet}", house.admin).json["metadata"]
    assert page["pagination"] == {"type": "keyset", "limit": 1, "has_more": True, "next_cursor": "3"}


def test_a_key_of_an_account_that_a_token_may_not_read(house: House) -> None:
    house.give(house.second, 100)
    made = house.made(house.leg("1", house.second), key="k")
    assert [one["id"] for one in house.get("?idempotency_key=k").data] == [made]
    assert house.get("?idempotency_key=k", house.server.token).data == []


def test_a_reversal(house: House) -> None:
    transfer_id = house.made(house.leg("5"))
    reply = house.reverse(transfer_id, {"amount": "2", "description": "Refund"}, house.other, key="back")
    assert reply.status == 201
    assert reply.data == {
        "id": reply.data["id"],
        "seq": 2,
        "kind": "reversal",
        "legs": [{"from": house.strange, "to": house.first, "amount": "2.00"}],
        "posted_at": INSTANT,
        "effective_at": INSTANT,
        "reverses": transfer_id,
        "description": "Refund",
        "metadata": None,
        "balances": [{"account_id": house.strange, "balance": "3.00", "available": "3.00", "version": 2}],
    }
    again = house.reverse(transfer_id, {"description": "Refund", "amount": 2.00}, house.other, key="back")
    assert (again.data, again.header("Idempotent-Replayed")) == (reply.data, "true")
    assert house.reverse(transfer_id, {}, house.other, key="back").refusal == (409, "duplicate_transaction")
    assert house.reverse(transfer_id, {"amount": "3.01"}, house.other).refusal == (409, "already_processed")
    assert house.reverse(transfer_id, {}, house.other).data["legs"][0]["amount"] == "3.00"
    for amount in (None, "0.01", "5", "5.01"):
        reply = house.reverse(transfer_id, {"amount": amount}, house.other)
        assert reply.refusal == (409, "already_processed")
        assert reply.error["details"] == {"transfer_id": transfer_id, "amount": "5.00", "reversed": "5.00"}
    assert (house.balance(house.first), house.balance(house.strange)) == (10_000, 0)
    reversal = again.data["id"]
    assert house.reverse(reversal, {}).refusal == (409, "already_processed")
    assert house.get(f"/{reversal}").data["reverses"] == transfer_id


def test_who_may_reverse(house: House) -> None:
    transfer_id = house.made(house.leg("5"))
    nobody = house.backend.log_in("user")
    for token, status, reason in (
        (house.user, 403, "unauthorized_access"),  # whoever gave it does not take it back
        (house.server.token, 403, "unauthorized_access"),
        (house.support, 403, "unauthorized_access"),
        (nobody, 403, "unauthorized_access"),
    ):
        assert house.reverse(transfer_id, {"amount": "1"}, token).refusal == (status, reason)
    for token in (house.other, house.admin):
        assert house.reverse(transfer_id, {"amount": "1"}, token).status == 201
    assert house.reverse(UNKNOWN, {}).refusal == (404, "transfer_not_found")
    assert failed(house.reverse("x", {})) == (400, "invalid_uuid_format", "id")


def test_every_account_that_gives_back_must_be_the_callers(house: House) -> None:
    transfer_id = house.made({"legs": [house.leg("5"), house.leg("3", target=house.second)]}, house.admin)
    for token in (house.user, house.other):
        assert house.reverse(transfer_id, {}, token).refusal == (403, "unauthorized_access")
    both = house.made({"legs": [house.leg("2", target=house.second)] * 2}, key="both")
    assert house.reverse(both, {}, house.server.token).refusal == (403, "insufficient_permissions")
    assert house.reverse(both, {}).status == 201
    assert house.reverse(transfer_id, {}, house.admin).status == 201
    assert house.balance(house.first) == 10_000


@pytest.mark.parametrize(
    ("body", "status", "reason", "field"),
    [
        ({"amount": "x"}, 400, "invalid_amount_format", "amount"),
        ({"amount": ""}, 400, "invalid_amount_format", "amount"),
        ({"amount": [1]}, 400, "invalid_amount_format", "amount"),
        ({"amount": "1.001"}, 400, "invalid_amount_format", "amount"),
        ({"amount": "0"}, 422, "negative_amount", "amount"),
        ({"amount": "-1"}, 422, "negative_amount", "amount"),
        ({"description": 7}, 400, "invalid_request", "description"),
    ],
)
def test_reversals_that_are_none(house: House, body: object, status: int, reason: str, field: str) -> None:
    transfer_id = house.made(house.leg("5"))
    assert failed(house.reverse(transfer_id, body, house.other)) == (status, reason, field)


def test_without_a_body_all_is_reversed(house: House) -> None:
    transfer_id = house.made(house.leg("5"))
    assert house.reverse(transfer_id, None, house.other).data["legs"][0]["amount"] == "5.00"


def test_several_legs_are_reversed_as_a_whole(house: House) -> None:
    transfer_id = house.made({"legs": [house.leg("5"), house.leg("3")]})
    assert failed(house.reverse(transfer_id, {"amount": "5"}, house.other)) == (400, "invalid_request", "amount")
    assert failed(house.reverse(transfer_id, {"amount": "8.01"}, house.other)) == (400, "invalid_request", "amount")
    reply = house.reverse(transfer_id, {"amount": "8.00"}, house.other)
    assert reply.status == 201
    assert [leg["amount"] for leg in reply.data["legs"]] == ["3.00", "5.00"]
    house.give(house.euro, 800)
    euros = house.leg("3", house.euro, house.open(house.stranger, "EUR/2"))
    mixed = house.made({"legs": [house.leg("5"), euros]}, key="mixed")
    assert failed(house.reverse(mixed, {"amount": "8"}, house.other)) == (400, "invalid_request", "amount")
    assert house.reverse(mixed, {}, house.other).status == 201


@pytest.mark.parametrize("self_funding", [True, False])
def test_what_comes_back_from_outside(self_funding: bool) -> None:
    house = House(self_funding=self_funding)
    debit = house.made(house.leg("5", house.first, WORLD), house.admin, key="debit")
    reply = house.reverse(debit, {"amount": "2"})
    if self_funding:
        assert reply.status == 201
        assert [one["account_id"] for one in reply.data["balances"]] == [house.first]
    else:
        assert reply.refusal == (403, "insufficient_permissions")
    assert house.reverse(debit, {}, house.other).refusal == (403, "unauthorized_access")
    support = house.reverse(debit, {}, house.support).refusal
    assert support == (403, "unauthorized_access" if self_funding else "insufficient_permissions")
    assert house.reverse(debit, {}, house.admin).status == 201
    credit = house.made(house.leg("5", WORLD, house.first), house.admin, key="credit")
    assert house.reverse(credit, {}).status == 201  # it is the account that gives


def test_bets_and_payments_stay(house: House) -> None:
    entries = (Entry(house.first, -5, 0, 0, 0, 1), Entry(house.second, 5, 5, 0, 5, 1))
    for kind in ("bet", "payment"):
        record = Record(v=1, seq=1, id=house.backend.new_id(), kind=kind, posted_at=INSTANT, entries=entries)
        house.transfers.records[record.id] = record
        for token in (house.user, house.admin):
            assert house.reverse(record.id, {}, token).refusal == (403, "forbidden")


def test_away() -> None:
    server = Server(MemoryBackend())
    for path in ("", f"/{UNKNOWN}"):
        assert server.ask("GET", f"/api/transfers{path}").refusal == (503, "service_unavailable")
    assert server.ask("POST", f"/api/transfers/{UNKNOWN}/reverse", {}).refusal == (503, "service_unavailable")

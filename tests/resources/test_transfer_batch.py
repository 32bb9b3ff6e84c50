"""POST /api/transfers/batch: an outcome for each transfer, or all of them or none."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.accounts import world_id
from ledger.domain.errors import unavailable
from ledger.domain.journal import canonical
from ledger.resources.transfer_batch import BatchOutcome
from tests.resources.backend import MemoryBackend
from tests.resources.harness import Reply, Server
from tests.strategies import examples

WORLD = world_id("USD/2")
UNKNOWN = "01900000-0000-7000-8000-ffffffffffff"


class Desk:
    """A server with two accounts, and an admin who posts."""

    def __init__(self) -> None:
        self.server = Server()
        self.one = self.server.account.account_id
        self.two = self.server.backend.open_account(None)[0].account_id
        self.number = 0

    def item(self, source: str = WORLD, target: str | None = None, amount: object = "1.00", **more: Any) -> Any:
        """A transfer with a key of its own, into the first account unless told otherwise."""
        self.number += 1
        transfer = {"from": source, "to": target or self.one, "amount": amount}
        return {"idempotency_key": f"key {self.number}"} | transfer | more

    def post(self, items: object, token: str = "admin-token", **more: Any) -> Reply:
        """Post a batch."""
        return self.server.ask("POST", "/api/transfers/batch", {"transfers": items, **more}, token=token)

    def balance(self, account_id: str | None = None) -> int:
        """What is in the first account."""
        return self.server.backend.book.accounts[account_id or self.one].balance


def words(reply: Reply) -> list[str]:
    """Outcomes in words."""
    assert reply.status == 200, reply.json
    return [one["error"]["reason"] if one["status"] == "refused" else one["status"] for one in reply.data]


def test_each_transfer_has_its_outcome_in_order() -> None:
    desk = Desk()
    first = desk.item(amount="5.00", description="seed", metadata={"n": 1})
    items = [first, desk.item(desk.one, desk.two, 3), desk.item(desk.one, desk.two, "3.00"), desk.item(), first]
    reply = desk.post(items)
    assert words(reply) == ["posted", "posted", "insufficient_funds", "posted", "replayed"]
    posted, replayed, refused = reply.data[0], reply.data[4], reply.data[2]
    assert posted["transfer"] == replayed["transfer"]
    assert list(posted) == ["status", "transfer"]
    transfer = posted["transfer"]
    assert transfer["legs"] == [{"from": WORLD, "to": desk.one, "amount": "5.00"}]
    assert transfer["balances"][1] == {"account_id": desk.one, "balance": "5.00", "available": "5.00", "version": 1}
    assert (transfer["kind"], transfer["seq"], transfer["metadata"]) == ("transfer", 1, {"n": 1})
    assert list(refused) == ["status", "error"]
    assert refused["error"] == {
        "type": "unprocessable_entity",
        "message": "The available balance does not cover this",
        "code": 422,
        "reason": "insufficient_funds",
        "details": {"account_id": desk.one, "available": "2.00", "requested": "3.00"},
    }
    assert desk.balance() == 300
    assert b",".join(canonical(msgspec.convert(one, BatchOutcome)) for one in reply.data) in reply.body


def test_what_is_wrong_with_one_is_told_in_its_place() -> None:
    desk = Desk()
    items = [
        desk.item(),
        7,
        {},
        desk.item(idempotency_key=None),
        desk.item(idempotency_key="é"),
        desk.item(idempotency_key="x" * 256),
        desk.item(amount="1.001"),
        desk.item(amount="0"),
        desk.item(source="nobody"),
        desk.item(source=UNKNOWN),
        desk.item(source=desk.one),
        desk.item(description="x" * 256),
        desk.item(metadata={"a": "\0"}),
        desk.item(metadata=json.loads("[" * 33 + "]" * 33)),
        desk.item(amount="10000000000000.01"),
        desk.item(effective_at="2999-01-01T00:00:00Z"),
        desk.item(),
    ]
    reply = desk.post(items)
    assert words(reply) == [
        "posted",
        "invalid_request",
        "missing_fields",
        "missing_fields",
        "invalid_idempotency_key",
        "invalid_idempotency_key",
        "invalid_amount_format",
        "negative_amount",
        "invalid_uuid_format",
        "account_not_found",
        "invalid_request",
        "invalid_request",
        "invalid_request",
        "invalid_request",
        "amount_exceeds_limit",
        "invalid_datetime_format",
        "posted",
    ]
    assert desk.balance() == 200


def test_an_atomic_batch_is_all_or_nothing() -> None:
    desk = Desk()
    good = [desk.item(amount="5.00"), desk.item(desk.one, desk.two, "2.00")]
    for bad, reason, status in (
        (desk.item(desk.one, desk.two, "100.00"), "insufficient_funds", 422),
        (desk.item(amount="x"), "invalid_amount_format", 400),
        (desk.item(source=UNKNOWN), "account_not_found", 404),
    ):
        reply = desk.post([*good, bad, desk.item()], atomic=True)
        assert reply.refusal == (status, reason)
        assert reply.error["details"]["index"] == 2
        assert desk.balance() == 0
    assert words(desk.post(good, atomic=True)) == ["posted"] * 2
    assert words(desk.post(good, atomic=True)) == ["replayed"] * 2
    for items in ([good[0], desk.item()], [desk.item(), good[0]]):
        reply = desk.post(items, atomic=True)
        assert reply.refusal == (409, "duplicate_transaction")
        assert reply.error["details"]["index"] == 1
    twin = desk.item()
    assert desk.post([twin, twin], atomic=True).refusal == (409, "duplicate_transaction")
    assert desk.balance() == 300


def test_a_key_names_one_transfer() -> None:
    desk = Desk()
    item = desk.item()
    reply = desk.post([item, item | {"amount": "2.00"}, item | {"amount": 1}])
    assert words(reply) == ["posted", "duplicate_transaction", "replayed"]
    assert reply.data[1]["error"]["details"] == {"transfer_id": reply.data[0]["transfer"]["id"]}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "missing_fields"),
        ({"transfers": None}, "missing_fields"),
        ({"transfers": []}, "invalid_request"),
        ({"transfers": {}}, "invalid_request"),
        ({"transfers": [1] * 8_001}, "invalid_request"),
        ({"transfers": [1] * 1_001, "atomic": True}, "invalid_request"),
        ({"transfers": [1], "atomic": "yes"}, "invalid_request"),
        ([], "invalid_request"),
    ],
)
def test_a_batch_must_be_one(body: object, reason: str) -> None:
    reply = Desk().server.ask("POST", "/api/transfers/batch", body, token="admin-token")
    assert reply.refusal == (400, reason)


@pytest.mark.parametrize(
    "raw", [b"{", b'{"transfers":' + b"[" * 500_000, b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b',"transfers":[1]}']
)
def test_what_cannot_be_read_is_refused(raw: bytes) -> None:
    reply = Desk().server.ask("POST", "/api/transfers/batch", raw=raw, token="admin-token")
    assert reply.refusal == (400, "invalid_request")


def test_half_of_a_pair_is_no_text() -> None:
    desk = Desk()
    reply = desk.post([desk.item(), desk.item(metadata={"a\ud800": 1})])
    assert reply.refusal == (400, "invalid_request")
    assert reply.error["details"]["field"] == "transfers"
    assert desk.balance() == 0


def test_only_admins_post_batches() -> None:
    desk = Desk()
    for token in (desk.server.token, desk.server.backend.log_in("user"), desk.server.backend.log_in("support")):
        assert desk.post("not looked at", token=token).refusal == (403, "insufficient_permissions")


def test_a_batch_may_be_longer_than_other_bodies() -> None:
    desk = Desk()
    padding = " " * (3 << 20)
    raw = json.dumps({"transfers": [desk.item()]}).encode() + padding.encode()
    assert words(desk.server.ask("POST", "/api/transfers/batch", raw=raw, token="admin-token")) == ["posted"]
    connection = desk.server.connect()
    announced = {"Content-Length": str((16 << 20) + 1), "Expect": "100-continue"}
    connection.send(desk.server.request("POST", "/api/transfers/batch", None, announced, token="admin-token"))
    (reply,) = connection.replies()
    assert reply.refusal == (413, "payload_too_large")


def test_thousands_are_posted_in_slices_and_told_in_order() -> None:
    desk = Desk()
    items = [desk.item(metadata={"n": number}) if number % 7 else {"bad": number} for number in range(8_000)]
    reply = desk.post(items)
    for number, told in enumerate(reply.data):
        if number % 7:
            assert told["transfer"]["metadata"] == {"n": number}
        else:
            assert told["error"]["reason"] == "missing_fields"
    assert desk.balance() == 100 * sum(1 for number in range(8_000) if number % 7)


def test_a_transfer_is_no_longer_than_it_may_be_alone() -> None:
    desk = Desk()
    items = [desk.item(), desk.item(metadata={"x": "y" * (1 << 20)}), desk.item(padding="y" * (1 << 19))]
    reply = desk.post(items)
    assert words(reply) == ["posted", "payload_too_large", "posted"]
    assert reply.data[1]["error"]["details"] == {"limit": 1 << 20}
    again = desk.post([desk.item(), items[1]], atomic=True)
    assert again.refusal == (413, "payload_too_large")
    assert again.error["details"]["index"] == 1
    assert desk.balance() == 200


@pytest.mark.parametrize(("atomic", "stretches"), [(False, 1), (True, 2)])  # read, and if atomic, told
def test_the_more_legs_there_are_the_fewer_transfers_make_a_turn(atomic: bool, stretches: int) -> None:
    desk = Desk()
    pauses: list[None] = []

    class Paused(MemoryBackend):
        async def pause(self) -> None:
            pauses.append(None)

    desk.server.backend.__class__ = Paused
    legs = [{"from": WORLD, "to": desk.one, "amount": "1.00"}] * 100
    reply = desk.post([{"idempotency_key": f"long {number}", "legs": legs} for number in range(60)], atomic=atomic)
    assert words(reply) == ["posted"] * 60
    assert [one["transfer"]["seq"] for one in reply.data] == list(range(1, 61))
    assert desk.balance() == 60 * 100 * 100
    assert len(pauses) == 12 * stretches
    pauses.clear()
    assert words(desk.post([desk.item() for _ in range(512)], atomic=atomic)) == ["posted"] * 512
    assert len(pauses) == 2 * stretches


def test_an_outage_is_told_of_each_transfer_or_of_the_whole() -> None:
    desk = Desk()
    desk.server.backend.trouble = unavailable()
    reply = desk.post([desk.item(), {}])
    assert words(reply) == ["service_unavailable", "missing_fields"]
    assert reply.data[0]["error"]["details"]["outcome"] == "not_done"
    assert desk.post([desk.item()], atomic=True).refusal == (503, "service_unavailable")


def test_what_is_in_doubt_is_to_be_sent_again() -> None:
    desk = Desk()
    decided = MemoryBackend.submit_bundle

    class Doubtful(MemoryBackend):
        def submit_bundle(self, commands: Any, **how: bool) -> Any:
            return decided(self, commands, **how).addCallback(lambda told: [told[0], unavailable("unknown")])

    desk.server.backend.__class__ = Doubtful
    reply = desk.post([desk.item(), desk.item()])
    assert reply.refusal == (503, "service_unavailable")
    assert reply.error["details"]["outcome"] == "unknown"


def test_an_atomic_batch_has_ten_thousand_legs_at_most() -> None:
    desk = Desk()
    legs = [{"from": WORLD, "to": desk.one, "amount": "0.01"}] * 100
    items = [desk.item() | {"legs": legs, "from": None, "to": None, "amount": None} for _ in range(101)]
    assert desk.post(items, atomic=True).refusal == (400, "invalid_request")
    assert words(desk.post(items[:100], atomic=True)) == ["posted"] * 100


def test_what_breaks_is_told_without_its_inside() -> None:
    desk = Desk()
    desk.server.backend.trouble = None
    broken = MemoryBackend.submit_bundle

    class Broken(MemoryBackend):
        def submit_bundle(self, commands: Any, **how: bool) -> Any:
            return broken(self, commands, **how).addCallback(lambda _: [ZeroDivisionError("secret")])

    desk.server.backend.__class__ = Broken
    reply = desk.post([desk.item()])
    assert words(reply) == ["internal_server_error"]
    assert b"secret" not in reply.body


@examples(60)
@given(st.lists(st.recursive(st.none() | st.booleans() | st.text() | st.floats(), lambda inner: st.lists(inner))))
def test_no_batch_is_answered_500(items: list[Any]) -> None:
    reply = Desk().post(items)
    assert reply.status in (200, 400)
    if reply.status == 200:
        assert set(words(reply)) <= {"invalid_request", "missing_fields"}

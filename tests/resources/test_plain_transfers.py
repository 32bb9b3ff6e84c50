"""The short way to read a batch tells nothing else than the long one."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.accounts import Owner
from ledger.domain.errors import Refused
from ledger.domain.game_users import ASSET as GAMES_ASSET
from ledger.domain.policy import Caller
from ledger.resources import transfer_batch, transfer_forms
from ledger.resources.reading import Reader
from ledger.resources.transfer_batch import BatchedTransfer
from ledger.resources.transfer_forms import command_of
from tests.strategies import examples

ACCOUNTS = [f"01900000-0000-7000-8000-00000000000{digit}" for digit in range(5)]
ASSETS = ("USD/2", "USD/2", "JPY/0", GAMES_ASSET, "KWD/3")
OWNERS = {one: Owner(one, None, asset, False) for one, asset in zip(ACCOUNTS, ASSETS, strict=True)}
CONFIG: Any = SimpleNamespace(max_amount=10**15)
ADMIN = Caller(kind="user", user_id="01900000-0000-7000-8000-0000000000aa", role="admin")
USER = Caller(kind="user", user_id="01900000-0000-7000-8000-0000000000bb", role="user")

accounts = st.sampled_from([*ACCOUNTS, ACCOUNTS[0].upper(), "0" * 36, "", " ", "é"]) | st.none() | st.integers()
written = st.sampled_from(['"1.00"', "1.00", "0.01", "5", '"0.5"', "0"]) | (
    st.from_regex(r"-?(0|[1-9][0-9]{0,19})(\.[0-9]{1,20})?(e[0-9])?", fullmatch=True).flatmap(
        lambda number: st.sampled_from([number, f'"{number}"'])
    )
    | st.sampled_from(["null", '" 1"', '"\\u0031"', '"01"', '"1."', '".1"', "[]"])
)
texts = st.sampled_from(["plain", "", "x" * 256, "Zoë", "\0", "\ud800", "a\\b", '"']) | st.text(max_size=9)
DEEP = "[" * 30 + "]" * 30  # two deeper, it is as deep as may be
OTHERS: dict[str, st.SearchStrategy[Any]] = {
    "description": texts | st.none(),
    "metadata": st.sampled_from(
        [None, {}, {"a": [1]}, {"a": json.loads(DEEP)}, {"a": [json.loads(DEEP)]}, {"a": "x" * 16_384}]
    )
    | st.dictionaries(texts, texts, max_size=2),
    "expect": st.none() | st.fixed_dictionaries({"account_id": accounts, "version": st.integers(-1, 3)}),
    "effective_at": st.sampled_from([None, "2026-05-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "never"]),
    "legs": st.none() | st.just([]),
    "idempotency_key": st.sampled_from(["k", "k k", "", " ", "é", "k\n", "k\x7f", "k\\", None, 5, "x" * 256]),
    "more": texts,
}
others = st.sampled_from(sorted(OTHERS)).flatmap(lambda name: OTHERS[name].map(lambda value: {name: value}))


@st.composite
def items(draw: st.DrawFn) -> bytes:
    """A transfer as somebody might write it: well but for a part or two."""
    odd = draw(st.sets(st.sampled_from(["ends", "amount", "others", "none"]), min_size=1, max_size=2))
    ends = st.tuples(accounts, accounts) if "ends" in odd else st.permutations(ACCOUNTS).map(lambda some: some[:2])
    fields: dict[str, Any] = {"idempotency_key": "k"} | dict(zip(("from", "to"), draw(ends), strict=True))
    if "others" in odd:
        fields |= draw(others)
    amount = draw(written if "amount" in odd else st.sampled_from(['"1.00"', "1.00", "5"]))
    return (json.dumps(fields)[:-1] + f', "amount": {amount}}}').encode()


def read_alone(raw: bytes) -> BatchedTransfer | Refused:
    """What the reader of single requests makes of it."""
    try:
        return Reader(BatchedTransfer).body(raw)
    except Refused as refused:
        return refused


def same(one: BatchedTransfer | Refused, other: BatchedTransfer | Refused) -> bool:
    """Whether two readings are the same."""
    if isinstance(one, Refused) or isinstance(other, Refused):
        assert isinstance(one, Refused)
        assert isinstance(other, Refused)
        return (one.reason, one.message, one.details) == (other.reason, other.message, other.details)
    return msgspec.structs.asdict(one) == msgspec.structs.asdict(other)


@given(st.lists(items(), min_size=1, max_size=4))
@examples(400)
def test_requests_are_read_together_as_they_are_alone(raws: list[bytes]) -> None:
    together = transfer_batch._ITEMS.bodies([msgspec.Raw(raw) for raw in raws])
    alone = [read_alone(raw) for raw in raws]
    assert all(map(same, together, alone))
    assert len(together) == len(alone)


@given(items())
@examples(600)
def test_what_is_plain_comes_to_what_it_does_in_full(raw: bytes) -> None:
    request = read_alone(raw)
    if isinstance(request, Refused):
        return
    plain = transfer_forms._plain(request, OWNERS)
    if plain is not None:
        leg, asset = plain
        assert transfer_forms._Meant((leg,), (asset,)) == transfer_forms._in_full(request, OWNERS, ADMIN)


def test_most_transfers_are_plain_but_only_for_admins() -> None:
    for amount in ("1.00", 1, "0.01", 92233720368.5):
        item = {"idempotency_key": "k", "from": ACCOUNTS[0], "to": ACCOUNTS[1], "amount": amount}
        request = Reader(BatchedTransfer).body(json.dumps(item).encode())
        plain = transfer_forms._plain(request, OWNERS)
        assert plain is not None
        assert command_of(request, OWNERS, ADMIN, "id", None, "k", CONFIG).legs == plain[:1]
        with pytest.raises(Refused) as refused:
            command_of(request, OWNERS, USER, "id", None, "k", CONFIG)
        assert refused.value.details == {"field": "from"}


def test_metadata_is_measured_for_admins_too() -> None:
    item = {
        "idempotency_key": "k",
        "from": ACCOUNTS[0],
        "to": ACCOUNTS[1],
        "amount": 1,
        "metadata": {"a": "x" * 16_384},
    }
    request = Reader(BatchedTransfer).body(json.dumps(item).encode())
    with pytest.raises(Refused) as refused:
        command_of(request, OWNERS, ADMIN, "id", None, "k", CONFIG)
    assert refused.value.details["field"] == "metadata"

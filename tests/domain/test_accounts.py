"""What an account allows."""

from __future__ import annotations

import pytest

from ledger.domain.accounts import ACCOUNT_STATUSES, Account, world_id
from ledger.domain.errors import Refused
from ledger.domain.money import MAX_BALANCE


def account(**state: object) -> Account:
    """An account in a given state."""
    fields: dict[str, object] = {
        "id": "a",
        "user_id": None,
        "asset": "USD/2",
        "type": "CHECKING",
        "status": "ACTIVE",
        "balance": 0,
        "held": 0,
        "credit_limit": 0,
        "version": 0,
    }
    return Account(**(fields | state))  # type: ignore[arg-type]


@pytest.mark.parametrize("status", [status for status in ACCOUNT_STATUSES if status != "ACTIVE"])
def test_only_active_accounts_move_money(status: str) -> None:
    with pytest.raises(Refused) as refused:
        account(status=status).require_active()
    expected = {"FROZEN": "account_frozen", "SUSPENDED": "account_suspended"}.get(status, "account_inactive")
    assert refused.value.reason == expected


def test_active_accounts_do() -> None:
    account().require_active()
    assert account().status == "ACTIVE"


@pytest.mark.parametrize(
    ("state", "available"),
    [({"balance": 500}, 500), ({"balance": 500, "held": 200}, 300), ({"balance": -100, "credit_limit": 250}, 150)],
)
def test_what_is_available_may_be_spent_to_the_last(state: dict[str, object], available: int) -> None:
    assert account(**state).available == available
    account(**state).require_available(available)
    with pytest.raises(Refused) as refused:
        account(**state).require_available(available + 1)
    assert refused.value.reason == "insufficient_funds"
    assert refused.value.details == {
        "account_id": "a",
        "available": f"{available / 100:.2f}",
        "requested": f"{(available + 1) / 100:.2f}",
    }


def test_an_account_has_room_up_to_what_is_kept() -> None:
    account(balance=MAX_BALANCE - 1).require_room(1)
    with pytest.raises(Refused) as refused:
        account(balance=MAX_BALANCE).require_room(1)
    assert refused.value.reason == "amount_exceeds_limit"


def test_the_world_has_no_bounds() -> None:
    world = account(type="WORLD", balance=-(2**70))
    world.require_available(2**70)
    account(type="WORLD", balance=MAX_BALANCE).require_room(2**70)
    assert world.is_system
    assert not account().is_system


def test_there_is_one_world_for_each_asset_for_ever() -> None:
    assert world_id("USD/2") == "79bdb6e9-a70b-5c3c-a23f-ee9154e79c45"
    assert len({world_id(asset) for asset in ("USD/2", "USD/5", "EUR/2")}) == 3

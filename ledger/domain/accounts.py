"""Accounts: who owns what, in which asset, and what may be spent of it."""

from functools import lru_cache
from typing import Final
from uuid import NAMESPACE_OID, uuid5

import msgspec

from ledger.domain.errors import Refused
from ledger.domain.money import MAX_BALANCE, asset_named, format_amount

WORLD_TYPE: Final = "WORLD"
ACCOUNT_TYPES: Final = ("CHECKING", "SAVINGS", "CREDIT", "INVESTMENT")
ACCOUNT_STATUSES: Final = ("ACTIVE", "FROZEN", "SUSPENDED", "INACTIVE", "CLOSED")

_REFUSAL_BY_STATUS: Final = {"FROZEN": "account_frozen", "SUSPENDED": "account_suspended"}


class Account(msgspec.Struct):
    """One account as a batch sees it: what is fixed at opening, and the state that the journal has brought it to."""

    id: str
    user_id: str | None
    asset: str
    type: str
    status: str
    balance: int
    held: int
    credit_limit: int
    version: int

    @property
    def is_system(self) -> bool:
        """Whether this is the outside world of its asset, which has no limit and is never shown."""
        return self.type == WORLD_TYPE

    @property
    def available(self) -> int:
        """What may be spent now."""
        return self.balance - self.held + self.credit_limit

    def require_active(self) -> None:
        """Refuse anything that moves money while the account is not ACTIVE."""
        if self.status != "ACTIVE":
            raise Refused(_REFUSAL_BY_STATUS.get(self.status, "account_inactive"), account_id=self.id)

    def require_available(self, amount: int) -> None:
        """Refuse to spend more than is available."""
        if amount > self.balance - self.held + self.credit_limit and self.type != WORLD_TYPE:
            scale = asset_named(self.asset).scale
            raise Refused(
                "insufficient_funds",
                account_id=self.id,
                available=format_amount(self.available, scale),
                requested=format_amount(amount, scale),
            )

    def require_room(self, amount: int) -> None:
        """Refuse a credit that would leave the range kept for balances."""
        if self.balance + amount > MAX_BALANCE and self.type != WORLD_TYPE:
            raise Refused("amount_exceeds_limit", account_id=self.id)


class Owner(msgspec.Struct, frozen=True):
    """What never changes of an account: its owner and its asset."""

    account_id: str
    user_id: str | None
    asset: str
    is_system: bool


@lru_cache(maxsize=512)
def world_id(asset: str) -> str:
    """Return the id of the system account that stands for everything outside, one per asset."""
    return str(uuid5(NAMESPACE_OID, f"ledger/world/{asset}"))

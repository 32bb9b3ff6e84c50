"""What a hold is, as it is kept and as it is told."""

from typing import Literal

import msgspec

from ledger.domain.accounts import Account
from ledger.domain.money import asset_named, format_amount

HoldStatus = Literal["open", "captured", "voided", "expired"]


class Hold(msgspec.Struct, array_like=True, frozen=True):
    """A hold as it was written last; that its time is up may not have been written yet."""

    id: str
    account_id: str
    amount: int
    captured: int
    status: HoldStatus
    expires_at: str | None
    created_at: str
    description: str | None

    def status_at(self, instant: str) -> HoldStatus:
        """Return what it is at an instant: it counts up to `expires_at`, and from there on no more."""
        is_over = self.expires_at is not None and self.expires_at <= instant
        return "expired" if self.status == "open" and is_over else self.status


class Due(msgspec.Struct, array_like=True, frozen=True):
    """An open hold of an account whose time may be up."""

    id: str
    amount: int
    expires_at: str


class Counted(msgspec.Struct, array_like=True, frozen=True):
    """How many open holds an account has, as far as that is counted."""

    id: str
    many: int


class AccountWithHolds(Account):
    """An account with those of its open holds that may have to end with the batch at hand."""

    due: tuple[Due, ...] = ()


class HoldTold(msgspec.Struct, frozen=True):
    """What is told of a hold; `transfer_id` names what captured it."""

    id: str
    account_id: str
    amount: str
    captured: str
    status: HoldStatus
    expires_at: str | None
    created_at: str
    description: str | None
    transfer_id: str | None


def told(hold: Hold, asset: str, transfer_id: str | None = None) -> HoldTold:
    """Return what is told of a hold in an asset."""
    scale = asset_named(asset).scale
    return HoldTold(
        id=hold.id,
        account_id=hold.account_id,
        amount=format_amount(hold.amount, scale),
        captured=format_amount(hold.captured, scale),
        status=hold.status,
        expires_at=hold.expires_at,
        created_at=hold.created_at,
        description=hold.description,
        transfer_id=transfer_id,
    )

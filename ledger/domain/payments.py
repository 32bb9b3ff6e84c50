"""Payments: what one is, how it is told, and the rules that it is processed by."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from ledger.domain.accounts import Account
from ledger.domain.errors import Refused
from ledger.domain.money import MAX_AMOUNT, asset_named, format_amount

Direction = Literal["CREDIT", "DEBIT"]
PaymentType = Literal["TRANSFER", "PAYMENT", "DEPOSIT", "WITHDRAWAL"]
Status = Literal["PENDING", "COMPLETED", "FAILED", "CANCELLED"]
ShownStatus = Literal["PENDING", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED"]

DIRECTIONS: Final[tuple[Direction, ...]] = ("CREDIT", "DEBIT")
PAYMENT_TYPES: Final[tuple[PaymentType, ...]] = ("TRANSFER", "PAYMENT", "DEPOSIT", "WITHDRAWAL")
STATUSES: Final[tuple[ShownStatus, ...]] = ("PENDING", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED")
LONGEST_DESCRIPTION: Final = 255

_AN_ID: Final = Meta(extra_json_schema={"format": "uuid"})


class Nature(msgspec.Struct, frozen=True, kw_only=True):
    """What never changes of a payment, and is known before it is made."""

    user_id: str
    account_id: str
    asset: str
    amount: int
    direction: Direction
    payment_type: PaymentType
    description: str


class Payment(Nature, frozen=True, kw_only=True):
    """A payment; the status is PROCESSING where a live job holds one that is pending."""

    id: str
    inserted_at: str
    updated_at: str
    status: ShownStatus = "PENDING"
    posted_at: str | None = None
    failure_reason: str | None = None
    transfer_id: str | None = None


class DraftTold(msgspec.Struct, frozen=True, kw_only=True):
    """A payment that is not made yet, as it is told."""

    user_id: Annotated[str, _AN_ID]
    user_bank_account_id: Annotated[str, _AN_ID]
    amount: str
    currency: str
    direction: Direction
    payment_type: PaymentType
    description: str


class PaymentTold(DraftTold, frozen=True, kw_only=True):
    """A payment as it is told; `transfer_id` names the record that moved the money."""

    id: Annotated[str, _AN_ID]
    status: ShownStatus
    posted_at: str | None
    failure_reason: str | None
    transfer_id: Annotated[str, _AN_ID] | None
    inserted_at: str
    updated_at: str


class PaymentRules(msgspec.Struct, frozen=True):
    """What payments are held to; limits are in whole units of whichever currency the account is in."""

    limit: Decimal = Decimal(10_000)  # of one payment
    daily: Mapping[str, Decimal] = MappingProxyType(
        {"CHECKING": Decimal(1_000), "SAVINGS": Decimal(500), "CREDIT": Decimal(2_000), "INVESTMENT": Decimal(5_000)}
    )
    window: int = 300  # seconds within which the same payment is taken for a duplicate
    most: int = MAX_AMOUNT  # of any operation, in minor units


class Twin(msgspec.Struct, array_like=True, frozen=True):
    """A completed payment that is the same as another, which `id` names."""

    id: str
    payment_id: str
    posted_at: str


class Standing(msgspec.Struct, frozen=True):
    """What a payment is judged on: its account, what that has paid in the day, the last payment alike, and when."""

    account: Account
    spent: int
    twin: Twin | None
    instant: str


def draft_told(nature: Nature) -> DraftTold:
    """Return what is told of a payment that is not made yet."""
    return DraftTold(**_nature_told(nature))


def payment_told(payment: Payment) -> PaymentTold:
    """Return what is told of a payment."""
    return PaymentTold(
        **_nature_told(payment),
        id=payment.id,
        status=payment.status,
        posted_at=payment.posted_at,
        failure_reason=payment.failure_reason,
        transfer_id=payment.transfer_id,
        inserted_at=payment.inserted_at,
        updated_at=payment.updated_at,
    )


def _nature_told(nature: Nature) -> dict[str, Any]:
    asset = asset_named(nature.asset)
    return {
        "user_id": nature.user_id,
        "user_bank_account_id": nature.account_id,
        "amount": format_amount(nature.amount, asset.scale),
        "currency": asset.code,
        "direction": nature.direction,
        "payment_type": nature.payment_type,
        "description": nature.description,
    }


def day_of(instant: str) -> str:
    """Return the UTC day of an instant in the form that records carry."""
    return instant[:10]


def require_within_limit(rules: PaymentRules, payment: Nature) -> None:
    """Refuse a payment above the limit of one payment."""
    scale = asset_named(payment.asset).scale
    limit = min(_minor(rules.limit, scale), rules.most)
    if payment.amount > limit:
        raise Refused("amount_exceeds_limit", field="amount", limit=format_amount(limit, scale))


def require_processable(rules: PaymentRules, payment: Nature, standing: Standing) -> None:
    """Refuse what breaks a rule, the first one in their order: account, limit, funds, daily limit, duplicate."""
    standing.account.require_active()
    require_within_limit(rules, payment)
    if payment.direction == "DEBIT":
        standing.account.require_available(payment.amount)
        _require_within_day(rules, payment, standing)
    _require_no_duplicate(rules, standing)


def is_duplicate(rules: PaymentRules, twin: Twin | None, instant: str) -> bool:
    """Whether the last payment alike was completed so recently that this is taken for the same one."""
    if twin is None:
        return False
    age = datetime.fromisoformat(instant) - datetime.fromisoformat(twin.posted_at)
    return age < timedelta(seconds=rules.window)


def _require_within_day(rules: PaymentRules, payment: Nature, standing: Standing) -> None:
    daily = rules.daily.get(standing.account.type)
    if daily is None:
        return
    scale = asset_named(payment.asset).scale
    limit = _minor(daily, scale)
    if standing.spent + payment.amount > limit:
        raise Refused(
            "daily_limit_exceeded",
            account_id=payment.account_id,
            limit=format_amount(limit, scale),
            spent=format_amount(standing.spent, scale),
            requested=format_amount(payment.amount, scale),
        )


def _require_no_duplicate(rules: PaymentRules, standing: Standing) -> None:
    twin = standing.twin
    if twin is not None and is_duplicate(rules, twin, standing.instant):
        raise Refused(
            "duplicate_transaction",
            "The same payment was completed a short time ago",
            payment_id=twin.payment_id,
            posted_at=twin.posted_at,
        )


def _minor(units: Decimal, scale: int) -> int:
    return int(units.scaleb(scale))

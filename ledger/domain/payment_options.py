"""The options of payments: what each is held to, as the table of options reads them."""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from ledger.domain.accounts import ACCOUNT_TYPES
from ledger.domain.payments import PaymentRules

_LONGEST_WINDOW: Final = 86_400


def _units(text: str) -> Decimal:
    if not re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,9})?", text, re.ASCII):
        raise ValueError("must be a plain amount, such as 10000.00")
    return Decimal(text)


def _daily(text: str) -> tuple[str, Decimal]:
    name, _, amount = text.partition("=")
    if name not in ACCOUNT_TYPES:
        raise ValueError(f"must be TYPE=AMOUNT, TYPE one of {', '.join(ACCOUNT_TYPES)}")
    return name, _units(amount)


def _seconds(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) or int(text) > _LONGEST_WINDOW:
        raise ValueError(f"must be a whole number of seconds up to {_LONGEST_WINDOW}")
    return int(text)


# name, field, how it is read, default, help, whether it may be repeated
PAYMENT_OPTIONS: Final[tuple[tuple[str, str, Callable[[str], Any], str | None, str, bool], ...]] = (
    ("payment-limit", "payment_limit", _units, "10000.00", "the largest payment, in units of its currency", False),
    (
        "daily-limit",
        "daily_limits",
        _daily,
        None,
        "what an account may pay in a day (UTC): TYPE=AMOUNT; may be repeated",
        True,
    ),
    (
        "duplicate-window",
        "duplicate_window",
        _seconds,
        "300",
        "seconds within which a payment is taken for a repetition of one that is the same",
        False,
    ),
)


def rules_of(limit: Decimal, daily: tuple[tuple[str, Decimal], ...], window: int, most: int) -> PaymentRules:
    """Return the rules that options give; types of accounts that are not told of keep their limits."""
    return PaymentRules(limit, {**PaymentRules().daily, **dict(daily)}, window, most)

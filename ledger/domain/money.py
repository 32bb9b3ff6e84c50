"""Money: assets, minor units, and the text that stands for them; never a float."""

import re
from functools import lru_cache
from typing import Final

import iso4217
import msgspec

from ledger.domain.errors import Refused

DEFAULT_MAX_AMOUNT: Final = 10**15
MAX_AMOUNT: Final = 2**63 - 1  # what a bigint holds
MAX_BALANCE: Final = 2**63 - 1  # what an ordinary account may hold, either side of zero

_PLAIN = re.compile(r"-?[0-9]+(?:\.[0-9]+)?", re.ASCII)
_MAX_TEXT = 64


class Asset(msgspec.Struct, frozen=True):
    """A currency together with the number of decimals that the ledger keeps of it."""

    code: str
    scale: int

    @property
    def name(self) -> str:
        """The form kept with accounts and in the journal, such as `USD/2`."""
        return f"{self.code}/{self.scale}"


@lru_cache(maxsize=512)
def asset_of(currency: str) -> Asset:
    """Return the ISO 4217 asset of a currency code, or refuse with `invalid_currency_format`."""
    try:
        exponent = iso4217.Currency(currency).exponent
    except ValueError:
        exponent = None
    if exponent is None:
        raise Refused("invalid_currency_format", field="currency")
    return Asset(currency, exponent)


@lru_cache(maxsize=512)
def asset_named(name: str) -> Asset:
    """Return the asset that a kept name such as `USD/2` stands for."""
    code, scale = name.split("/")
    return Asset(code, int(scale))


def parse_amount(text: str, scale: int, max_amount: int, field: str = "amount") -> int:
    """Return the minor units that a plain decimal stands for exactly, or refuse it with the contract's reason."""
    if len(text) > _MAX_TEXT or not _PLAIN.fullmatch(text):
        raise Refused("invalid_amount_format", field=field)
    whole, _, fraction = text.partition(".")
    if len(fraction) > scale:
        raise Refused("invalid_amount_format", field=field, scale=scale)
    minor = int(whole + fraction.ljust(scale, "0"))
    if minor <= 0:
        raise Refused("negative_amount", field=field)
    if minor > max_amount:
        raise Refused("amount_exceeds_limit", field=field, limit=format_amount(max_amount, scale))
    return minor


def format_amount(minor: int, scale: int) -> str:
    """Return minor units as a decimal text with exactly the scale's decimals."""
    digits = str(minor)
    if minor > 0 and len(digits) > scale > 0:  # as most are
        return f"{digits[:-scale]}.{digits[-scale:]}"
    if scale == 0:
        return digits
    if minor < 0:
        return "-" + format_amount(-minor, scale)
    if len(digits) <= scale:
        digits = digits.zfill(scale + 1)
    return f"{digits[:-scale]}.{digits[-scale:]}"

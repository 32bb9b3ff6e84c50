"""Legs as most are written: between two accounts, an amount of few digits; read at a third of the cost."""

from typing import Final

from ledger.domain.accounts import Owner
from ledger.domain.commands import Leg
from ledger.domain.game_users import ASSET as GAMES_ASSET
from ledger.domain.money import MAX_AMOUNT, asset_named

_LONGEST: Final = 30


def plain_leg(giver: Owner, taker: Owner, amount: bytes) -> Leg | None:
    """Return the leg that moves an amount, as JSON has it, or None where something may be wrong with it."""
    asset = giver.asset
    if giver is taker or asset == GAMES_ASSET or taker.asset == GAMES_ASSET or len(amount) > _LONGEST:
        return None
    whole, point, fraction = amount.strip(b'"').partition(b".")
    digits, missing = whole + fraction, asset_named(asset).scale - len(fraction)
    if not digits.isdigit() or not whole or (point and not fraction) or missing < 0:
        return None
    minor = int(digits) * 10**missing if missing else int(digits)
    return Leg(giver.account_id, taker.account_id, minor) if 0 < minor <= MAX_AMOUNT else None

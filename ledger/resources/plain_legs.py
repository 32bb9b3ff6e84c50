"""Legs as most are written: between two accounts, an amount of few digits; read at a third of the cost."""

import re
from typing import Final

from ledger.domain.accounts import Owner
from ledger.domain.commands import Leg
from ledger.domain.game_users import ASSET as GAMES_ASSET
from ledger.domain.money import MAX_AMOUNT, asset_named

_is_plain_amount: Final = re.compile(rb'("?)([0-9]{1,15})(?:\.([0-9]{1,15}))?\1').fullmatch


def plain_leg(giver: Owner, taker: Owner, amount: bytes) -> Leg | None:
    """Return the leg that moves an amount, as JSON has it, or None where something may be wrong with it."""
    read = _is_plain_amount(amount)
    if read is None or giver is taker or GAMES_ASSET in (giver.asset, taker.asset):
        return None
    fraction = read[3] or b""
    missing = asset_named(giver.asset).scale - len(fraction)
    minor = int(read[2] + fraction) * 10**missing if missing >= 0 else 0
    return Leg(giver.account_id, taker.account_id, minor) if 0 < minor <= MAX_AMOUNT else None

"""What most transfers of a batch are: one leg between known accounts, nothing asked; read at a third of the cost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ledger.domain.accounts import Owner
from ledger.domain.commands import Leg
from ledger.domain.game_users import ASSET as GAMES_ASSET
from ledger.domain.money import MAX_AMOUNT, asset_named
from ledger.domain.policy import Caller
from ledger.domain.transfers import Transfer
from ledger.resources.backend import Config
from ledger.resources.transfer_forms import TransferRequest

_is_plain_amount: Final = re.compile(rb'("?)([0-9]{1,15})(?:\.([0-9]{1,15}))?\1').fullmatch


def plain_command(
    request: TransferRequest,
    owners: Mapping[str, Owner],
    caller: Caller,
    record_id: str,
    scope: str | None,
    key: str | None,
    config: Config,
) -> Transfer | None:
    """Return what `command_of` does, or None where there is more to be looked at: in what is asked, or may be wrong.

    Only for admins, who may take from any account and see it.
    """
    giver, taker = owners.get(request.source or ""), owners.get(request.target or "")
    amount = _is_plain_amount(bytes(request.amount))
    if giver is None or taker is None or giver is taker or amount is None or not caller.is_admin:
        return None
    if request.legs or request.expect or request.metadata is not None or request.effective_at:
        return None
    asset = giver.asset
    whole, fraction = amount.group(2, 3)
    missing = asset_named(asset).scale - len(fraction or b"")
    if missing < 0 or GAMES_ASSET in (asset, taker.asset):
        return None
    minor = int(whole + (fraction or b"")) * 10**missing
    if not 0 < minor <= MAX_AMOUNT:
        return None
    return Transfer(
        id=record_id,
        scope=scope,
        key=key,
        description=request.description,
        legs=(Leg(giver.account_id, taker.account_id, minor),),
        assets=(asset,),
        most=config.max_amount,
    )

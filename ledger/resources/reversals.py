"""Reversals: a transfer is given back, in part or whole, by those whom it was given to."""

from __future__ import annotations

import msgspec

from ledger.domain.commands import Leg
from ledger.domain.errors import Refused
from ledger.domain.money import MAX_AMOUNT, asset_named, format_amount, parse_amount
from ledger.domain.policy import Action, Caller, require_account, require_role
from ledger.domain.reversals import Reverse, legs_back
from ledger.domain.transfers import TransferTold
from ledger.resources.backend import Backend
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.resources.posting import post
from ledger.resources.reading import Money, Text, amount_text, identifier, is_given
from ledger.resources.transfer_forms import may_read
from ledger.resources.transfers import require_seen, see


class ReversalRequest(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a transfer is to be given back; left out, all that is left of it."""

    amount: Money = msgspec.field(default_factory=msgspec.Raw)
    description: Text | None = None


class ReversalEndpoints:
    """POST /api/transfers/<id>/reverse."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._funding = Action.BRING_MONEY_IN if backend.config.self_funding else Action.BRING_MONEY_IN_FOR_OTHERS

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare it."""
        return (
            Endpoint(
                "POST",
                "/api/transfers/<id>/reverse",
                self.reverse,
                summary="Give a transfer back, in part or whole",
                policy=Action.MOVE_MONEY,
                body=ReversalRequest,
                answer=TransferTold,
                status=201,
                refuses=(
                    "invalid_request",
                    "invalid_uuid_format",
                    "invalid_amount_format",
                    "insufficient_permissions",
                    "unauthorized_access",
                    "forbidden",
                    "transfer_not_found",
                    "already_processed",
                    "negative_amount",
                    "amount_exceeds_limit",
                    "insufficient_funds",
                    "account_frozen",
                    "account_suspended",
                    "account_inactive",
                    "service_unavailable",
                ),
                idempotent=True,
            ),
        )

    async def reverse(self, caller: Caller, call: Call[ReversalRequest, None]) -> Answer:
        """Book the opposite of a transfer."""
        backend, body = self._backend, call.body
        transfer_id = identifier(call.params["id"], "id")
        text = amount_text(body.amount) if is_given(body.amount) else None
        record = await backend.transfers.find(transfer_id)
        (seen,) = await see(backend, caller, [record])
        require_seen(seen)
        legs = legs_back(record)
        owners = await backend.owners({entry.account for entry in record.entries})
        for leg in legs:
            if not owners[leg.source].is_system:
                require_account(caller, Action.MOVE_MONEY, owners[leg.source])
            elif not caller.is_admin:  # money comes back from outside
                require_role(caller, self._funding)
                require_account(caller, self._funding, owners[leg.target])
        assets = tuple(owners[leg.source].asset for leg in legs)
        command = Reverse(
            id=backend.new_id(),
            scope=caller.scope,
            key=call.key,
            description=body.description,
            legs=legs,
            assets=assets,
            shown=[account_id for account_id, owner in owners.items() if may_read(caller, owner)],
            original=record,
            amount=None if text is None else _amount(text, legs, assets),
        )
        return await post(backend, command, call)


def _amount(text: str, legs: tuple[Leg, ...], assets: tuple[str, ...]) -> int:
    """Return the minor units to give back: of several legs only the whole, for which leg would a part be of?"""
    if len(set(assets)) > 1:
        raise Refused("invalid_request", "These legs are of several assets: leave the amount out", field="amount")
    scale = asset_named(assets[0]).scale
    amount = parse_amount(text, scale, MAX_AMOUNT)
    whole = sum(leg.amount for leg in legs)
    if len(legs) > 1 and amount != whole:
        message = f"Several legs are reversed as a whole: {format_amount(whole, scale)}"
        raise Refused("invalid_request", message, field="amount")
    return amount

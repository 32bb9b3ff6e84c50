"""Holds: money that is set aside, captured, let go, and listed."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from ledger.domain.accounts import Owner, world_id
from ledger.domain.errors import Refused
from ledger.domain.game_users import ASSET as GAMES_ASSET
from ledger.domain.held import HoldStatus, HoldTold, told
from ledger.domain.holds import LONGEST, CaptureHold, OpenHold, VoidHold
from ledger.domain.money import MAX_AMOUNT, asset_named, parse_amount
from ledger.domain.policy import Action, Caller, require_account
from ledger.resources.backend import Backend
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.resources.paging import KeysetMetadata, KeysetPagination, KeysetQuery, id_of, limit_of
from ledger.resources.posting import post
from ledger.resources.reading import Id, Money, Text, amount_text, identifier
from ledger.resources.wallet import OF_ONE, wallet_meant
from ledger.store.holds import KeptHold

_OF_HOLD: Final = (*OF_ONE, "hold_not_found")
_OF_KEY: Final = ("invalid_request", "invalid_idempotency_key", "duplicate_transaction")
_OF_MONEY: Final = ("invalid_amount_format", "negative_amount", "amount_exceeds_limit")
_OF_STATUS: Final = ("account_frozen", "account_suspended", "account_inactive")

_NULL: Final = b"null"

_Seconds = Annotated[int, Meta(ge=1, le=LONGEST)]
_Amount = Annotated[
    msgspec.Raw,
    Meta(
        extra_json_schema={"type": ["string", "number", "null"], "examples": ["50.00"]},
        extra={"reason": "invalid_amount_format"},
        description="What of it is captured; left out, all",
    ),
]


def _all() -> msgspec.Raw:
    return msgspec.Raw(_NULL)


class HoldWanted(msgspec.Struct, frozen=True):
    """An amount to set aside in an account, for some time or until it is captured or let go."""

    account_id: Id
    amount: Money
    expires_in_seconds: _Seconds | None = None
    description: Text | None = None


class CaptureWanted(msgspec.Struct, frozen=True):
    """How much is captured, and which account is paid; left out, it leaves the ledger."""

    amount: _Amount = msgspec.field(default_factory=_all)
    to: Id | None = None


class HoldsQuery(KeysetQuery, frozen=True, kw_only=True):
    """Which holds: of an account, left out the token's or the user's first, and with a status."""

    account_id: Id | None = None
    status: Annotated[HoldStatus, Meta(extra={"reason": "invalid_status"})] | None = None


class HoldEndpoints:
    """GET and POST /api/holds, GET /api/holds/<id>, POST /api/holds/<id>/capture and /void."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare them."""
        return (
            Endpoint(
                "POST",
                "/api/holds",
                self.open,
                summary="Set money of an account aside",
                policy=Action.HOLD_MONEY,
                body=HoldWanted,
                answer=HoldTold,
                status=201,
                refuses=(
                    *OF_ONE,
                    *_OF_KEY,
                    *_OF_MONEY,
                    *_OF_STATUS,
                    "missing_fields",
                    "forbidden",
                    "insufficient_funds",
                ),
                idempotent=True,
            ),
            Endpoint(
                "POST",
                "/api/holds/<id>/capture",
                self.capture,
                summary="Pay what is set aside, and let the rest go",
                policy=Action.HOLD_MONEY,
                body=CaptureWanted,
                answer=HoldTold,
                status=201,
                refuses=(
                    *(*_OF_HOLD, *_OF_KEY, *_OF_MONEY, *_OF_STATUS),
                    *("forbidden", "already_processed", "currency_mismatch"),
                ),
                idempotent=True,
            ),
            Endpoint(
                "POST",
                "/api/holds/<id>/void",
                self.void,
                summary="Let go what is set aside",
                policy=Action.HOLD_MONEY,
                answer=HoldTold,
                refuses=(*_OF_HOLD, *_OF_KEY, "already_processed"),
                idempotent=True,
            ),
            Endpoint(
                "GET",
                "/api/holds/<id>",
                self.read,
                summary="A hold",
                policy=Action.READ_HOLDS,
                answer=HoldTold,
                refuses=_OF_HOLD,
            ),
            Endpoint(
                "GET",
                "/api/holds",
                self.page,
                summary="The holds of an account, newest first",
                policy=Action.READ_HOLDS,
                query=HoldsQuery,
                answer=list[HoldTold],
                refuses=(*OF_ONE, "invalid_request", "invalid_pagination", "invalid_cursor", "invalid_status"),
            ),
        )

    async def open(self, caller: Caller, call: Call[HoldWanted, None]) -> Answer:
        """Take an amount out of what is available, and leave it in the balance."""
        body = call.body
        text = amount_text(body.amount)
        owner = await wallet_meant(self._backend, caller, Action.HOLD_MONEY, body.account_id)
        if owner.is_system or owner.asset == GAMES_ASSET:
            raise Refused("forbidden", "Nothing can be set aside in this account")
        command = OpenHold(
            id=self._backend.new_id(),
            scope=caller.scope,
            key=call.key,
            description=body.description,
            account_id=owner.account_id,
            asset=owner.asset,
            amount=parse_amount(text, asset_named(owner.asset).scale, MAX_AMOUNT),
            expires_in=body.expires_in_seconds,
            most=self._backend.config.max_amount,
        )
        return await post(self._backend, command, call)

    async def capture(self, caller: Caller, call: Call[CaptureWanted, None]) -> Answer:
        """Pay a part of it or all, once; the record of that is the transfer."""
        body = call.body
        text = None if bytes(body.amount) == _NULL else amount_text(body.amount)
        hold, owner = await self._found(caller, Action.HOLD_MONEY, call.params["id"])
        scale = asset_named(owner.asset).scale
        command = CaptureHold(
            **self._ending(caller, call, hold, owner),
            amount=hold.hold.amount if text is None else parse_amount(text, scale, MAX_AMOUNT),
            target=await self._payee(caller, owner, body.to),
        )
        return await post(self._backend, command, call)

    async def void(self, caller: Caller, call: Call[None, None]) -> Answer:
        """Make all of it available again."""
        hold, owner = await self._found(caller, Action.HOLD_MONEY, call.params["id"])
        return await post(self._backend, VoidHold(**self._ending(caller, call, hold, owner)), call)

    def _ending(self, caller: Caller, call: Call[Any, None], hold: KeptHold, owner: Owner) -> dict[str, Any]:
        """Return what both ways to end a hold are told."""
        return {
            "id": self._backend.new_id(),
            "scope": caller.scope,
            "key": call.key,
            "description": hold.hold.description,
            "hold_id": hold.hold.id,
            "account_id": owner.account_id,
            "asset": owner.asset,
        }

    async def read(self, caller: Caller, call: Call[None, None]) -> Answer:
        """Read a hold as it is now: from `expires_at` on it is expired."""
        hold, owner = await self._found(caller, Action.READ_HOLDS, call.params["id"])
        return Answer(told(hold.hold, owner.asset, hold.transfer_id))

    async def page(self, caller: Caller, call: Call[None, HoldsQuery]) -> Answer:
        """Read those after a place; a page may hold fewer than its limit while `has_more` says that others follow."""
        query = call.query
        limit, below = limit_of(query), id_of(query.cursor)
        owner = await wallet_meant(self._backend, caller, Action.READ_HOLDS, query.account_id)
        page = await self._backend.holds.of_account(owner.account_id, query.status, below, limit)
        following = page.following
        pagination = KeysetPagination(limit=limit, has_more=following is not None, next_cursor=following)
        holds = [told(kept.hold, owner.asset, kept.transfer_id) for kept in page.holds]
        return Answer(holds, metadata=KeysetMetadata(pagination))

    async def _found(self, caller: Caller, action: Action, text: str) -> tuple[KeptHold, Owner]:
        """Return a hold and its account, if the caller may do this with it."""
        hold = await self._backend.holds.find(identifier(text, "id"))
        return hold, require_account(caller, action, await self._owner(hold.hold.account_id))

    async def _payee(self, caller: Caller, owner: Owner, named: str | None) -> str:
        """Return the account that a capture pays: the one that is named, else the world."""
        if named is None:
            return world_id(owner.asset)
        if named == owner.account_id:
            raise Refused("invalid_request", "An account cannot pay itself", field="to")
        target = await self._owner(named)
        if target is None or (target.is_system and not caller.is_admin):
            raise Refused("account_not_found", field="to")
        if target.asset == GAMES_ASSET:
            raise Refused("forbidden", "This is the account of a game user", field="to")
        return target.account_id

    async def _owner(self, account_id: str) -> Owner | None:
        found = self._backend.owner(account_id)
        return found if found is None or isinstance(found, Owner) else await found

"""The balance of a user's account."""

from __future__ import annotations

import msgspec

from ledger.domain.errors import Refused
from ledger.domain.money import asset_named, format_amount
from ledger.domain.policy import Action, Caller
from ledger.resources.backend import Backend
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.resources.money import account_meant
from ledger.resources.reading import Id


class BalanceQuery(msgspec.Struct, frozen=True):
    """Whose balance; left out, the caller's own."""

    user_id: Id | None = None


class BalanceAnswer(msgspec.Struct, frozen=True):
    """What is in an account, and what of it may be spent."""

    user_id: str | None
    account_id: str
    currency: str
    balance: str
    available: str
    version: int
    as_of: str


class BalanceEndpoints:
    """GET /balance."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare it."""
        return (
            Endpoint(
                "GET",
                "/balance",
                self.balance,
                summary="The balance of a user's account",
                policy=Action.READ_BALANCE,
                aliases=("/api/balance",),
                query=BalanceQuery,
                answer=BalanceAnswer,
                refuses=("invalid_uuid_format", "unauthorized_access", "user_not_found", "service_unavailable"),
            ),
        )

    async def balance(self, caller: Caller, call: Call[None, BalanceQuery]) -> Answer:
        """Read the committed state of the account."""
        user_id = call.query.user_id or caller.user_id
        if user_id is not None:
            account_id = (await account_meant(self._backend, caller, Action.READ_BALANCE, user_id, None)).account_id
        elif caller.account_id is not None:
            account_id = caller.account_id
        else:
            raise Refused("missing_fields", field="user_id", fields=["user_id"])
        account, as_of = await self._backend.account_state(account_id)
        asset = asset_named(account.asset)
        return Answer(
            BalanceAnswer(
                user_id=account.user_id,
                account_id=account.id,
                currency=asset.code,
                balance=format_amount(account.balance, asset.scale),
                available=format_amount(account.available, asset.scale),
                version=account.version,
                as_of=as_of,
            )
        )

"""Credit and debit: money into an account from outside, and out of it."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from ledger.domain.accounts import Owner
from ledger.domain.cash import Cash, CashAnswer, Credit, Debit
from ledger.domain.commands import Replayed
from ledger.domain.errors import Refused
from ledger.domain.money import MAX_AMOUNT, asset_named, parse_amount
from ledger.domain.policy import Caller, require_account, require_same_user
from ledger.resources.backend import Backend
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.resources.reading import Id, Money, Text, amount_text

C = TypeVar("C", bound=Cash)

REFUSES = (
    "missing_fields",
    "invalid_request",
    "invalid_uuid_format",
    "invalid_amount_format",
    "invalid_idempotency_key",
    "insufficient_permissions",
    "unauthorized_access",
    "user_not_found",
    "account_not_found",
    "duplicate_transaction",
    "negative_amount",
    "amount_exceeds_limit",
    "account_frozen",
    "account_suspended",
    "account_inactive",
    "service_unavailable",
)


class CashRequest(msgspec.Struct, frozen=True):
    """An amount for an account of a user: the one named, else the one that the caller acts for."""

    user_id: Id
    amount: Money
    account_id: Id | None = None
    description: Text | None = None


class CashEndpoints:
    """POST /credit and POST /debit."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare them."""
        return (
            Endpoint(
                "POST",
                "/credit",
                self.credit,
                summary="Bring money into an account from outside",
                permits=self._may_fund,
                aliases=("/api/credit",),
                body=CashRequest,
                answer=CashAnswer,
                status=201,
                refuses=REFUSES,
                idempotent=True,
                hot=True,
            ),
            Endpoint(
                "POST",
                "/debit",
                self.debit,
                summary="Take money out of an account",
                aliases=("/api/debit",),
                body=CashRequest,
                answer=CashAnswer,
                status=201,
                refuses=(*REFUSES, "insufficient_funds"),
                idempotent=True,
                hot=True,
            ),
        )

    async def credit(self, caller: Caller, call: Call[CashRequest, None]) -> Answer:
        """Book money that comes in."""
        return await self._book(Credit, caller, call)

    async def debit(self, caller: Caller, call: Call[CashRequest, None]) -> Answer:
        """Book money that goes out, if it is there."""
        return await self._book(Debit, caller, call)

    def _may_fund(self, caller: Caller) -> None:
        if not (self._backend.config.self_funding or caller.is_admin):
            raise Refused("insufficient_permissions")

    async def _book(self, kind: type[C], caller: Caller, call: Call[CashRequest, None]) -> Answer:
        backend, body = self._backend, call.body
        text = amount_text(body.amount)
        owner = await account_meant(backend, caller, body.user_id, body.account_id)
        amount = parse_amount(text, asset_named(owner.asset).scale, MAX_AMOUNT)
        command = kind(
            id=backend.new_id(),
            scope=caller.scope,
            key=call.key,
            description=body.description,
            account_id=owner.account_id,
            user_id=owner.user_id,
            asset=owner.asset,
            amount=amount,
            most=backend.config.max_amount,
        )
        outcome = await backend.submit(command)
        return Answer(msgspec.Raw(command.answer(outcome.record)), replayed=isinstance(outcome, Replayed))


async def account_meant(backend: Backend, caller: Caller, user_id: str, account_id: str | None) -> Owner:
    """Return the account of a user that a request means, if the caller may act on it.

    Left out, it is the account that the caller's token acts for, else the user's first. Another user's id is
    refused before anything is looked up, so that nobody learns which users exist.
    """
    require_same_user(caller, user_id)
    owner: Owner | None
    if caller.account_id is None:
        first = backend.first_account(user_id)
        if not (first is None or isinstance(first, Owner)):
            first = await first
        if first is None:
            raise Refused("user_not_found")
        if account_id is None:
            return first
    found = backend.owner(account_id or caller.account_id or "")
    owner = found if found is None or isinstance(found, Owner) else await found
    owner = require_account(caller, owner)
    if owner.user_id != user_id:
        raise Refused("unauthorized_access")
    return owner

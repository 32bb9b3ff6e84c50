"""Credit and debit: money into an account from outside, and out of it."""

from __future__ import annotations

import msgspec

from ledger.domain.accounts import Owner
from ledger.domain.cash import Cash, CashAnswer, Credit, Debit
from ledger.domain.commands import Replayed
from ledger.domain.errors import Refused
from ledger.domain.money import MAX_AMOUNT, asset_named, parse_amount
from ledger.domain.policy import Action, Caller, require_account, require_user
from ledger.resources.backend import Backend
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.resources.reading import Id, Money, Text, amount_text

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
        config = backend.config
        self._funding = Action.BRING_MONEY_IN if config.self_funding else Action.BRING_MONEY_IN_FOR_OTHERS

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare them."""
        return (
            Endpoint(
                "POST",
                "/credit",
                self.credit,
                summary="Bring money into an account from outside",
                policy=self._funding,
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
                policy=Action.MOVE_MONEY,
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
        return await self._book(Credit, self._funding, caller, call)

    async def debit(self, caller: Caller, call: Call[CashRequest, None]) -> Answer:
        """Book money that goes out, if it is there."""
        return await self._book(Debit, Action.MOVE_MONEY, caller, call)

    async def _book(self, kind: type[Cash], action: Action, caller: Caller, call: Call[CashRequest, None]) -> Answer:
        body = call.body
        text = amount_text(body.amount)
        owner = await account_meant(self._backend, caller, action, body.user_id, body.account_id)
        return await book(self._backend, kind, caller, call.key, owner, text, body.description)


async def book(
    backend: Backend,
    kind: type[Cash],
    caller: Caller,
    key: str | None,
    owner: Owner,
    text: str,
    description: str | None,
) -> Answer:
    """Move an amount, as it was written, between an account and the world, and answer as the command does."""
    amount = parse_amount(text, asset_named(owner.asset).scale, MAX_AMOUNT)
    command = kind(
        id=backend.new_id(),
        scope=caller.scope,
        key=key,
        description=description,
        account_id=owner.account_id,
        user_id=owner.user_id,
        asset=owner.asset,
        amount=amount,
        most=backend.config.max_amount,
    )
    outcome = await backend.submit(command)
    return Answer(msgspec.Raw(command.answer(outcome.record)), replayed=isinstance(outcome, Replayed))


async def account_meant(
    backend: Backend, caller: Caller, action: Action, user_id: str, account_id: str | None
) -> Owner:
    """Return the account of a user that a request means, if the caller may do this with it.

    Left out, it is the account that the caller's token acts for, else the user's first. Another user's id is
    refused before anything is looked up, so that nobody learns which users exist.
    """
    require_user(caller, action, user_id)
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
    owner = require_account(caller, action, owner)
    if owner.user_id != user_id:
        raise Refused("unauthorized_access")
    return owner

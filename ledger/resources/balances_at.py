"""The balance of an account, now or at an instant, as it was known then or at another."""

from __future__ import annotations

import msgspec

from ledger.domain.money import asset_named, format_amount
from ledger.domain.policy import Action, Caller
from ledger.resources.backend import Backend
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.resources.reading import Moment, identifier
from ledger.resources.wallet import OF_ONE, wallet_meant


class InstantsQuery(msgspec.Struct, frozen=True):
    """Two instants, now where left out: `at` counts what had effect by then, `known_at` what was booked by then."""

    at: Moment | None = None
    known_at: Moment | None = None


class AccountBalance(msgspec.Struct, frozen=True, omit_defaults=True):
    """A balance; where no instant was asked for, also what is available of it, and the account's version."""

    account_id: str
    currency: str
    balance: str
    at: str
    known_at: str
    available: str | None = None
    version: int | None = None


class BalanceAtEndpoints:
    """GET /api/accounts/<id>/balance."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare it."""
        return (
            Endpoint(
                "GET",
                "/api/accounts/<id>/balance",
                self.read,
                summary="The balance of an account at an instant",
                policy=Action.READ_BALANCE,
                query=InstantsQuery,
                answer=AccountBalance,
                refuses=(*OF_ONE, "invalid_request", "invalid_datetime_format"),
            ),
        )

    async def read(self, caller: Caller, call: Call[None, InstantsQuery]) -> Answer:
        """Read what the account held; an instant in the future is refused."""
        account_id, query = identifier(call.params["id"], "id"), call.query
        owner = await wallet_meant(self._backend, caller, Action.READ_BALANCE, account_id)
        asset = asset_named(owner.asset)
        if query.at is None and query.known_at is None:
            account, now = await self._backend.account_state(account_id)
            return Answer(
                AccountBalance(
                    account_id=account_id,
                    currency=asset.code,
                    balance=format_amount(account.balance, asset.scale),
                    at=now,
                    known_at=now,
                    available=format_amount(account.available, asset.scale),
                    version=account.version,
                )
            )
        found = await self._backend.histories.balance_at(owner, query.at, query.known_at)
        balance = format_amount(found.balance, asset.scale)
        return Answer(AccountBalance(account_id, asset.code, balance, found.at, found.known_at))

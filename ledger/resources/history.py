"""The transactions of an account, for whoever may read it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from ledger.domain.policy import Action, Caller
from ledger.domain.transactions import Direction, Kind, Transaction
from ledger.resources.backend import Backend
from ledger.resources.endpoint import Answer, Call, Endpoint, Handler
from ledger.resources.paging import KeysetMetadata, KeysetPagination, KeysetQuery, limit_of, number_of
from ledger.resources.reading import Id, Moment, identifier
from ledger.resources.wallet import OF_ONE, wallet_meant
from ledger.store.history import Wanted


class AccountTransactionsQuery(KeysetQuery, frozen=True, kw_only=True):
    """Which transactions: in a direction, of a kind, and booked within a time without its end."""

    type: Annotated[Direction, Meta(extra={"reason": "invalid_direction"})] | None = None
    kind: Kind | None = None
    since: Moment | None = msgspec.field(name="from", default=None)
    before: Moment | None = msgspec.field(name="to", default=None)


class TransactionsQuery(AccountTransactionsQuery, frozen=True, kw_only=True):
    """Which transactions, and of which account; left out, the token's, or the user's first."""

    account_id: Id | None = None


class HistoryEndpoints:
    """GET /api/transactions, and the same of an account that the path names."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare them."""
        own = "The transactions of one's account, newest first"
        return (
            self._of("/api/transactions", self.read, own, TransactionsQuery),
            self._of(
                "/api/accounts/<id>/transactions",
                self.read_account,
                "The transactions of an account, newest first",
                AccountTransactionsQuery,
            ),
        )

    def _of(self, path: str, handler: Handler, summary: str, query: type[AccountTransactionsQuery]) -> Endpoint:
        return Endpoint(
            "GET",
            path,
            handler,
            summary=summary,
            policy=Action.READ_HISTORY,
            query=query,
            answer=list[Transaction],
            refuses=(
                *OF_ONE,
                "invalid_request",
                "invalid_pagination",
                "invalid_cursor",
                "invalid_direction",
                "invalid_datetime_format",
            ),
        )

    async def read(self, caller: Caller, call: Call[None, TransactionsQuery]) -> Answer:
        """Read those after a place; a page may hold fewer than its limit while `has_more` says that others follow."""
        return await self._read(caller, call.query, call.query.account_id)

    async def read_account(self, caller: Caller, call: Call[None, AccountTransactionsQuery]) -> Answer:
        """Read those after a place; a page may hold fewer than its limit while `has_more` says that others follow."""
        return await self._read(caller, call.query, identifier(call.params["id"], "id"))

    async def _read(self, caller: Caller, query: AccountTransactionsQuery, account_id: str | None) -> Answer:
        limit, below = limit_of(query), number_of(query.cursor)
        owner = await wallet_meant(self._backend, caller, Action.READ_HISTORY, account_id)
        wanted = Wanted(query.type, query.kind, query.since, query.before)
        page = await self._backend.wallets.transactions(owner, wanted, below, limit)
        following = None if page.following is None else str(page.following)
        pagination = KeysetPagination(limit=limit, has_more=following is not None, next_cursor=following)
        return Answer(page.transactions, metadata=KeysetMetadata(pagination))

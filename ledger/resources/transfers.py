"""Transfers: made, read, and listed for whoever may read their accounts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from ledger.domain.errors import Refused
from ledger.domain.journal import Record
from ledger.domain.money import asset_named
from ledger.domain.periods import instant_of
from ledger.domain.policy import Action, Caller, require_role
from ledger.domain.transactions import Kind
from ledger.domain.transfers import TransferTold, told
from ledger.resources.backend import Backend
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.resources.paging import KeysetMetadata, KeysetPagination, KeysetQuery, limit_of, number_of
from ledger.resources.posting import post
from ledger.resources.reading import Id, Moment, identifier
from ledger.resources.transfer_forms import REFUSES, TransferRequest, accounts_of, command_of, may_read
from ledger.resources.wallet import OF_ONE, wallet_meant
from ledger.store.transfers import TransferPage, TransfersWanted

_is_key = re.compile(r"[ -~]{1,255}\Z").match


class TransfersQuery(KeysetQuery, frozen=True, kw_only=True):
    """Which transfers: of an account, under an idempotency key, of a kind, and booked within a time without its end."""

    account_id: Id | None = None
    idempotency_key: Annotated[str, Meta(examples=["rent-2026-05"])] | None = None
    kind: Kind | None = None
    since: Moment | None = msgspec.field(name="from", default=None)
    before: Moment | None = msgspec.field(name="to", default=None)


class TransferEndpoints:
    """POST and GET /api/transfers, GET /api/transfers/<id>."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare them."""
        return (
            Endpoint(
                "POST",
                "/api/transfers",
                self.make,
                summary="Move money from account to account, along one leg or many, all or nothing",
                policy=Action.MOVE_MONEY,
                body=TransferRequest,
                answer=TransferTold,
                status=201,
                refuses=REFUSES,
                idempotent=True,
                hot=True,
            ),
            Endpoint(
                "GET",
                "/api/transfers",
                self.page,
                summary="Transfers of one's account, newest first; of all accounts for admins",
                policy=Action.READ_HISTORY,
                query=TransfersQuery,
                answer=list[TransferTold],
                refuses=(
                    *OF_ONE,
                    "invalid_request",
                    "invalid_pagination",
                    "invalid_cursor",
                    "invalid_datetime_format",
                    "invalid_idempotency_key",
                ),
            ),
            Endpoint(
                "GET",
                "/api/transfers/<id>",
                self.read,
                summary="A transfer of one's account",
                policy=Action.READ_HISTORY,
                answer=TransferTold,
                refuses=("invalid_uuid_format", "unauthorized_access", "transfer_not_found", "service_unavailable"),
            ),
        )

    async def make(self, caller: Caller, call: Call[TransferRequest, None]) -> Answer:
        """Book a transfer, if all of it can be."""
        backend, request = self._backend, call.body
        if request.effective_at is not None:
            require_role(caller, Action.BACKDATE)
        owners = await backend.owners(set(accounts_of(request)))
        command = command_of(request, owners, caller, backend.new_id(), caller.scope, call.key, backend.config)
        return await post(backend, command, call)

    async def read(self, caller: Caller, call: Call[None, None]) -> Answer:
        """Tell what the caller may see of a transfer."""
        record = await self._backend.transfers.find(identifier(call.params["id"], "id"))
        (seen,) = await see(self._backend, caller, [record])
        return Answer(require_seen(seen))

    async def page(self, caller: Caller, call: Call[None, TransfersQuery]) -> Answer:
        """Read those below a place; a page may hold fewer than its limit while `has_more` says that others follow."""
        query = call.query
        limit, below = limit_of(query), number_of(query.cursor)
        if query.idempotency_key is not None:
            page = await self._under_key(caller, query, query.idempotency_key, below, limit)
        else:
            account_id = query.account_id
            if account_id is not None or not caller.is_admin:
                owner = await wallet_meant(self._backend, caller, Action.READ_HISTORY, account_id)
                account_id = owner.account_id
            wanted = TransfersWanted(query.kind, query.since, query.before)
            page = await self._backend.transfers.page(account_id, wanted, below, limit)
        following = None if page.following is None else str(page.following)
        pagination = KeysetPagination(limit=limit, has_more=following is not None, next_cursor=following)
        seen = [one for one in await see(self._backend, caller, page.records) if one.legs]
        return Answer(seen, metadata=KeysetMetadata(pagination))

    async def _under_key(
        self, caller: Caller, query: TransfersQuery, key: str, below: int | None, limit: int
    ) -> TransferPage:
        """Return what stands under a key: the caller's own, and for admins that of the account that they name."""
        if not _is_key(key):
            raise Refused("invalid_idempotency_key", field="idempotency_key")
        scopes = {caller.scope or ""}
        if query.account_id is not None:
            owner = await wallet_meant(self._backend, caller, Action.READ_HISTORY, query.account_id)
            if caller.is_admin:
                scopes.add(owner.user_id or owner.account_id)
        found = [
            record
            for record in await self._backend.transfers.under(scopes, key)
            if (below is None or record.seq < below) and _is_wanted(record, query)
        ]
        return TransferPage(found[:limit], found[limit - 1].seq if len(found) > limit else None)


async def see(backend: Backend, caller: Caller, records: Iterable[Record]) -> list[TransferTold]:
    """Return what a caller may see of transfers: there are no legs in what is not for them at all."""
    records = list(records)
    owners = await backend.owners({entry.account for record in records for entry in record.entries})
    scales = {
        account_id: asset_named(owner.asset).scale for account_id, owner in owners.items() if may_read(caller, owner)
    }
    return [told(record, scales.__getitem__, scales.__contains__) for record in records]


def require_seen(seen: TransferTold) -> TransferTold:
    """Return what a caller may see, or refuse where that is nothing."""
    if not seen.legs:
        raise Refused("unauthorized_access")
    return seen


def _is_wanted(record: Record, query: TransfersQuery) -> bool:
    return (
        (query.kind is None or record.kind == query.kind)
        and (query.account_id is None or any(entry.account == query.account_id for entry in record.entries))
        and (query.since is None or record.posted_at >= instant_of(query.since))
        and (query.before is None or record.posted_at < instant_of(query.before))
    )

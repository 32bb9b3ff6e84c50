"""Accounts: opened, listed, read, and by admins frozen, closed and limited."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from ledger.domain.account_commands import AccountView, AmendAccount, OpenAccount, parse_limit, require_limitable
from ledger.domain.accounts import ACCOUNT_STATUSES, ACCOUNT_TYPES, Owner
from ledger.domain.commands import Replayed
from ledger.domain.errors import Refused
from ledger.domain.identity import check_name
from ledger.domain.money import asset_named, asset_of
from ledger.domain.policy import Action, Caller, Reach, reach, require_account, require_role
from ledger.domain.users import check_status
from ledger.resources.backend import Backend
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.resources.paging import KeysetMetadata, KeysetPagination, KeysetQuery, id_of, limit_of
from ledger.resources.reading import amount_text, identifier
from ledger.store.account_lists import Wanted

_REFUSES: Final = ("invalid_request", "insufficient_permissions", "service_unavailable")
_OF_ONE: Final = (*_REFUSES, "invalid_uuid_format", "unauthorized_access", "account_not_found")
_OF_LIMITS: Final = ("invalid_account_type", "invalid_amount_format", "negative_amount", "amount_exceeds_limit")

_OF_LISTS: Final = (
    *("invalid_pagination", "invalid_cursor", "invalid_uuid_format"),
    *("invalid_account_type", "invalid_currency_format", "invalid_status"),
)

_NULL: Final = b"null"

# Read only once it is known that the caller may say it: that comes before its form.
_UserId = Annotated[str, Meta(extra_json_schema={"format": "uuid"}, description="For admins alone")]
_Limit = Annotated[
    msgspec.Raw,
    Meta(
        extra_json_schema={"type": ["string", "number", "null"], "examples": ["500.00"]},
        extra={"reason": "invalid_amount_format"},
        description="For admins alone: how far below zero a CREDIT account may go",
    ),
]
_Type = Annotated[str, Meta(examples=list(ACCOUNT_TYPES))]
_Status = Annotated[str, Meta(examples=list(ACCOUNT_STATUSES))]
_Currency = Annotated[str, Meta(examples=["USD"])]


class AccountsQuery(KeysetQuery, frozen=True, kw_only=True):
    """Which accounts: of a type, in a currency, with a status."""

    user_id: _UserId | None = None
    account_type: _Type | None = None
    currency: _Currency | None = None
    status: _Status | None = None


class AccountWanted(msgspec.Struct, frozen=True):
    """A further account of one's own, in the server's currency unless another is named."""

    account_type: _Type
    currency: _Currency | None = None
    name: str | None = None
    user_id: _UserId | None = None
    credit_limit: _Limit = msgspec.field(default_factory=lambda: msgspec.Raw(_NULL))


class AccountUpdate(msgspec.Struct, frozen=True):
    """What is to be changed; at least one of these. `status` and `credit_limit` are for admins."""

    name: str | None = None
    status: _Status | None = None
    credit_limit: _Limit = msgspec.field(default_factory=lambda: msgspec.Raw(_NULL))


class AccountEndpoints:
    """GET and POST /api/accounts, GET and PATCH /api/accounts/<id>."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare them."""
        return (
            Endpoint(
                "GET",
                "/api/accounts",
                self.page,
                summary="One's accounts; those of others for admins",
                policy=Action.READ_ACCOUNTS,
                query=AccountsQuery,
                answer=list[AccountView],
                refuses=(*_REFUSES, *_OF_LISTS),
            ),
            Endpoint(
                "POST",
                "/api/accounts",
                self.open,
                summary="Open a further account",
                policy=Action.OPEN_ACCOUNTS,
                body=AccountWanted,
                answer=AccountView,
                status=201,
                refuses=(
                    *_REFUSES,
                    *_OF_LIMITS,
                    "missing_fields",
                    "invalid_uuid_format",
                    "invalid_name_format",
                    "invalid_currency_format",
                    "invalid_idempotency_key",
                    "user_not_found",
                    "account_inactive",
                    "duplicate_transaction",
                ),
                idempotent=True,
            ),
            Endpoint(
                "GET",
                "/api/accounts/<id>",
                self.read,
                summary="An account",
                policy=Action.READ_ACCOUNTS,
                answer=AccountView,
                refuses=_OF_ONE,
            ),
            Endpoint(
                "PATCH",
                "/api/accounts/<id>",
                self.amend,
                summary="Name an account; freeze, close or limit it",
                policy=Action.NAME_ACCOUNTS,
                body=AccountUpdate,
                answer=AccountView,
                refuses=(
                    *_OF_ONE,
                    *_OF_LIMITS,
                    "missing_fields",
                    "invalid_name_format",
                    "invalid_status",
                    "forbidden",
                    "account_not_empty",
                    "account_inactive",
                    "negative_balance",
                ),
            ),
        )

    async def page(self, caller: Caller, call: Call[None, AccountsQuery]) -> Answer:
        """List a stretch; a page may hold fewer than its limit while `has_more` says that others follow."""
        query = call.query
        user_id = None
        if query.user_id is not None:
            require_role(caller, Action.GOVERN_ACCOUNTS)
            user_id = identifier(query.user_id, "user_id")
        elif caller.account_id is None and reach(caller, Action.GOVERN_ACCOUNTS) is not Reach.ANY:
            user_id = caller.user_id
        limit = limit_of(query)
        wanted = Wanted(
            account_id=caller.account_id,
            user_id=user_id,
            account_type=None if query.account_type is None else _account_type(query.account_type),
            currency=None if query.currency is None else asset_of(query.currency).code,
            status=None if query.status is None else check_status(query.status, ACCOUNT_STATUSES),
        )
        page = await self._backend.accounts.page(wanted, id_of(query.cursor), limit)
        following = page.following
        pagination = KeysetPagination(limit=limit, has_more=following is not None, next_cursor=following)
        return Answer(page.accounts, metadata=KeysetMetadata(pagination))

    async def open(self, caller: Caller, call: Call[AccountWanted, None]) -> Answer:
        """Open an account of the caller's, or where an admin says so, of another user."""
        body, config = call.body, self._backend.config
        is_limited = bytes(body.credit_limit) != _NULL
        if body.user_id is not None or is_limited:
            require_role(caller, Action.GOVERN_ACCOUNTS)
        user_id = caller.user_id if body.user_id is None else identifier(body.user_id, "user_id")
        account_type = _account_type(body.account_type)
        asset = asset_of(config.currency if body.currency is None else body.currency)
        name = None if body.name is None else check_name(body.name)
        credit_limit = _limit(body.credit_limit, asset.scale) if is_limited else 0
        require_limitable(account_type, credit_limit)
        command = OpenAccount(
            id=self._backend.new_id(),
            scope=caller.scope,
            key=call.key,
            user_id=user_id,
            asset=asset.name,
            type=account_type,
            name=name,
            credit_limit=credit_limit,
            most=config.max_amount,
        )
        call.notes["user_id"] = user_id
        outcome = await self._backend.submit(command)
        call.notes["account_id"] = outcome.record.id
        return Answer(msgspec.Raw(command.answer(outcome.record)), replayed=isinstance(outcome, Replayed))

    async def read(self, caller: Caller, call: Call[None, None]) -> Answer:
        """Tell an account as it is committed."""
        owner = await self._meant(caller, Action.READ_ACCOUNTS, call)
        return Answer(await self._backend.accounts.read(owner.account_id))

    async def amend(self, caller: Caller, call: Call[AccountUpdate, None]) -> Answer:
        """Change all that is given, in one record."""
        body = call.body
        is_limited = bytes(body.credit_limit) != _NULL
        if body.status is not None or is_limited:
            require_role(caller, Action.GOVERN_ACCOUNTS)
        identifier(call.params["id"], "id")
        if body.name is None and body.status is None and not is_limited:
            raise Refused("missing_fields", fields=list(AccountUpdate.__struct_fields__))
        name = None if body.name is None else check_name(body.name)
        status = None if body.status is None else check_status(body.status, ACCOUNT_STATUSES)
        owner = await self._meant(caller, Action.NAME_ACCOUNTS, call)
        command = AmendAccount(
            id=self._backend.new_id(),
            account=await self._backend.accounts.read(owner.account_id),
            name=name,
            status=status,
            credit_limit=_limit(body.credit_limit, asset_named(owner.asset).scale) if is_limited else None,
            most=self._backend.config.max_amount,
        )
        call.notes.update(command.asked)
        outcome = await self._backend.submit(command)
        if name is None:  # another request may have named it meanwhile; state and limits are those of the record
            command = msgspec.structs.replace(command, account=await self._backend.accounts.read(owner.account_id))
        return Answer(msgspec.Raw(command.answer(outcome.record)))

    async def _meant(self, caller: Caller, action: Action, call: Call[AccountUpdate, None] | Call[None, None]) -> Owner:
        found = self._backend.owner(identifier(call.params["id"], "id"))
        return require_account(caller, action, found if found is None or isinstance(found, Owner) else await found)


def _account_type(text: str) -> str:
    if text not in ACCOUNT_TYPES:
        raise Refused("invalid_account_type", field="account_type")
    return text


def _limit(raw: msgspec.Raw, scale: int) -> int:
    return parse_limit(amount_text(raw, "credit_limit"), scale)

"""Wallets: accounts that anyone may open, and that whoever bears their token acts for."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from ledger.domain.accounts import Owner
from ledger.domain.cash import Cash, Charge, Topup
from ledger.domain.errors import Refused
from ledger.domain.game_users import ASSET as GAMES_ASSET
from ledger.domain.identity import check_name
from ledger.domain.money import asset_named, format_amount
from ledger.domain.policy import Action, Caller, require_account
from ledger.domain.transactions import Transaction
from ledger.resources.backend import Backend
from ledger.resources.endpoint import Answer, Call, Endpoint, Handler
from ledger.resources.money import book
from ledger.resources.reading import Id, Money, Text, amount_text, identifier

OF_ONE: Final = (
    "invalid_uuid_format",
    "insufficient_permissions",
    "unauthorized_access",
    "account_not_found",
    "service_unavailable",
)
_OF_MONEY: Final = (
    *OF_ONE,
    "missing_fields",
    "invalid_request",
    "invalid_amount_format",
    "invalid_idempotency_key",
    "forbidden",
    "duplicate_transaction",
    "negative_amount",
    "amount_exceeds_limit",
    "account_frozen",
    "account_suspended",
    "account_inactive",
)


class WalletWanted(msgspec.Struct, frozen=True):
    """Who wants an account, and in which currency; left out, the server's own."""

    name: str
    currency: Annotated[str, Meta(examples=["USD"])] | None = None


class WalletOpened(msgspec.Struct, frozen=True):
    """A new account; the token acts for it and is shown this once."""

    account_id: str
    name: str
    currency: str
    balance: str
    token: str


class WalletState(msgspec.Struct, frozen=True):
    """An account as it is now; those that came with a user have no name."""

    account_id: str
    name: str | None
    currency: str
    balance: str
    available: str
    status: str
    version: int


class WalletQuery(msgspec.Struct, frozen=True):
    """Which account; left out, the token's, or the user's first."""

    account_id: Id | None = None


class WalletCash(msgspec.Struct, frozen=True):
    """An amount for an account; left out, the token's, or the user's first."""

    amount: Money
    description: Text | None = None
    account_id: Id | None = None


class TokenGiven(msgspec.Struct, frozen=True):
    """The account's only token from now on, shown this once."""

    account_id: str
    token: str


class WalletEndpoints:
    """POST /api/register, GET /api/account, topups and charges, and new tokens."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._wallets = backend.wallets
        self._funding = Action.BRING_MONEY_IN if backend.config.self_funding else Action.BRING_MONEY_IN_FOR_OTHERS

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare them."""
        return (
            Endpoint(
                "POST",
                "/api/register",
                self.register,
                summary="Open an account with a token of its own",
                policy=Action.OPEN_WALLET,
                body=WalletWanted,
                answer=WalletOpened,
                status=201,
                refuses=(
                    "missing_fields",
                    "invalid_request",
                    "invalid_name_format",
                    "invalid_currency_format",
                    "service_unavailable",
                ),
            ),
            Endpoint(
                "GET",
                "/api/account",
                self.account,
                summary="One's account",
                policy=Action.READ_BALANCE,
                query=WalletQuery,
                answer=WalletState,
                refuses=OF_ONE,
            ),
            self._of_money("topup", self.topup, "Bring money into one's account", self._funding),
            self._of_money("charge", self.charge, "Pay from one's account", Action.MOVE_MONEY, "insufficient_funds"),
            Endpoint(
                "POST",
                "/api/account/token",
                self.renew_token,
                summary="Replace the token of one's account",
                policy=Action.RENEW_TOKEN,
                query=WalletQuery,
                answer=TokenGiven,
                status=201,
                refuses=(*OF_ONE, "account_inactive"),
            ),
            Endpoint(
                "POST",
                "/api/accounts/<id>/token",
                self.reissue_token,
                summary="Give an account a new token for one that was lost",
                policy=Action.REISSUE_TOKEN,
                answer=TokenGiven,
                status=201,
                refuses=(*OF_ONE, "forbidden", "account_inactive"),
            ),
        )

    def _of_money(self, name: str, handler: Handler, summary: str, policy: Action, *more: str) -> Endpoint:
        return Endpoint(
            "POST",
            f"/api/transactions/{name}",
            handler,
            summary=summary,
            policy=policy,
            body=WalletCash,
            answer=Transaction,
            status=201,
            refuses=(*_OF_MONEY, *more),
            idempotent=True,
            hot=True,
        )

    async def register(self, _caller: Caller | None, call: Call[WalletWanted, None]) -> Answer:
        """Open an account that is no user's."""
        opened = await self._wallets.open(check_name(call.body.name), call.body.currency)
        asset = asset_named(opened.account.asset)
        balance = format_amount(0, asset.scale)
        return Answer(WalletOpened(opened.account.account_id, opened.name, asset.code, balance, opened.token.reveal()))

    async def account(self, caller: Caller, call: Call[None, WalletQuery]) -> Answer:
        """Read the committed state of the account."""
        owner = await wallet_meant(self._backend, caller, Action.READ_BALANCE, call.query.account_id)
        wallet = await self._wallets.read(owner.account_id)
        account, asset = wallet.account, asset_named(owner.asset)
        return Answer(
            WalletState(
                account_id=account.id,
                name=wallet.name,
                currency=asset.code,
                balance=format_amount(account.balance, asset.scale),
                available=format_amount(account.available, asset.scale),
                status=account.status,
                version=account.version,
            )
        )

    async def topup(self, caller: Caller, call: Call[WalletCash, None]) -> Answer:
        """Book money that comes in."""
        return await self._book(Topup, self._funding, caller, call)

    async def charge(self, caller: Caller, call: Call[WalletCash, None]) -> Answer:
        """Book a payment, if the money is there."""
        return await self._book(Charge, Action.MOVE_MONEY, caller, call)

    async def renew_token(self, caller: Caller, call: Call[None, WalletQuery]) -> Answer:
        """Give a new token; every former one of the account stops at once."""
        owner = await wallet_meant(self._backend, caller, Action.RENEW_TOKEN, call.query.account_id)
        return await self._renew(caller, owner, call.notes)

    async def reissue_token(self, caller: Caller, call: Call[None, None]) -> Answer:
        """Give a new token to whoever has lost theirs; every former one of the account stops at once."""
        account_id = identifier(call.params["id"], "id")
        return await self._renew(
            caller, await wallet_meant(self._backend, caller, Action.REISSUE_TOKEN, account_id), call.notes
        )

    async def _renew(self, caller: Caller, owner: Owner, notes: dict[str, object]) -> Answer:
        _require_ordinary(owner)
        notes["account_id"] = owner.account_id
        token = await self._wallets.renew_token(caller, owner.account_id)
        return Answer(TokenGiven(owner.account_id, token.reveal()))

    async def _book(self, kind: type[Cash], action: Action, caller: Caller, call: Call[WalletCash, None]) -> Answer:
        text = amount_text(call.body.amount)
        owner = await wallet_meant(self._backend, caller, action, call.body.account_id)
        _require_ordinary(owner)
        return await book(self._backend, kind, caller, call.key, owner, text, call.body.description)


async def wallet_meant(backend: Backend, caller: Caller, action: Action, account_id: str | None) -> Owner:
    """Return the account that is named, if the caller may do this with it, else the caller's own."""
    named = account_id or caller.account_id
    found = backend.first_account(caller.user_id or "") if named is None else backend.owner(named)
    return require_account(caller, action, found if found is None or isinstance(found, Owner) else await found)


def _require_ordinary(owner: Owner) -> None:
    """Refuse what makes no sense for a system account, or would pass by the rules of games; admins see both."""
    if owner.is_system:
        raise Refused("forbidden", "This is a system account")
    if owner.asset == GAMES_ASSET:
        raise Refused("forbidden", "This is the account of a game user")

"""Signing up: a user, the first account, and its token."""

from __future__ import annotations

import msgspec

from ledger.domain.identity import check_name, check_password, normalise_email
from ledger.domain.money import asset_named, format_amount
from ledger.domain.policy import Caller
from ledger.resources.backend import Backend
from ledger.resources.endpoint import Access, Answer, Call, Endpoint


class SignUp(msgspec.Struct, frozen=True):
    """Who wants to become a user."""

    name: str
    email: str
    password: str


class FirstAccount(msgspec.Struct, frozen=True):
    """The account that comes with a new user."""

    id: str
    currency: str
    balance: str


class SignedUp(msgspec.Struct, frozen=True):
    """A new user; the token acts for the account and is shown this once."""

    id: str
    name: str
    email: str
    account: FirstAccount
    token: str


class UserEndpoints:
    """POST /users."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare it."""
        return (
            Endpoint(
                "POST",
                "/users",
                self.sign_up,
                summary="Make a user and the first account",
                access=Access.OPEN,
                body=SignUp,
                answer=SignedUp,
                status=201,
                refuses=(
                    "missing_fields",
                    "invalid_request",
                    "invalid_name_format",
                    "invalid_email_format",
                    "invalid_password_format",
                    "email_already_exists",
                    "service_unavailable",
                ),
            ),
        )

    async def sign_up(self, _caller: Caller | None, call: Call[SignUp, None]) -> Answer:
        """Check the rules for names, addresses and passwords, and make the user."""
        body = call.body
        name, email = check_name(body.name), normalise_email(body.email)
        check_password(body.password)
        made = await self._backend.register(name, email, body.password)
        asset = asset_named(made.account.asset)
        account = FirstAccount(made.account.account_id, asset.code, format_amount(0, asset.scale))
        return Answer(SignedUp(made.user_id, made.name, made.email, account, made.token))

"""Signing up, which is open to anyone: a user, the first account, and at the older door its token."""

from __future__ import annotations

import msgspec

from ledger.domain.errors import Refused
from ledger.domain.identity import check_name, check_password, normalise_email
from ledger.domain.money import asset_named, format_amount
from ledger.domain.policy import Action, Caller
from ledger.domain.secret import Secret
from ledger.domain.users import User
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.services.users import Users

REFUSES = (
    "missing_fields",
    "invalid_request",
    "invalid_name_format",
    "invalid_email_format",
    "invalid_password_format",
    "email_already_exists",
    "service_unavailable",
)


class SignUp(msgspec.Struct, frozen=True):
    """Who wants to become a user."""

    name: str
    email: str
    password: Secret


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


class Registration(msgspec.Struct, frozen=True):
    """Who wants to become a user, the password given twice."""

    email: str
    full_name: str
    password: Secret
    password_confirmation: Secret


class UserView(msgspec.Struct, frozen=True):
    """A user as clients see one."""

    id: str
    email: str
    full_name: str
    role: str
    status: str
    active: bool
    verified: bool
    suspended: bool
    deleted: bool
    inserted_at: str
    updated_at: str


def user_view(user: User) -> UserView:
    """Show a user."""
    return UserView(
        id=user.id,
        email=user.email,
        full_name=user.full_name,
        role=user.role,
        status=user.status,
        active=user.status == "ACTIVE",
        verified=user.verified,
        suspended=user.status == "SUSPENDED",
        deleted=user.status == "DELETED",
        inserted_at=user.inserted_at,
        updated_at=user.updated_at,
    )


def require_confirmed(password: Secret, confirmation: Secret) -> None:
    """Refuse a password that was not written twice alike."""
    if password != confirmation:
        raise Refused("invalid_password_format", "The passwords differ", field="password_confirmation")


class UserEndpoints:
    """POST /users and POST /api/users."""

    def __init__(self, users: Users) -> None:
        self._users = users

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare them."""
        return (
            Endpoint(
                "POST",
                "/users",
                self.sign_up,
                summary="Make a user and the first account",
                policy=Action.SIGN_UP,
                body=SignUp,
                answer=SignedUp,
                status=201,
                refuses=REFUSES,
            ),
            Endpoint(
                "POST",
                "/api/users",
                self.register,
                summary="Register as a user",
                policy=Action.SIGN_UP,
                body=Registration,
                answer=UserView,
                status=201,
                refuses=REFUSES,
            ),
        )

    async def sign_up(self, _caller: Caller | None, call: Call[SignUp, None]) -> Answer:
        """Check the rules for names, addresses and passwords, and make the user."""
        body = call.body
        name, email = check_name(body.name), normalise_email(body.email)
        check_password(body.password.reveal())
        made = await self._users.register(name, email, body.password)
        asset = asset_named(made.account.asset)
        account = FirstAccount(made.account.account_id, asset.code, format_amount(0, asset.scale))
        return Answer(SignedUp(made.user_id, made.name, made.email, account, made.token))

    async def register(self, _caller: Caller | None, call: Call[Registration, None]) -> Answer:
        """The same, for whoever will log in."""
        body = call.body
        email, full_name = normalise_email(body.email), check_name(body.full_name, "full_name")
        check_password(body.password.reveal())
        require_confirmed(body.password, body.password_confirmation)
        return Answer(user_view(await self._users.create(email, full_name, body.password)))

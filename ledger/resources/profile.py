"""The profile of whoever is logged in."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from ledger.domain.errors import Refused
from ledger.domain.identity import check_name, normalise_email
from ledger.domain.policy import Action, Caller
from ledger.domain.secret import Secret
from ledger.domain.users import Changes
from ledger.resources.endpoint import Answer, Call, Endpoint, Said
from ledger.resources.users import UserView, require_confirmed, user_view
from ledger.services.users import Users

_FIXED: Final = ("role", "status", "active", "verified", "suspended", "deleted", "id")
_Fixed = Annotated[Any, Meta(description="Not for its owner to change")]


class ProfileUpdate(msgspec.Struct, frozen=True):
    """What is to be changed: `full_name`, `email`, or both."""

    full_name: str | None = None
    email: str | None = None
    role: _Fixed = None
    status: _Fixed = None
    active: _Fixed = None
    verified: _Fixed = None
    suspended: _Fixed = None
    deleted: _Fixed = None
    id: _Fixed = None


class PasswordChange(msgspec.Struct, frozen=True):
    """The password as it is, and as it shall be, the latter given twice."""

    current_password: Secret
    new_password: Secret
    password_confirmation: Secret


class ProfileEndpoints:
    """GET and PUT /api/profile, and PUT /api/profile/password."""

    def __init__(self, users: Users) -> None:
        self._users = users

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare them."""
        common = ("insufficient_permissions", "service_unavailable")
        return (
            Endpoint(
                "GET",
                "/api/profile",
                self.read,
                summary="One's own profile",
                policy=Action.USE_PROFILE,
                answer=UserView,
                refuses=common,
            ),
            Endpoint(
                "PUT",
                "/api/profile",
                self.update,
                summary="Change one's own name or e-mail address",
                policy=Action.USE_PROFILE,
                body=ProfileUpdate,
                answer=UserView,
                refuses=(
                    *common,
                    "missing_fields",
                    "invalid_request",
                    "invalid_name_format",
                    "invalid_email_format",
                    "email_already_exists",
                ),
            ),
            Endpoint(
                "PUT",
                "/api/profile/password",
                self.change_password,
                summary="Change one's own password; all other sessions end",
                policy=Action.USE_PROFILE,
                body=PasswordChange,
                answer=Said,
                refuses=(
                    *common,
                    "missing_fields",
                    "invalid_request",
                    "invalid_password_format",
                    "invalid_credentials",
                    "rate_limit_exceeded",
                ),
            ),
        )

    async def read(self, caller: Caller, _call: Call[None, None]) -> Answer:
        """Show the caller."""
        return Answer(user_view(await self._users.find(_own_id(caller))))

    async def update(self, caller: Caller, call: Call[ProfileUpdate, None]) -> Answer:
        """Change what is given, if it is the caller's to change."""
        body = call.body
        fixed = [name for name in _FIXED if getattr(body, name) is not None]
        if fixed:
            raise Refused("insufficient_permissions", field=fixed[0], fields=fixed)
        if body.full_name is None and body.email is None:
            raise Refused("missing_fields", fields=["full_name", "email"])
        changes = Changes(
            email=None if body.email is None else normalise_email(body.email),
            full_name=None if body.full_name is None else check_name(body.full_name, "full_name"),
        )
        return Answer(user_view(await self._users.change(caller, _own_id(caller), changes)))

    async def change_password(self, caller: Caller, call: Call[PasswordChange, None]) -> Answer:
        """Replace the password, if the caller knows the present one."""
        body = call.body
        require_confirmed(body.new_password, body.password_confirmation)
        await self._users.change_password(caller, body.current_password, body.new_password, call.address)
        return Answer(Said("Password changed; all other sessions have ended"))


def _own_id(caller: Caller) -> str:
    if caller.kind != "user" or caller.user_id is None:
        raise Refused("insufficient_permissions")
    return caller.user_id

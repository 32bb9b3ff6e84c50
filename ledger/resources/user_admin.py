"""The users as admins see and manage them."""

from __future__ import annotations

from typing import Any

import msgspec

from ledger.domain.identity import check_name, check_password, normalise_email
from ledger.domain.policy import Action, Caller
from ledger.domain.secret import Secret
from ledger.domain.users import (
    ACTIVE,
    SORTS,
    SUSPENDED,
    Changes,
    User,
    UserCounts,
    UserFilter,
    check_role,
    check_status,
)
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.resources.paging import KeysetQuery, OffsetQuery, limit_of, order_of, place_of, stretch, window
from ledger.resources.reading import Id, Moment, identifier
from ledger.resources.users import REFUSES, UserView, require_confirmed, user_view
from ledger.services.users import Users

_NEWEST_FIRST = (("created_at", True),)
_OF_ONE = ("invalid_uuid_format", "insufficient_permissions", "user_not_found", "service_unavailable")
_OF_LISTS = ("insufficient_permissions", "invalid_pagination", "invalid_status", "invalid_role", "service_unavailable")


class UsersQuery(OffsetQuery, frozen=True, kw_only=True):
    """Which page of which users; deleted ones only with `status=DELETED`."""

    status: str | None = None
    role: str | None = None


class UsersAfterQuery(KeysetQuery, frozen=True, kw_only=True):
    """Which users after which place."""

    status: str | None = None
    role: str | None = None


class UserPlace(msgspec.Struct, frozen=True):
    """A place in the list of users, newest first."""

    inserted_at: Moment
    id: Id


class NewUser(msgspec.Struct, frozen=True):
    """A user of any role, the password given twice."""

    email: str
    full_name: str
    password: Secret
    password_confirmation: Secret
    role: str


class UserUpdate(msgspec.Struct, frozen=True):
    """What is to be changed; at least one of these."""

    email: str | None = None
    full_name: str | None = None
    role: str | None = None
    status: str | None = None


class NewPassword(msgspec.Struct, frozen=True):
    """A password, given twice."""

    new_password: Secret
    password_confirmation: Secret


class UserAdminEndpoints:
    """Everything below /api/users that is for admins."""

    def __init__(self, users: Users) -> None:
        self._users = users

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare them; paths without a parameter come first."""

        def endpoint(method: str, path: str, handler: Any, summary: str, **more: Any) -> Endpoint:
            return Endpoint(method, path, handler, summary, Action.MANAGE_USERS, **more)

        one = "/api/users/<id>"
        return (
            endpoint(
                "GET",
                "/api/users",
                self.page,
                "A page of the users",
                query=UsersQuery,
                answer=list[UserView],
                refuses=(*_OF_LISTS, "invalid_sort"),
            ),
            endpoint(
                "GET",
                "/api/users/keyset",
                self.after,
                "The users after a place, newest first",
                query=UsersAfterQuery,
                answer=list[UserView],
                refuses=(*_OF_LISTS, "invalid_cursor"),
            ),
            endpoint(
                "GET",
                "/api/users/stats",
                self.stats,
                "How many users there are",
                answer=UserCounts,
                refuses=("insufficient_permissions", "service_unavailable"),
            ),
            endpoint(
                "POST",
                "/api/users/admin",
                self.create,
                "Make a user of any role",
                body=NewUser,
                answer=UserView,
                status=201,
                refuses=("insufficient_permissions", *REFUSES, "invalid_role"),
            ),
            endpoint("GET", one, self.read, "A user", answer=UserView, refuses=_OF_ONE),
            endpoint(
                "PUT",
                one,
                self.update,
                "Change a user",
                body=UserUpdate,
                answer=UserView,
                refuses=(
                    *_OF_ONE,
                    "missing_fields",
                    "invalid_request",
                    "invalid_email_format",
                    "invalid_name_format",
                    "invalid_role",
                    "invalid_status",
                    "forbidden",
                    "email_already_exists",
                ),
            ),
            endpoint("DELETE", one, self.delete, "Delete a user", answer=UserView, refuses=(*_OF_ONE, "forbidden")),
            endpoint(
                "PUT",
                f"{one}/password",
                self.set_password,
                "Set a user's password and end all of the user's sessions",
                body=NewPassword,
                answer=UserView,
                refuses=(*_OF_ONE, "missing_fields", "invalid_request", "invalid_password_format"),
            ),
        )

    async def page(self, _caller: Caller, call: Call[None, UsersQuery]) -> Answer:
        """List users by pages."""
        query = call.query
        wanted, asked = _filter(query.status, query.role), window(query)
        order = order_of(query.sort, SORTS, _NEWEST_FIRST)
        users, total = await self._users.page(wanted, order, asked.page_size, asked.offset)
        return Answer([user_view(user) for user in users], metadata=asked.metadata(total))

    async def after(self, _caller: Caller, call: Call[None, UsersAfterQuery]) -> Answer:
        """List users from a place onwards."""
        query = call.query
        wanted, limit, place = _filter(query.status, query.role), limit_of(query), place_of(query.cursor, UserPlace)
        after = None if place is None else (place.inserted_at, place.id)
        found, metadata = stretch(await self._users.after(wanted, after, limit + 1), limit, _cursor_of)
        return Answer([user_view(user) for user in found], metadata=metadata)

    async def stats(self, _caller: Caller, _call: Call[None, None]) -> Answer:
        """Count the users."""
        return Answer(await self._users.count())

    async def create(self, _caller: Caller, call: Call[NewUser, None]) -> Answer:
        """Make a user of any role, whose password must be as long as the role demands."""
        body = call.body
        email, full_name = normalise_email(body.email), check_name(body.full_name, "full_name")
        role = check_role(body.role)
        check_password(body.password.reveal(), role)
        require_confirmed(body.password, body.password_confirmation)
        user = await self._users.create(email, full_name, body.password, role)
        call.notes.update(id=user.id, role=role)
        return Answer(user_view(user))

    async def read(self, _caller: Caller, call: Call[None, None]) -> Answer:
        """Show a user, a deleted one too."""
        return Answer(user_view(await self._users.find(_id_of(call))))

    async def update(self, caller: Caller, call: Call[UserUpdate, None]) -> Answer:
        """Change what is given."""
        user_id, body = _id_of(call), call.body
        changes = Changes(
            email=None if body.email is None else normalise_email(body.email),
            full_name=None if body.full_name is None else check_name(body.full_name, "full_name"),
            role=None if body.role is None else check_role(body.role),
            status=None if body.status is None else check_status(body.status, (ACTIVE, SUSPENDED)),
        )
        call.notes.update(changed=sorted(changes.given))
        call.notes.update((name, value) for name, value in changes.given.items() if name in ("role", "status"))
        return Answer(user_view(await self._users.change(caller, user_id, changes)))

    async def delete(self, caller: Caller, call: Call[None, None]) -> Answer:
        """Delete a user, and show what is left."""
        return Answer(user_view(await self._users.delete(caller, _id_of(call))))

    async def set_password(self, _caller: Caller, call: Call[NewPassword, None]) -> Answer:
        """Set a password for somebody who has lost theirs."""
        user_id, body = _id_of(call), call.body
        require_confirmed(body.new_password, body.password_confirmation)
        return Answer(user_view(await self._users.set_password(user_id, body.new_password)))


def _id_of(call: Call[Any, Any]) -> str:
    return identifier(call.params["id"], "id")


def _filter(status: str | None, role: str | None) -> UserFilter:
    return UserFilter(
        status=None if status is None else check_status(status), role=None if role is None else check_role(role)
    )


def _cursor_of(user: User) -> dict[str, str]:
    return {"inserted_at": user.inserted_at, "id": user.id}

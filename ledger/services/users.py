"""Users: made with their first account, listed, changed and deleted; whatever lets a user in stops with the change."""

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ledger.config import Config
from ledger.domain.accounts import Owner
from ledger.domain.commands import Command, Replayed, Sealed
from ledger.domain.deletion import DeleteUser
from ledger.domain.errors import Refused
from ledger.domain.identity import check_password
from ledger.domain.money import asset_of
from ledger.domain.policy import Caller
from ledger.domain.secret import Secret
from ledger.domain.users import DELETED, Changes, User, UserCounts, UserFilter
from ledger.services.login_guard import LoginGuard
from ledger.services.passwords import Passwords
from ledger.services.settling import is_in_doubt, settled
from ledger.store import users as store
from ledger.store.pool import Pool
from ledger.store.tokens import new_token

log = Logger()


class Registered(msgspec.Struct, frozen=True):
    """A user just made, with the first account and its token, which is told this once."""

    user_id: str
    name: str
    email: str
    account: Owner
    token: str


class Users:
    """All that can be done with users; what stops a credential is told to `stopped` as soon as it is committed."""

    def __init__(
        self,
        config: Config,
        pool: Pool,
        submit: Callable[[Command], Deferred[Sealed | Replayed]],
        passwords: Passwords,
        guard: LoginGuard,
        stopped: Callable[[str], None],  # told `user:<id>` or `session:<id>`
        new_id: Callable[[], str],
        reactor: Any,
    ) -> None:
        self._config = config
        self._pool = pool
        self._submit = submit
        self._passwords = passwords
        self._guard = guard
        self._stopped = stopped
        self._new_id = new_id
        self._reactor = reactor

    async def register(self, name: str, email: str, password: Secret) -> Registered:
        """Make a user and the first account with a token, or refuse with `email_already_exists`."""
        token = new_token()
        user, first = await self._add(email, name, password, "user", token)
        return Registered(user.id, user.full_name, user.email, first, token)

    async def create(
        self, email: str, full_name: str, password: Secret, role: str = "user", *, verified: bool = False
    ) -> User:
        """Make a user and the first account, or refuse with `email_already_exists`."""
        user, _ = await self._add(email, full_name, password, role, None, verified)
        return user

    async def find(self, user_id: str) -> User:
        """Return a user, deleted or not, or refuse with `user_not_found`."""
        user = await store.find_user(self._pool, user_id)
        if user is None:
            raise Refused("user_not_found")
        return user

    async def page(self, wanted: UserFilter, order: store.Order, limit: int, offset: int) -> tuple[list[User], int]:
        """Return a stretch of the users that are wanted, and how many these are in all."""
        return await store.list_users(self._pool, wanted, order, limit, offset)

    async def after(self, wanted: UserFilter, place: store.Place | None, limit: int) -> list[User]:
        """Return the users that follow a place, newest first."""
        return await store.users_after(self._pool, wanted, place, limit)

    async def count(self) -> UserCounts:
        """Return how many users there are."""
        return await store.count_users(self._pool)

    async def change(self, caller: Caller, user_id: str, changes: Changes) -> User:
        """Change a user; nobody changes their own role or status."""
        if not changes.given:
            raise Refused("missing_fields", fields=list(Changes.__struct_fields__))
        if caller.user_id == user_id and not (
            changes.role in (None, caller.role) and changes.status in (None, "ACTIVE")
        ):
            raise Refused("forbidden", "Nobody changes their own role or status")
        user = await store.change_user(self._pool, user_id, changes)
        if user is None:
            raise Refused("user_not_found")
        if changes.role is not None or changes.status is not None:
            self._stopped(f"user:{user_id}")
        return user

    async def delete(self, caller: Caller, user_id: str) -> User:
        """Delete a user, whose accounts are shut in the same transaction; nobody deletes themselves."""
        if caller.user_id == user_id:
            raise Refused("forbidden", "Nobody deletes themselves")
        user = await self.find(user_id)
        command = DeleteUser(id=self._new_id(), user_id=user_id, metadata={"user_id": user_id})
        record = (await self._submit(command)).record
        self._stopped(f"user:{user_id}")
        return msgspec.structs.replace(user, status=DELETED, updated_at=record.posted_at)

    async def set_password(self, user_id: str, password: Secret) -> User:
        """Set a user's password and end all of the user's sessions."""
        user = await self.find(user_id)
        if user.status == DELETED:
            raise Refused("user_not_found")
        check_password(password.reveal(), user.role, "new_password")
        hashed = await self._passwords.hash(password.reveal())
        changed = await store.set_password(self._pool, user_id, hashed)
        if changed is None:
            raise Refused("user_not_found")
        self._stopped(f"user:{user_id}")
        return changed[0]

    async def change_password(self, caller: Caller, current: Secret, new: Secret, address: str) -> None:
        """Replace the caller's own password, which must be known, and end all other sessions."""
        user_id = caller.user_id or ""
        kept = await store.find_password(self._pool, user_id, address)
        if kept is None:
            raise Refused("user_not_found")
        check_password(new.reveal(), kept.role, "new_password")
        await self._require_password(kept, current, address)
        if new == current:
            raise Refused("invalid_password_format", "The new password is the old one", field="new_password")
        hashed = await self._passwords.hash(new.reveal())
        changed = await store.set_password(
            self._pool, user_id, hashed, instead_of=kept.password_hash, except_session=caller.session_id
        )
        if changed is None:  # it was changed meanwhile
            raise Refused("invalid_credentials", field="current_password")
        for session_id in changed[1]:
            self._stopped(f"session:{session_id}")

    async def _require_password(self, kept: store.Kept, password: Secret, address: str) -> None:
        self._guard.check(kept.email, address, kept.is_known_address)
        is_right = None
        try:
            is_right = await self._passwords.check(password, kept.password_hash)
        finally:
            # Where nobody came to know, it was no guess.
            (self._guard.failed if is_right is False else self._guard.succeeded)(kept.email, address)
        if not is_right:
            raise Refused("invalid_credentials", field="current_password")

    async def _add(
        self, email: str, full_name: str, password: Secret, role: str, token: str | None, verified: bool = False
    ) -> tuple[User, Owner]:
        if await store.email_is_taken(self._pool, email):
            raise Refused("email_already_exists", field="email")
        hashed = await self._passwords.hash(password.reveal())
        user_id = self._new_id()
        first = Owner(self._new_id(), user_id, asset_of(self._config.currency).name, is_system=False)
        new = store.NewUser(user_id, email, full_name, hashed, first, role, token, verified)
        try:
            return await store.add_user(self._pool, new), first
        except Refused as refused:
            if not is_in_doubt(refused):
                raise
        log.warn("The connection died in the commit of user {user_id}", user_id=user_id)
        was_added = partial(store.was_added, self._pool, user_id)
        return await settled(was_added, partial(store.find_user, self._pool, user_id), self._reactor), first

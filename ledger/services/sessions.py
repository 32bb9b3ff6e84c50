"""Logging in and out: sessions, the tokens given out in them, and how these cease to count."""

from collections.abc import Callable
from typing import Final, Protocol

import msgspec
from twisted.logger import Logger

from ledger.domain.errors import Refused
from ledger.domain.policy import Caller
from ledger.domain.secret import Secret
from ledger.domain.users import User
from ledger.services.credentials import Credentials, session_key
from ledger.services.passwords import Passwords
from ledger.services.signing import ACCESS_SECONDS, REFRESH_SECONDS, Signer
from ledger.store import sessions as store
from ledger.store.pool import Pool
from ledger.store.users import find_user

log = Logger()

_LONGEST_EMAIL: Final = 256  # one character more than any that is kept: such a text is nobody's


class Guard(Protocol):
    """Limits guessing: every `check` that does not refuse is followed by one of the others."""

    def check(self, email: str, address: str, known: bool) -> None:
        """Take note of a try, or refuse it with `rate_limit_exceeded`."""

    def failed(self, email: str, address: str) -> None:
        """Count the try as failed."""

    def succeeded(self, email: str, address: str) -> None:
        """Forget the try."""


class Tokens(msgspec.Struct, frozen=True):
    """What a login or a refresh gives out."""

    access_token: Secret
    refresh_token: Secret
    expires_in: int
    user: User


class Sessions:
    """Begins, prolongs and ends the sessions of users."""

    def __init__(
        self,
        pool: Pool,
        signer: Signer,
        passwords: Passwords,
        credentials: Credentials,
        new_id: Callable[[], str],
        guard: Guard,
    ) -> None:
        self._pool = pool
        self._signer = signer
        self._passwords = passwords
        self._credentials = credentials
        self._new_id = new_id
        self._guard = guard

    async def login(self, email: str, password: Secret, address: str) -> Tokens:
        """Begin a session; whoever does not know the password cannot tell whether there is such a user.

        Refuses with `invalid_credentials`, `account_inactive` where the password is right, or `rate_limit_exceeded`.
        """
        email = email.strip().lower()[:_LONGEST_EMAIL]
        found = await store.find_login(self._pool, email, address)
        self._guard.check(email, address, found is not None and found.known)
        is_right = False
        try:
            is_right = await self._passwords.check(password, None if found is None else found.password_hash)
        except BaseException:
            self._guard.succeeded(email, address)  # it was not tried
            raise
        if found is None or not is_right:
            self._guard.failed(email, address)
            raise Refused("invalid_credentials")
        self._guard.succeeded(email, address)
        if found.user.status != "ACTIVE":
            raise Refused("account_inactive")
        pair, session_id = self._pair(), self._new_id()
        if not await store.begin_session(self._pool, session_id, found.user.id, found.password_hash, address, pair):
            raise Refused("invalid_credentials")  # suspended, or given another password, while this one was checked
        return self._tokens(found.user, pair)

    async def refresh(self, token: Secret) -> Tokens:
        """Give new tokens for a refresh token, which is worth nothing from then on.

        One that is used again ends every session of its user, unless it comes so soon that two requests were sent at
        once: somebody else may have it.
        """
        claims = self._signer.verify(token.reveal(), "refresh")
        pair = self._pair()
        given = await store.rotate(self._pool, claims.jti, claims.sub, pair)
        if given is None:
            raise Refused("invalid_token")
        if given.is_rotated or not given.is_live:
            if given.is_late:
                ended = await self.revoke_all(claims.sub)
                log.warn(
                    "A refresh token of user {user_id} was used again: {ended} sessions ended",
                    user_id=claims.sub,
                    ended=ended,
                )
            raise Refused("token_revoked")
        if given.user.status != "ACTIVE":
            raise Refused("account_inactive")
        return self._tokens(given.user, pair)

    async def logout(self, token: Secret) -> str:
        """End the session of a refresh token, and return whose it was.

        A token that is worth nothing any more is refused with `token_revoked`; its session, if it lives, ends all the
        same, for nobody who holds such a token should keep it alive.
        """
        claims = self._signer.verify(token.reveal(), "refresh")
        given = await store.find_given(self._pool, claims.jti, claims.sub)
        if given is None:
            raise Refused("invalid_token")
        is_ours = await store.revoke_session(self._pool, given.session_id)
        self._credentials.stopped(session_key(given.session_id))
        if given.is_rotated or not is_ours:
            raise Refused("token_revoked")
        return given.user.id

    async def logout_all(self, caller: Caller) -> int:
        """End all sessions of a user, and return how many there were."""
        return await self.revoke_all(_user_of(caller))

    async def me(self, caller: Caller) -> User:
        """Return who asks."""
        user = await find_user(self._pool, _user_of(caller))
        if user is None:
            raise Refused("user_not_found")
        return user

    async def revoke_all(self, user_id: str, except_session: str | None = None) -> int:
        """End all sessions of a user but that one, at once, and return how many there were."""
        ended = await store.revoke_all(self._pool, user_id, except_session)
        for session_id in ended:
            self._credentials.stopped(session_key(session_id))
        return len(ended)

    async def prune(self) -> None:
        """Remove what nobody can use any more."""
        removed = await store.prune(self._pool)
        if removed:
            log.info("{removed} old sessions and refresh tokens were removed", removed=removed)

    def _pair(self) -> store.Pair:
        return store.Pair(self._new_id(), self._new_id(), REFRESH_SECONDS)

    def _tokens(self, user: User, pair: store.Pair) -> Tokens:
        sign = self._signer.sign
        return Tokens(
            Secret(sign("access", user.id, user.email, user.role, pair.access_jti, ACCESS_SECONDS)),
            Secret(sign("refresh", user.id, user.email, user.role, pair.refresh_jti, REFRESH_SECONDS)),
            ACCESS_SECONDS,
            user,
        )


def _user_of(caller: Caller) -> str:
    if caller.kind != "user" or caller.user_id is None:
        raise Refused("insufficient_permissions")
    return caller.user_id

"""Logging in, staying logged in, and logging out."""

from __future__ import annotations

import msgspec

from ledger.domain.identity import MAX_EMAIL
from ledger.domain.policy import Action, Caller
from ledger.domain.secret import Secret
from ledger.resources.endpoint import Answer, Call, Endpoint, Said
from ledger.resources.users import UserView, user_view
from ledger.services.sessions import Sessions, Tokens


class LogIn(msgspec.Struct, frozen=True):
    """Who wants to log in."""

    email: str
    password: Secret


class RefreshToken(msgspec.Struct, frozen=True):
    """A refresh token, to be exchanged or given up."""

    refresh_token: Secret


class LoggedIn(msgspec.Struct, frozen=True):
    """Tokens, shown this once: the access token is what requests bear, and lives `expires_in` seconds."""

    access_token: str
    refresh_token: str
    token_type: str
    expires_in: int
    user: UserView


class AuthEndpoints:
    """POST /api/auth/login, /refresh, /logout and /logout-all, GET /api/auth/me."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare them."""
        unread = ("missing_fields", "invalid_request")
        bad_token = ("invalid_token", "token_expired", "token_revoked", "invalid_token_type")
        return (
            Endpoint(
                "POST",
                "/api/auth/login",
                self.log_in,
                summary="Begin a session with e-mail address and password",
                policy=Action.LOG_IN,
                body=LogIn,
                answer=LoggedIn,
                refuses=(
                    *unread,
                    "invalid_credentials",
                    "account_inactive",
                    "rate_limit_exceeded",
                    "service_unavailable",
                ),
            ),
            Endpoint(
                "POST",
                "/api/auth/refresh",
                self.refresh,
                summary="Exchange a refresh token for new tokens",
                policy=Action.LOG_IN,
                body=RefreshToken,
                answer=LoggedIn,
                refuses=(*unread, *bad_token, "account_inactive", "service_unavailable"),
            ),
            Endpoint(
                "POST",
                "/api/auth/logout",
                self.log_out,
                summary="End the session of a refresh token",
                policy=Action.LOG_IN,
                body=RefreshToken,
                answer=Said,
                refuses=(*unread, *bad_token, "service_unavailable"),
            ),
            Endpoint(
                "POST",
                "/api/auth/logout-all",
                self.log_out_everywhere,
                summary="End all of the caller's sessions",
                policy=Action.MANAGE_SESSIONS,
                answer=Said,
                refuses=("service_unavailable",),
            ),
            Endpoint(
                "GET",
                "/api/auth/me",
                self.me,
                summary="The user who is logged in",
                policy=Action.MANAGE_SESSIONS,
                answer=UserView,
                refuses=("user_not_found", "service_unavailable"),
            ),
        )

    async def log_in(self, _caller: Caller | None, call: Call[LogIn, None]) -> Answer:
        """Check the password, and begin a session."""
        if "@" in call.body.email:  # else it may be a password in the wrong place
            call.notes["email"] = call.body.email.strip()[:MAX_EMAIL]
        return _given_out(await self._sessions.login(call.body.email, call.body.password, call.address))

    async def refresh(self, _caller: Caller | None, call: Call[RefreshToken, None]) -> Answer:
        """Rotate the token."""
        return _given_out(await self._sessions.refresh(call.body.refresh_token))

    async def log_out(self, _caller: Caller | None, call: Call[RefreshToken, None]) -> Answer:
        """End one session."""
        await self._sessions.logout(call.body.refresh_token)
        return Answer(Said("Logged out"))

    async def log_out_everywhere(self, caller: Caller, _call: Call[None, None]) -> Answer:
        """End every session, this one too."""
        await self._sessions.logout_all(caller)
        return Answer(Said("Logged out everywhere"))

    async def me(self, caller: Caller, _call: Call[None, None]) -> Answer:
        """Tell who asks."""
        return Answer(user_view(await self._sessions.me(caller)))


def _given_out(tokens: Tokens) -> Answer:
    return Answer(
        LoggedIn(
            access_token=tokens.access_token.reveal(),
            refresh_token=tokens.refresh_token.reveal(),
            token_type="Bearer",
            expires_in=tokens.expires_in,
            user=user_view(tokens.user),
        )
    )

"""Signed tokens: JWTs that say who logged in, made and read here and nowhere else."""

import re
from collections.abc import Callable
from typing import Final, Literal

import msgspec
from jwt import PyJWS
from jwt.exceptions import PyJWTError

from ledger.domain.errors import Refused

ACCESS_SECONDS: Final = 900
REFRESH_SECONDS: Final = 7 * 24 * 3600
LONGEST: Final = 4_096  # a token of ours is shorter, however long the e-mail address in it

_ALGORITHM: Final = "HS256"
_is_id = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z").match

TokenKind = Literal["access", "refresh"]


class Claims(msgspec.Struct, frozen=True):
    """What a token says; the role is what it was then, and the one in force is the database's."""

    sub: str
    email: str
    role: str
    type: TokenKind
    jti: str
    iat: int
    nbf: int
    exp: int
    iss: str
    aud: str


class Signer:
    """Signs and verifies with one secret, by one algorithm and one clock."""

    def __init__(
        self, secret: bytes, seconds: Callable[[], float], issuer: str = "ledger", audience: str = "ledger"
    ) -> None:
        self._secret = secret
        self._seconds = seconds
        self._issuer = issuer
        self._audience = audience
        self._jws = PyJWS([_ALGORITHM])
        # Not PyJWT's own claims: it would read the machine's clock, and escape an address to six times its length.
        self._claims = msgspec.json.Decoder(Claims)

    def sign(self, kind: TokenKind, user_id: str, email: str, role: str, jti: str, lifetime: int) -> str:
        """Return a token that is valid from now on, for so many seconds."""
        now = int(self._seconds())
        claims = Claims(
            sub=user_id,
            email=email,
            role=role,
            type=kind,
            jti=jti,
            iat=now,
            nbf=now,
            exp=now + lifetime,
            iss=self._issuer,
            aud=self._audience,
        )
        return self._jws.encode(msgspec.json.encode(claims), self._secret, _ALGORITHM)

    def verify(self, token: str, kind: TokenKind) -> Claims:
        """Return what a token of this kind says, or refuse.

        Reasons are `token_expired` and `invalid_token_type` for what was signed here, else `invalid_token`.
        """
        claims = self._read(token)
        now = self._seconds()
        if (
            claims.iss != self._issuer
            or claims.aud != self._audience
            or claims.nbf > now
            or claims.iat > now
            or not _is_id(claims.sub)
            or not _is_id(claims.jti)
        ):
            raise Refused("invalid_token")
        if claims.type != kind:
            raise Refused("invalid_token_type")
        if claims.exp <= now:
            raise Refused("token_expired")
        return claims

    def _read(self, token: str) -> Claims:
        if len(token) > LONGEST or not token.isascii():
            raise Refused("invalid_token")
        try:
            return self._claims.decode(self._jws.decode(token, self._secret, [_ALGORITHM]))
        except (PyJWTError, msgspec.DecodeError, ValueError, RecursionError):
            raise Refused("invalid_token") from None


def looks_signed(token: str) -> bool:
    """Whether this has the form of a signed token; an account's token has no dots."""
    return token.count(".") == 2

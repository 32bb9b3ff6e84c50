"""CORS: what pages of other origins may do, which is nothing unless their origin is configured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from ledger.resources.answers import Headers

_EXPOSED: Final = (
    b"X-Correlation-ID, Idempotent-Replayed, Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
)
_ACCEPTED: Final = b"Authorization, Content-Type, Idempotency-Key, X-Correlation-ID, Last-Event-ID"


class HeaderLines(Protocol):
    """The headers of a request, under the names that Twisted gives them."""

    def getRawHeaders(self, name: bytes) -> Sequence[bytes] | None: ...


class CrossOrigin:
    """The headers that permit the pages of the configured origins to call."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)

    def headers(self, fields: HeaderLines) -> Headers:
        """Return the headers of an answer."""
        if not self._origins:
            return ()
        origin = self._known(fields)
        if origin is None:
            return ((b"Vary", b"Origin"),)
        return (
            (b"Vary", b"Origin"),
            (b"Access-Control-Allow-Origin", origin),
            (b"Access-Control-Expose-Headers", _EXPOSED),
        )

    def preflight(self, fields: HeaderLines, allow: bytes) -> Headers:
        """Return the headers of the answer to OPTIONS, which permits a request with one of these methods to come."""
        if self._known(fields) is None:
            return self.headers(fields)
        return (
            *self.headers(fields),
            (b"Access-Control-Allow-Methods", allow),
            (b"Access-Control-Allow-Headers", _ACCEPTED),
            (b"Access-Control-Max-Age", b"600"),
        )

    def _known(self, fields: HeaderLines) -> bytes | None:
        given = fields.getRawHeaders(b"Origin") if self._origins else None
        return given[0] if given and given[0] in self._origins else None

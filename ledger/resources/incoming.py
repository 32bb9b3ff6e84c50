"""A request as an adapter hands it in, and what is read from its headers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ledger.domain.errors import Refused

_is_correlation_id = re.compile(rb"[\x20-\x7e]{1,128}\Z").match
_is_key = re.compile(rb"[\x20-\x7e]{1,255}\Z").match
_is_bearer = re.compile(rb"bearer +([\x21-\x7e]{1,4096})\Z", re.IGNORECASE).match


class HeaderFields(Protocol):
    """The headers of a request, under the names that Twisted gives them."""

    def getRawHeaders(self, name: bytes) -> Sequence[bytes] | None: ...
    def getAllRawHeaders(self) -> Iterable[tuple[bytes, Sequence[bytes]]]: ...


@dataclass(slots=True)
class Incoming:
    """A request as an adapter hands it in."""

    headers: HeaderFields
    query: bytes
    body: bytes
    peer: str


class CorrelationIds:
    """Makes the names that requests go by, where they bring none."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._ready: list[str] = []

    def of(self, incoming: Incoming) -> str:
        """Return the client's correlation id, if it is fit to be repeated, or a new one."""
        given = incoming.headers.getRawHeaders(b"X-Correlation-Id")
        if given and len(given) == 1 and _is_correlation_id(given[0]):
            return given[0].decode("ascii")
        if not self._ready:
            digits = self._random(16 * 128).hex()
            self._ready = [digits[start : start + 32] for start in range(0, len(digits), 32)]
        return self._ready.pop()


def bearer_of(given: Sequence[bytes] | None) -> str:
    """Return the token in an `Authorization` header, or refuse with `invalid_token`."""
    bearer = _is_bearer(given[0]) if given and len(given) == 1 else None
    if bearer is None:
        raise Refused("invalid_token")
    return bearer[1].decode("ascii")


def single_header(incoming: Incoming, name: str) -> str | None:
    """Return the value of a header that was sent once."""
    given = incoming.headers.getRawHeaders(name.encode())
    return given[0].decode("latin-1") if given is not None and len(given) == 1 else None


def idempotency_key(incoming: Incoming) -> str | None:
    """Return the key that the client gave, or refuse one that is none."""
    given = incoming.headers.getRawHeaders(b"Idempotency-Key")
    if given is None:
        return None
    if len(given) != 1 or not _is_key(given[0]):
        raise Refused("invalid_idempotency_key", field="Idempotency-Key")
    return given[0].decode("ascii")

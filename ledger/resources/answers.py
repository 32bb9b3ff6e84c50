"""What goes out: envelopes, refusals, and the headers that every answer carries; all rendered here and nowhere else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

import msgspec

from ledger.domain.errors import Refused

SECURITY_HEADERS: Final = (
    (b"X-Content-Type-Options", b"nosniff"),
    (b"X-Frame-Options", b"DENY"),
    (b"X-XSS-Protection", b"1; mode=block"),
    (b"Referrer-Policy", b"strict-origin-when-cross-origin"),
    (b"Content-Security-Policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"Cache-Control", b"no-store"),
)
TRANSPORT_SECURITY: Final = (b"Strict-Transport-Security", b"max-age=31536000; includeSubDomains")
JSON: Final = (b"Content-Type", b"application/json")
ENVELOPE: Final = b'{"data":'

REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}

to_json: Final = msgspec.json.Encoder().encode

Headers = tuple[tuple[bytes, bytes], ...]
Parts = Callable[[], Awaitable[bytes]]  # each call awaits the next part of a body; an empty one is its end


class Flow(msgspec.Struct, frozen=True):
    """A body that is made while it is sent: its parts, and what stands around them."""

    content_type: bytes
    parts: Parts
    before: bytes = b""
    after: bytes = b""


class Outgoing(msgspec.Struct, frozen=True):
    """One answer: what is said besides the standard headers, the length, the type and the correlation id."""

    status: int
    body: bytes
    correlation_id: str
    headers: Headers = ()
    flow: Flow | None = None  # instead of the body


class Instant:
    """The time as answers write it, made at most once a millisecond."""

    def __init__(self) -> None:
        self._second = -1
        self._prefix = ""
        self._milli = -1
        self._text = ""

    def text(self, seconds: float) -> str:
        """Return an instant of UTC with milliseconds."""
        milli = int(seconds * 1000)
        if milli != self._milli:
            second = milli // 1000
            if second != self._second:
                self._prefix = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
                self._second = second
            self._milli = milli
            self._text = f"{self._prefix}{milli % 1000:03d}Z"
        return self._text


def json_text(value: str) -> bytes:
    """Return a text as JSON."""
    return to_json(value) if '"' in value or "\\" in value else f'"{value}"'.encode()


def enveloped(data: Any, metadata: Any, timestamp: str, correlation_id: str) -> bytes:
    """Return the body of a success; data that is JSON already goes out byte for byte."""
    raw = data if data.__class__ is msgspec.Raw else to_json(data)
    return b"".join((ENVELOPE, raw, envelope_end(metadata, timestamp, correlation_id)))  # large ones copied but once


def envelope_end(metadata: Any, timestamp: str, correlation_id: str) -> bytes:
    """Return what follows the data in the body of a success; `ENVELOPE` comes before it."""
    more = b"" if metadata is None else b',"metadata":' + to_json(metadata)
    return b',"success":true,"timestamp":"%b","correlation_id":%b%b}' % (
        timestamp.encode(),
        json_text(correlation_id),
        more,
    )


class ErrorTold(msgspec.Struct, frozen=True):
    """What a refusal says, wherever it is told."""

    type: str
    message: str
    code: int
    reason: str
    details: dict[str, Any]


def error_told(refused: Refused) -> ErrorTold:
    """Return what a refusal says."""
    category = refused.category
    return ErrorTold(category.wire_type, refused.message, category.status, refused.reason, refused.details)


def refusal(refused: Refused, timestamp: str, correlation_id: str, headers: Headers = ()) -> Outgoing:
    """Return the answer that tells a refusal."""
    category = refused.category
    body = {
        "error": {
            "type": category.wire_type,
            "message": refused.message,
            "code": category.status,
            "reason": refused.reason,
            "details": refused.details,
            "timestamp": timestamp,
            "correlation_id": correlation_id,
        }
    }
    if category.status == 401:
        headers = (*headers, (b"WWW-Authenticate", b"Bearer"))
    elif category.status in (429, 503):
        headers = (*headers, (b"Retry-After", b"%d" % max(1, int(refused.details.get("retry_after", 1)))))
    return Outgoing(category.status, to_json(body), correlation_id, headers)

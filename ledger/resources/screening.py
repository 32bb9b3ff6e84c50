"""What no request may hold, wherever it stands: NUL, half of a surrogate pair, and what is nested too deeply."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from ledger.domain.errors import Refused

MAX_DEPTH: Final = 32
SUSPICIOUS: Final = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")  # NUL or half of a surrogate pair
NO_SUCH_TEXT: Final = "NUL and lone surrogates are not allowed"

_MOST_SHOWN: Final = 255
_ESCAPE: Final = re.compile(rb"\\.", re.DOTALL)
_NO_NESTING: Final = bytes(set(range(256)) - set(b'"[]{}'))
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")


def screen(body: bytes) -> None:
    """Refuse a JSON body that is nested too deeply, or holds text that cannot be kept."""
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and too_deep(body):
        raise Refused("invalid_request", "The body is nested too deeply")
    if not body.isascii() or SUSPICIOUS.search(body):
        _check_text(body)


def too_deep(body: bytes) -> bool:
    """Whether arrays and objects are nested deeper than allowed; what is not JSON at all may be called so too."""
    if b"\\" in body:
        body = _ESCAPE.sub(b"", body)
    brackets = b"".join(body.translate(_ONE_KIND, _NO_NESTING).split(b'"')[::2])
    for _ in range(MAX_DEPTH):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _check_text(body: bytes) -> None:
    """Refuse NUL and lone surrogates anywhere in the body, and what is not UTF-8."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise Refused("invalid_request", "The body is not UTF-8") from None
    try:
        content = json.loads(text) if SUSPICIOUS.search(body) else None
    except ValueError:
        raise Refused("invalid_request", "The body is not valid JSON") from None
    if isinstance(content, dict):
        for name, value in content.items():
            if _unclean(name) or _unclean(value):
                shown = "".join(c for c in name if c != "\0" and not "\ud800" <= c <= "\udfff")
                raise Refused("invalid_request", NO_SUCH_TEXT, field=shown[:_MOST_SHOWN])


def _unclean(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value or (not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value))
    if isinstance(value, dict):
        return any(_unclean(name) or _unclean(content) for name, content in value.items())
    return isinstance(value, list) and any(map(_unclean, value))

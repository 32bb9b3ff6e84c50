"""The readers of requests, one a type; and of requests that hold many of another type."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter

import msgspec

from ledger.domain.errors import Refused
from ledger.domain.secret import read_secret
from ledger.resources.reading import Reader, S, is_blank_json
from ledger.resources.screening import NO_SUCH_TEXT, SUSPICIOUS, too_deep


class BulkReader(Reader[S]):
    """Reads a request whose parts, raw as they are, are read one by one later: what is in them is screened then."""

    def body(self, body: bytes) -> S:
        """Return what a JSON body says, or refuse it."""
        try:
            return super().body(body)
        except RecursionError:
            raise Refused("invalid_request", "The body is nested too deeply") from None
        except Refused:
            # Half of a pair is no JSON to the decoder; a NUL is, and the parts' own matter.
            if SUSPICIOUS.search(body):
                raise Refused("invalid_request", NO_SUCH_TEXT, field=self._required[0]) from None
            raise

    def _screen(self, body: bytes) -> None:
        """Leave it to the readers of the parts."""


class PartReader(Reader[S]):
    """Reads many requests of one type, which stand in one body."""

    def __init__(self, kind: type[S], printable: type[S]) -> None:
        """`printable`: the same without the patterns that whatever is written in printable ASCII fulfils."""
        super().__init__(kind)
        self._many = _decoder_of_many(kind)
        self._many_printable = _decoder_of_many(printable)
        self._texts_of = tuple(map(attrgetter, self._texts))
        self._instants_of = tuple(attrgetter(name) for name, _ in self._moments)

    def bodies(self, parts: Sequence[msgspec.Raw]) -> Sequence[S | Refused]:
        """Return what each of them says, or its refusal in its place."""
        try:
            return self._together(parts)
        except (ValueError, RecursionError, Refused):
            return [self._alone(bytes(part)) for part in parts]

    def _together(self, parts: Sequence[msgspec.Raw]) -> Sequence[S]:
        """Read them at once; raises `ValueError` or `Refused` where one of them has to be looked at alone."""
        body = b"[%b]" % b",".join(parts)
        is_flat = body.count(b"{") + body.count(b"[") == len(parts) + 1
        is_printable = body.isascii() and b"\\" not in body and b"\x7f" not in body  # JSON has no other control bytes
        if not is_flat and too_deep(body):
            raise ValueError("nested deeply")
        if not is_printable:
            body.decode()
            if SUSPICIOUS.search(body):
                raise ValueError("text that cannot be kept")
        values = (self._many_printable if is_printable else self._many).decode(body)
        if not all(all(map(str.strip, map(text, values))) for text in self._texts_of):
            raise ValueError("something is missing")
        if any(is_blank_json(getattr(value, name)) for name in self._money for value in values):
            raise ValueError("an amount is missing")
        if self._ids or any(any(map(instant, values)) for instant in self._instants_of):
            return [self._normalised(value) for value in values]
        return values

    def _alone(self, body: bytes) -> S | Refused:
        try:
            return self.body(body)
        except Refused as refused:
            return refused


def _decoder_of_many(kind: type[S]) -> msgspec.json.Decoder[list[S]]:
    return msgspec.json.Decoder(list[kind], dec_hook=read_secret)  # type: ignore[valid-type]


@lru_cache
def reader_of(kind: type[S], *, is_bulk: bool = False) -> Reader[S]:
    """Return the one reader of a type of request: to make it takes a while."""
    return BulkReader(kind) if is_bulk else Reader(kind)

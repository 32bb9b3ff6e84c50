"""Reading what a client sent: JSON bodies and query strings into Structs, and the refusals where that fails.

Where a key stands twice in one object, the last one counts. The fast way is one call of msgspec; only when that
fails, or when the text could hide something, is the input looked at again to name the field that is to blame.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Final, Generic, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from ledger.domain.errors import Refused
from ledger.domain.secret import Secret, read_secret
from ledger.resources.screening import screen

MAX_TEXT: Final = 255

_UUID = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\Z"
_is_uuid = re.compile(_UUID).match
_is_decimal = re.compile(r"-?[0-9]{1,64}(?:\.[0-9]{1,64})?\Z").match

_UUID_META = Meta(pattern=_UUID, extra_json_schema={"format": "uuid"}, extra={"reason": "invalid_uuid_format"})
_MONEY_META = Meta(
    extra_json_schema={"type": ["string", "number"], "examples": ["50.00"]}, extra={"reason": "invalid_amount_format"}
)

Id = Annotated[str, _UUID_META]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Moment = Annotated[datetime, Meta(tz=True, extra={"reason": "invalid_datetime_format"})]
Money = Annotated[msgspec.Raw, _MONEY_META]  # the text exactly as written; `amount_text` opens it

S = TypeVar("S", bound=msgspec.Struct)

_before_value = re.compile(r" ['\"]").split  # what follows would be the value itself, however long
_NOTHING: Final = (b"", b"null")  # a field that was left out, and one that might have been
_BLANKS = frozenset((b'"', b" ", b"\\", b"\xc2", b"\xe1", b"\xe2", b"\xe3"))  # how a string of white space can begin


def is_identifier(text: str) -> bool:
    """Whether a text is a UUID."""
    return _is_uuid(text) is not None


def identifier(text: str, name: str) -> str:
    """Return a UUID in lower case, or refuse with `invalid_uuid_format`."""
    if not _is_uuid(text):
        raise Refused("invalid_uuid_format", field=name)
    return text.lower()


def amount_text(raw: msgspec.Raw, name: str = "amount") -> str:
    """Return the plain decimal that a JSON string or number stands for, as it was written, or refuse it."""
    text = bytes(raw).decode()
    if text.startswith('"'):
        text = str(msgspec.json.decode(text)) if "\\" in text else text[1:-1]
    if not _is_decimal(text):
        raise Refused("invalid_amount_format", field=name)
    return text


def in_utc(moment: datetime, name: str) -> datetime:
    """Return an instant in UTC, or refuse one that lies beyond the calendar there."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise Refused("invalid_datetime_format", field=name) from None


class Reader(Generic[S]):
    """Reads one type of request."""

    def __init__(self, kind: type[S]) -> None:
        fields = msgspec.structs.fields(kind)
        self._kind = kind
        self._decoder = msgspec.json.Decoder(kind, dec_hook=read_secret)
        self._types = {field.encode_name: field.type for field in fields}
        self._required = tuple(field.encode_name for field in fields if field.required)
        self._ids = tuple(field.name for field in fields if _reason(field.type) == "invalid_uuid_format")
        self._optional = tuple((field.name, field.encode_name) for field in fields if not field.required)
        self._moments = tuple((f.name, f.encode_name) for f in fields if _reason(f.type) == "invalid_datetime_format")
        self._money = tuple(f.name for f in fields if f.required and _reason(f.type) == "invalid_amount_format")
        self._texts = tuple(f.name for f in fields if f.required and f.name not in self._ids + self._money)

    @property
    def may_be_empty(self) -> bool:
        """Whether no body at all says as much as one without a field."""
        return not self._required

    def body(self, body: bytes) -> S:
        """Return what a JSON body says, or refuse it, naming the field where one is to blame."""
        if not body and self.may_be_empty:
            body = b"{}"
        self._screen(body)
        try:
            value = self._decoder.decode(body)
        except msgspec.DecodeError:
            raise self._explain(body) from None
        for name in self._texts:
            if is_blank(getattr(value, name)):
                raise self._explain(body)
        for name in self._money:
            if is_blank_json(getattr(value, name)):
                raise self._explain(body)
        return self._normalised(value)

    def _screen(self, body: bytes) -> None:
        """Refuse what no request may hold."""
        screen(body)

    def query(self, query: bytes) -> S:
        """Return what a query string says, or refuse it; of a parameter that is repeated, the last one counts."""
        try:
            given = dict(parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100))
        except ValueError:
            raise Refused("invalid_request", "The query string could not be read") from None
        for name, value in given.items():
            if "\0" in name or "\0" in value:
                raise Refused("invalid_request", "NUL is not allowed", field=name.replace("\0", "")[:MAX_TEXT])
        try:
            read = msgspec.convert(given, self._kind, strict=False)
        except msgspec.ValidationError:
            self._require(name for name, value in given.items() if not is_blank(value))
            for name, value in given.items():
                self._check(name, value, partial(_convert, value))
            raise Refused("invalid_request") from None
        for _, name in self._moments:
            if (text := given.get(name)) is not None:  # a number is taken for one, too
                self._check(name, text, partial(msgspec.convert, text))
        for field, name in self._optional:
            if (text := given.get(name)) is not None and getattr(read, field) is None:  # it said "null"
                self._check(name, text, partial(msgspec.convert, text))
                msgspec.structs.force_setattr(read, field, text)
        return self._normalised(read)

    def _normalised(self, value: S) -> S:
        for field, name in self._moments:
            if (moment := getattr(value, field)) is not None:
                msgspec.structs.force_setattr(value, field, in_utc(moment, name))
        for name in self._ids:
            text = getattr(value, name)
            if text is not None and text != (lower := text.lower()):
                msgspec.structs.force_setattr(value, name, lower)
        return value

    def _explain(self, body: bytes) -> Refused:
        """Find out what is wrong with a body; the first trouble in the order of the contract is the answer."""
        try:
            given = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        except msgspec.ValidationError:
            return Refused("invalid_request", "The body must be a JSON object")
        except msgspec.DecodeError:
            return Refused("invalid_request", "The body is not valid JSON")
        self._require(name for name, raw in given.items() if not is_blank_json(raw))
        for name, raw in given.items():
            self._check(name, bytes(raw), partial(_decode, raw))
        return Refused("invalid_request")

    def _require(self, given: Iterable[str]) -> None:
        missing = sorted(set(self._required).difference(given), key=self._required.index)
        if missing:
            raise Refused("missing_fields", field=missing[0], fields=missing)

    def _check(self, name: str, value: str | bytes, read: Callable[[Any], Any]) -> None:
        if (kind := self._types.get(name)) is None:
            return
        try:
            read(kind)
        except msgspec.ValidationError as error:
            is_text = isinstance(value, str) or value.startswith(b'"')
            if is_text and (reason := _reason(kind)) is not None:
                raise Refused(reason, field=name) from None
            message = _before_value(str(error))[0]
            raise Refused("invalid_request", message, field=name) from None


def _convert(text: str, kind: Any) -> None:
    msgspec.convert(text, kind, strict=False)


def _decode(raw: msgspec.Raw, kind: Any) -> None:
    msgspec.json.decode(raw, type=kind, dec_hook=read_secret)


def is_blank(value: Any) -> bool:
    """Whether a text, or a field that is null, says nothing."""
    if value.__class__ is Secret:
        value = value.reveal()
    return value is None or (value.__class__ is str and (not value or value.isspace()))


def is_given(raw: msgspec.Raw) -> bool:
    """Whether a field that may be left out says anything: null does not."""
    return bytes(raw) not in _NOTHING


def is_blank_json(value: msgspec.Raw) -> bool:
    """Whether a field, as JSON has it, says nothing."""
    raw = bytes(value)
    return raw in _NOTHING or (raw[:1] == b'"' and raw[1:2] in _BLANKS and is_blank(msgspec.json.decode(raw)))


def _reason(kind: Any) -> str | None:
    """The reason that a type of field is refused with, if it has one of its own."""
    info = msgspec.inspect.type_info(kind)
    for part in getattr(info, "types", (info,)):
        if isinstance(part, msgspec.inspect.Metadata) and part.extra and "reason" in part.extra:
            return str(part.extra["reason"])
    return None

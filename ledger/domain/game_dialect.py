"""The dialect of the game wallet: how a body is read, and every status that it can be answered with."""

import json
import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final, NoReturn, TypeGuard

import msgspec

from ledger.domain.journal import canonical
from ledger.domain.money import DEFAULT_MAX_AMOUNT

OK: Final = "RS_OK"
UNKNOWN: Final = "RS_ERROR_UNKNOWN"
INVALID_PARTNER: Final = "RS_ERROR_INVALID_PARTNER"
INVALID_SIGNATURE: Final = "RS_ERROR_INVALID_SIGNATURE"
WRONG_SYNTAX: Final = "RS_ERROR_WRONG_SYNTAX"
WRONG_TYPES: Final = "RS_ERROR_WRONG_TYPES"
WRONG_CURRENCY: Final = "RS_ERROR_WRONG_CURRENCY"
USER_DISABLED: Final = "RS_ERROR_USER_DISABLED"
NOT_ENOUGH_MONEY: Final = "RS_ERROR_NOT_ENOUGH_MONEY"
DUPLICATE_TRANSACTION: Final = "RS_ERROR_DUPLICATE_TRANSACTION"
TRANSACTION_DOES_NOT_EXIST: Final = "RS_ERROR_TRANSACTION_DOES_NOT_EXIST"

STATUSES: Final = (
    OK,
    UNKNOWN,
    INVALID_PARTNER,
    INVALID_SIGNATURE,
    WRONG_SYNTAX,
    WRONG_TYPES,
    WRONG_CURRENCY,
    USER_DISABLED,
    NOT_ENOUGH_MONEY,
    DUPLICATE_TRANSACTION,
    TRANSACTION_DOES_NOT_EXIST,
)

CURRENCY: Final = "USD"
MAX_NAME: Final = 255
MAX_DEPTH: Final = 32
MAX_METADATA: Final = 16_384  # bytes of JSON that a record keeps of the fields that are nothing to us
MAX_CONTENT: Final = 1_024  # bytes of JSON of one field that is compared; of a longer one there is a digest
MAX_DIGITS: Final = 400  # of an integer that is read as one: twenty would do

_REQUIRED: Final = {
    "bet": ("user", "transaction_uuid", "request_uuid", "currency", "amount"),
    "win": ("user", "transaction_uuid", "request_uuid", "currency", "amount", "reference_transaction_uuid"),
    "rollback": ("user", "transaction_uuid", "request_uuid", "reference_transaction_uuid"),
}
_REQUIRED_TO_ASK: Final = ("user", "request_uuid")

# What is kept before all else, where not everything can be.
_FIRST_OF_METADATA: Final = ("request_uuid", "reference_transaction_uuid", "round", "game_code")

_is_uuid = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.ASCII).fullmatch


class Misread(Exception):
    """A body that is no request; `answer` is what to tell whoever sent it."""

    def __init__(self, status: str, body: object) -> None:
        super().__init__(status)
        self.answer = declined(status, body)


class GameRequest(msgspec.Struct, frozen=True, gc=False):
    """Who is meant, and what the answer is told apart by."""

    user: str
    request_uuid: str


class Transaction(GameRequest, frozen=True, gc=False):
    """A bet, a win or a rollback, as it is asked for."""

    kind: str
    transaction_uuid: str
    currency: Any  # these five as the body has them, unless they are very long
    amount: Any
    game_round: Any
    game_code: Any
    reference: Any
    metadata: Mapping[str, Any]

    @property
    def content(self) -> Any:
        """What makes two requests with one uuid the same, but for kind and user."""
        return (self.currency, self.amount, self.game_round, self.game_code, self.reference)


def read_json(body: bytes) -> Any:
    """Return what a JSON text says, or None where it is not JSON.

    Where a number is beyond any range, those that are no plain integers become arrays of their text, which is of no
    type that a field may have.
    """
    try:
        return msgspec.json.decode(body)
    except Exception:  # a number out of range, too, which leaves the text JSON
        try:
            return json.loads(body.decode(), parse_int=_integer, parse_float=_text, parse_constant=_no_constant)
        except Exception:
            return None


def _integer(digits: str) -> int | list[str]:
    return int(digits) if len(digits) <= MAX_DIGITS else _text(digits)


def _text(number: str) -> list[str]:
    return [number]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def read_question(body: object) -> GameRequest:
    """Return the request for a balance that a body is, or raise `Misread`."""
    given, _ = _checked(body, _REQUIRED_TO_ASK)
    user, request_uuid = given["user"], given["request_uuid"]
    if type(user) is not str or type(request_uuid) is not str or not _is_uuid(request_uuid):
        raise Misread(WRONG_TYPES, body)
    return GameRequest(user, request_uuid)


def read_transaction(kind: str, body: object, most: int = DEFAULT_MAX_AMOUNT) -> Transaction:
    """Return the bet, win or rollback that a body is, or raise `Misread`."""
    rest, size = _checked(body, _REQUIRED[kind])
    user, transaction_uuid, request_uuid = rest.pop("user"), rest.pop("transaction_uuid"), rest["request_uuid"]
    reference = rest.get("reference_transaction_uuid")
    if (
        type(user) is not str
        or type(transaction_uuid) is not str
        or type(request_uuid) is not str
        or not _is_uuid(transaction_uuid)
        or not _is_uuid(request_uuid)
        or (kind != "bet" and (type(reference) is not str or not _is_uuid(reference)))
    ):
        raise Misread(WRONG_TYPES, body)
    if kind == "rollback":
        currency, amount = rest.get("currency"), rest.get("amount")
    else:
        currency, amount = rest.pop("currency"), rest.pop("amount")
        if type(currency) is not str or type(amount) is not int or not 0 <= amount <= most:
            raise Misread(WRONG_TYPES, body)
    game_round, game_code = rest.get("round"), rest.get("game_code")
    if size > MAX_CONTENT:
        currency, amount, game_round, game_code, reference = map(
            _comparable, (currency, amount, game_round, game_code, reference)
        )
    metadata = rest if size <= MAX_METADATA else _within_limit(rest)
    return Transaction(
        user, request_uuid, kind, transaction_uuid, currency, amount, game_round, game_code, reference, metadata
    )


def _checked(body: object, required: tuple[str, ...]) -> tuple[dict[str, Any], int]:
    """Return a copy of a body and the length of its JSON, if it is an object that has these fields."""
    if not isinstance(body, dict):
        raise Misread(WRONG_SYNTAX, body)
    given = dict(body)
    for name in required:
        if name not in given:
            raise Misread(WRONG_SYNTAX, given)
    try:
        text = canonical(given)
    except Exception:  # whatever a caller in this process has put in
        raise Misread(WRONG_SYNTAX, given) from None
    if text.count(b"{") + text.count(b"[") > MAX_DEPTH and _is_deeper(given, MAX_DEPTH):
        raise Misread(WRONG_SYNTAX, given)
    return given, len(text)


def _is_deeper(value: object, allowed: int) -> bool:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return False
    return allowed == 0 or any(_is_deeper(inner, allowed - 1) for inner in value)


def _comparable(value: object) -> object:
    text = canonical(value)
    return value if len(text) <= MAX_CONTENT else [blake2b(text, digest_size=16).hexdigest()]


def _within_limit(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return as many fields as a record keeps: those that answer to us first, then the shortest."""
    sizes = {name: len(canonical({name: value})) for name, value in fields.items()}
    kept, room = {}, MAX_METADATA
    for name in sorted(fields, key=lambda name: (name not in _FIRST_OF_METADATA, sizes[name], name)):
        if sizes[name] <= room:
            kept[name] = fields[name]
            room -= sizes[name]
    return kept


def accepted(request: GameRequest, balance: int) -> dict[str, Any]:
    """Return the answer to a request that was granted."""
    return {
        "user": request.user,
        "status": OK,
        "request_uuid": request.request_uuid,
        "currency": CURRENCY,
        "balance": balance,
    }


def declined(status: str, body: object) -> dict[str, Any]:
    """Return the answer to a body that is not granted, with as much of the sender's own as could be read."""
    answer: dict[str, Any] = {"status": status}
    if isinstance(body, dict):
        if is_name(user := body.get("user")):
            answer = {"user": user, **answer}
        if type(request_uuid := body.get("request_uuid")) is str and _is_uuid(request_uuid):
            answer["request_uuid"] = request_uuid
    return answer


def is_name(value: object) -> TypeGuard[str]:
    """Whether a game user can have this name: a text that is not empty, as long as it can be kept."""
    if type(value) is not str or not 0 < len(value) <= MAX_NAME:
        return False
    return (value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)) and "\0" not in value

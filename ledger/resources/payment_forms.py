"""What clients write of payments: read field by field, so that the first one that fails decides."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from ledger.domain.account_commands import AccountView
from ledger.domain.errors import Refused
from ledger.domain.payments import (
    DIRECTIONS,
    LONGEST_DESCRIPTION,
    PAYMENT_TYPES,
    STATUSES,
    Direction,
    DraftTold,
    PaymentType,
)
from ledger.resources.paging import OffsetQuery
from ledger.resources.reading import Id, Money, amount_text, identifier, in_utc
from ledger.store.payments import PaymentFilter

T = TypeVar("T", bound=str)

_ONE_DAY: Final = timedelta(days=1)
_LAST_DAY: Final = datetime.max.replace(tzinfo=UTC) - _ONE_DAY
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


def _nothing() -> msgspec.Raw:
    return msgspec.Raw(b"null")


class PaymentForm(msgspec.Struct, frozen=True):
    """The fields as they are written, whatever they are."""

    amount: msgspec.Raw = msgspec.field(default_factory=_nothing)
    direction: msgspec.Raw = msgspec.field(default_factory=_nothing)
    payment_type: msgspec.Raw = msgspec.field(default_factory=_nothing)
    description: msgspec.Raw = msgspec.field(default_factory=_nothing)
    user_bank_account_id: msgspec.Raw = msgspec.field(default_factory=_nothing)


class PaymentWanted(msgspec.Struct, frozen=True):
    """A payment into or out of an account; direction and type are taken without case."""

    amount: Money
    direction: Annotated[str, Meta(extra_json_schema={"enum": list(DIRECTIONS)})]
    payment_type: Annotated[str, Meta(extra_json_schema={"enum": list(PAYMENT_TYPES)})]
    description: Annotated[str, Meta(min_length=1, max_length=LONGEST_DESCRIPTION)]
    user_bank_account_id: Id


class ScheduleWanted(msgspec.Struct, frozen=True):
    """When a payment is to be processed: 0 is the most urgent priority."""

    priority: Annotated[int, Meta(ge=0, le=9)] | None = None
    delay_seconds: Annotated[int, Meta(ge=0, le=366 * 86_400)] | None = None


_Direction = Annotated[str, Meta(examples=["DEBIT"])]
_Status = Annotated[str, Meta(examples=["PENDING"])]
_Type = Annotated[str, Meta(examples=["PAYMENT"])]
_Date = Annotated[str, Meta(examples=["2026-01-31", "2026-01-31T12:00:00Z"])]


class PaymentsQuery(OffsetQuery, frozen=True, kw_only=True):
    """Which page of one's payments; a day counts from its beginning to its end, in UTC."""

    sort: Annotated[str, Meta(examples=["inserted_at:desc"])] | None = None
    direction: _Direction | None = None
    status: _Status | None = None
    payment_type: _Type | None = None
    date_from: _Date | None = None
    date_to: _Date | None = None


class StatsQuery(msgspec.Struct, frozen=True):
    """Whose; left out, one's own."""

    user_id: Id | None = None


class Broken(msgspec.Struct, frozen=True):
    """The rule that a payment would break."""

    reason: str
    message: str
    code: int


class Validation(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether a payment could be made and processed now, and if not, why."""

    valid: bool
    message: str
    payment: DraftTold
    account: AccountView
    error: Broken | None = None


class Written(msgspec.Struct, frozen=True):
    """A payment as it is asked for, its account aside: that is looked at last."""

    amount: str
    direction: Direction
    payment_type: PaymentType
    description: str
    account: msgspec.Raw


def named_account(form: PaymentForm) -> str | None:
    """Return the account that a form names, or None where it names none properly."""
    text = _value(form.user_bank_account_id)
    try:
        return identifier(text, "user_bank_account_id") if isinstance(text, str) else None
    except Refused:
        return None


def read_form(form: PaymentForm, scale: int | None, *, any_amount: bool) -> Written:
    """Return what a form says, or refuse the first field that fails; `scale` is the account's, as far as it is known.

    Zero and less is no amount of a payment, unless `any_amount` is left for the rules to judge.
    """
    blank = [name for name in form.__struct_fields__ if _is_blank(getattr(form, name))]
    _require("amount", blank)
    amount = amount_text(form.amount)
    if scale is not None:
        minor_units(amount, scale)
    if not any_amount:
        require_positive(amount)
    _require("direction", blank)
    direction = check_direction(_text(form.direction, "direction"))
    _require("payment_type", blank)
    payment_type = check_type(_text(form.payment_type, "payment_type"))
    _require("description", blank)
    description = _text(form.description, "description").strip()
    if len(description) > LONGEST_DESCRIPTION:
        raise Refused("invalid_request", f"At most {LONGEST_DESCRIPTION} characters", field="description")
    return Written(amount, direction, payment_type, description, form.user_bank_account_id)


def read_account(written: Written) -> str:
    """Return the account that a payment is for, or refuse what is no id."""
    if _is_blank(written.account):
        raise _missing(["user_bank_account_id"])
    return identifier(_text(written.account, "user_bank_account_id"), "user_bank_account_id")


def require_positive(amount: str) -> None:
    """Refuse zero and less."""
    if amount.startswith("-") or not amount.strip("0."):
        raise Refused("negative_amount", field="amount")


def minor_units(amount: str, scale: int) -> int:
    """Return the minor units of a plain decimal, however many, zero and less too, or refuse too many decimals."""
    whole, _, fraction = amount.partition(".")
    if len(fraction) > scale:
        raise Refused("invalid_amount_format", field="amount", scale=scale)
    return int(whole + fraction.ljust(scale, "0"))


def check_direction(text: str) -> Direction:
    """Return a direction, or refuse what is none."""
    return _one_of(text, DIRECTIONS, "invalid_direction", "direction")


def check_type(text: str) -> PaymentType:
    """Return a type of payments, or refuse what is none."""
    return _one_of(text, PAYMENT_TYPES, "invalid_payment_type", "payment_type")


def filter_of(query: PaymentsQuery) -> PaymentFilter:
    """Return which payments a query asks for, or refuse what it cannot ask for."""
    return PaymentFilter(
        direction=None if query.direction is None else check_direction(query.direction),
        status=None if query.status is None else _one_of(query.status, STATUSES, "invalid_status", "status"),
        payment_type=None if query.payment_type is None else check_type(query.payment_type),
        since=None if query.date_from is None else _moment(query.date_from, "date_from", is_end=False),
        before=None if query.date_to is None else _moment(query.date_to, "date_to", is_end=True),
    )


def _moment(text: str, field: str, *, is_end: bool) -> datetime:
    """Return the instant that a date or an instant stands for: a day's first, or where it is an end, the next day's."""
    try:
        if _DAY.fullmatch(text):
            day = datetime.fromisoformat(text).replace(tzinfo=UTC)
            return day if not is_end else datetime.max.replace(tzinfo=UTC) if day > _LAST_DAY else day + _ONE_DAY
        moment = msgspec.convert(text, datetime)
        if moment.tzinfo is None:
            raise ValueError
    except (ValueError, OverflowError):
        raise Refused("invalid_datetime_format", field=field) from None
    return in_utc(moment, field)


def _one_of(text: str, known: tuple[T, ...], reason: str, field: str) -> T:
    wanted = text.strip()
    for one in known:
        if wanted.isascii() and one == wanted.upper():  # some other letters have upper cases that are ASCII
            return one
    raise Refused(reason, field=field, known=list(known))


def _value(raw: msgspec.Raw) -> Any:
    return msgspec.json.decode(raw)


def _is_blank(raw: msgspec.Raw) -> bool:
    if bytes(raw)[:1] not in (b"n", b'"'):
        return False
    value = _value(raw)
    return value is None or not str(value).strip()


def _text(raw: msgspec.Raw, field: str) -> str:
    value = _value(raw)
    if not isinstance(value, str):
        raise Refused("invalid_request", "Expected a text", field=field)
    return value


def _require(field: str, blank: list[str]) -> None:
    if field in blank:
        raise _missing(blank)


def _missing(fields: list[str]) -> Refused:
    return Refused("missing_fields", field=fields[0], fields=fields)

"""What clients say of a transfer, and the command that it means: for one request, or for thousands in a batch."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from ledger.domain.accounts import Owner
from ledger.domain.commands import Leg
from ledger.domain.errors import Refused
from ledger.domain.game_users import ASSET as GAMES_ASSET
from ledger.domain.journal import canonical
from ledger.domain.money import MAX_AMOUNT, asset_named, parse_amount
from ledger.domain.periods import instant_of
from ledger.domain.policy import Action, Caller, require_account
from ledger.domain.transfers import MOST_LEGS, Expectation, Transfer, field_of
from ledger.resources.backend import Config
from ledger.resources.expectations import AnId, ExpectRequest, expectation_of, expected_of
from ledger.resources.plain_legs import plain_leg
from ledger.resources.reading import Moment, Money, Text, amount_text, identifier, in_utc, is_blank_json, is_identifier

MOST_METADATA: Final = 16_384  # bytes of JSON: the journal keeps it for ever, and the feed in memory

REFUSES: Final = (
    "missing_fields",
    "invalid_request",
    "invalid_uuid_format",
    "invalid_amount_format",
    "invalid_datetime_format",
    "invalid_idempotency_key",
    "insufficient_permissions",
    "unauthorized_access",
    "forbidden",
    "account_not_found",
    "duplicate_transaction",
    "version_conflict",
    "negative_amount",
    "amount_exceeds_limit",
    "insufficient_funds",
    "currency_mismatch",
    "account_frozen",
    "account_suspended",
    "account_inactive",
    "period_closed",
    "service_unavailable",
)


class LegRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An amount that is to go from one account to another; all three are required."""

    source: AnId | None = msgspec.field(name="from", default=None)
    target: AnId | None = msgspec.field(name="to", default=None)
    amount: Money = msgspec.field(default_factory=msgspec.Raw)


class TransferRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A transfer: `from`, `to` and `amount`, or 2 to 100 `legs`, all or nothing; `effective_at` is for admins."""

    source: AnId | None = msgspec.field(name="from", default=None)
    target: AnId | None = msgspec.field(name="to", default=None)
    amount: Money = msgspec.field(default_factory=msgspec.Raw)
    legs: Annotated[list[LegRequest], Meta(min_length=2, max_length=MOST_LEGS)] | None = None
    description: Text | None = None
    metadata: dict[str, Any] | None = None
    expect: ExpectRequest | None = None
    effective_at: Moment | None = None


_Part = TransferRequest | LegRequest


class _Meant(msgspec.Struct, frozen=True, gc=False):
    """What a request comes to, once its accounts are known; `shown`: those that the caller may read, None for all."""

    legs: tuple[Leg, ...]
    assets: tuple[str, ...]
    shown: set[str] | None = None
    expect: Expectation | None = None


def accounts_of(request: TransferRequest) -> Iterable[str]:
    """Return the accounts that a request names; what cannot be the id of one is passed over."""
    parts: Sequence[_Part] = (request,) if request.legs is None else request.legs
    named = [text.lower() for part in parts for text in (part.source, part.target) if text is not None]
    if request.expect is not None and request.expect.account_id is not None:
        named.append(request.expect.account_id.lower())
    return filter(is_identifier, named)


def command_of(
    request: TransferRequest,
    owners: Mapping[str, Owner],
    caller: Caller,
    record_id: str,
    scope: str | None,
    key: str | None,
    config: Config,
) -> Transfer:
    """Return the transfer that a request means, if the caller may make it; `owners` are those of its accounts.

    Its form is checked first, then whose the accounts are, then the amounts. Whether the caller may backdate is not
    looked at here: the role alone decides that, before anything is read.
    """
    if caller.is_admin and (plain := _plain(request, owners)) is not None:
        leg, asset = plain
        return Transfer(
            id=record_id,
            scope=scope,
            key=key,
            description=request.description,
            legs=(leg,),
            assets=(asset,),
            most=config.max_amount,
        )
    meant = _in_full(request, owners, caller)
    return Transfer(
        id=record_id,
        scope=scope,
        key=key,
        description=request.description,
        metadata=request.metadata,
        legs=meant.legs,
        assets=meant.assets,
        shown=meant.shown,
        expect=meant.expect,
        effective_at=None if request.effective_at is None else _effective(request.effective_at),
        most=config.max_amount,
    )


def _plain(request: TransferRequest, owners: Mapping[str, Owner]) -> tuple[Leg, str] | None:
    """Return the leg, and its asset, of what most transfers of a batch are, at a third of the cost; None for others."""
    if request.legs is not None or request.expect is not None:
        return None
    if request.metadata is not None or request.effective_at is not None:
        return None
    giver, taker = owners.get(request.source or ""), owners.get(request.target or "")
    if giver is None or taker is None:
        return None
    leg = plain_leg(giver, taker, bytes(request.amount))
    return None if leg is None else (leg, giver.asset)


def _in_full(request: TransferRequest, owners: Mapping[str, Owner], caller: Caller) -> _Meant:
    forms = _forms(request, owners)
    expected = None if request.expect is None else expected_of(request.expect)
    if request.metadata is not None and len(canonical(request.metadata)) > MOST_METADATA:
        raise Refused("invalid_request", "The metadata is too long", field="metadata", limit=MOST_METADATA)
    legs, assets = [], []
    shown: set[str] | None = None if caller.is_admin else set()
    for index, (source, target, text) in enumerate(forms):
        giver, taker = owners.get(source), owners.get(target)
        if giver is None or shown is not None:
            giver = _giver(giver, caller, forms, index)
        if taker is None or (shown is not None and taker.is_system):
            raise Refused("account_not_found", field=field_of(forms, index, "to"))
        asset = giver.asset
        if GAMES_ASSET in (asset, taker.asset):
            field = field_of(forms, index, "from" if asset == GAMES_ASSET else "to")
            raise Refused("forbidden", "This is the account of a game user", field=field)
        amount = parse_amount(text, asset_named(asset).scale, MAX_AMOUNT, field_of(forms, index, "amount"))
        legs.append(Leg(source, target, amount))
        assets.append(asset)
        if shown is not None:
            shown.update(owner.account_id for owner in (giver, taker) if may_read(caller, owner))
    expect = None if expected is None else expectation_of(expected, owners, caller)
    return _Meant(tuple(legs), tuple(assets), shown, expect)


def may_read(caller: Caller, owner: Owner) -> bool:
    """Whether a caller may know what is in an account."""
    try:
        require_account(caller, Action.READ_BALANCE, owner)
    except Refused:
        return False
    return True


def _forms(request: TransferRequest, owners: Container[str]) -> Sequence[tuple[str, str, str]]:
    """Return the legs as they are written, each with both ids and the amount, or refuse what cannot be a leg."""
    parts: Sequence[_Part] = (request,) if request.legs is None else request.legs
    if request.legs is not None and not all(blank for _, blank in _blanks(request)):
        raise Refused("invalid_request", "Either one leg or `legs`, not both", field="legs")
    forms = []
    for index, part in enumerate(parts):
        source, target = part.source or "", part.target or ""
        if source not in owners or target not in owners or not _begins_with_digit(part.amount):
            source, target = _ends(parts, index)  # which says what is wrong with them, if they are not only unknown
        text = amount_text(part.amount, field_of(parts, index, "amount"))
        if source == target:
            message = "An account transfers nothing to itself"
            raise Refused("invalid_request", message, field=field_of(parts, index, "to"))
        forms.append((source, target, text))
    return forms


def _ends(parts: Sequence[_Part], index: int) -> tuple[str, str]:
    part = parts[index]
    missing = [field_of(parts, index, name) for name, blank in _blanks(part) if blank]
    if missing:
        raise Refused("missing_fields", field=missing[0], fields=missing)
    source = identifier(part.source or "", field_of(parts, index, "from"))
    return source, identifier(part.target or "", field_of(parts, index, "to"))


def _begins_with_digit(raw: msgspec.Raw) -> bool:
    return bytes(raw).strip(b'"')[:1].isdigit()


def _blanks(part: _Part) -> Iterable[tuple[str, bool]]:
    return (
        ("from", part.source is None or not part.source.strip()),
        ("to", part.target is None or not part.target.strip()),
        ("amount", is_blank_json(part.amount)),
    )


def _giver(owner: Owner | None, caller: Caller, forms: Sequence[object], index: int) -> Owner:
    """Return the account that gives in a leg, if the caller may take money out of it."""
    if owner is not None and caller.is_admin:
        return owner
    try:
        return require_account(caller, Action.MOVE_MONEY, owner)
    except Refused as refused:
        raise Refused(refused.reason, field=field_of(forms, index, "from")) from None


def _effective(moment: datetime) -> str:
    return instant_of(in_utc(moment, "effective_at"))

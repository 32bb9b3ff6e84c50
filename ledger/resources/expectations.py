"""What a client expects of an account, for a transfer to go through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from ledger.domain.accounts import Owner
from ledger.domain.errors import Refused
from ledger.domain.money import MAX_BALANCE, asset_named, parse_amount
from ledger.domain.policy import Action, Caller, require_account
from ledger.domain.transfers import Expectation
from ledger.resources.reading import Money, amount_text, identifier, is_given

_AT_LEAST: Final = "expect.available_at_least"

AnId = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]  # looked at later: a leg is named by its number


class ExpectRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What must be true of an account: either of the two."""

    account_id: AnId | None = None
    version: Annotated[int, Meta(ge=0)] | None = None
    available_at_least: Money = msgspec.field(default_factory=msgspec.Raw)


def expected_of(expect: ExpectRequest) -> tuple[str, int | None, str | None]:
    """Return the account, its version, and what is to be available in it, the one or the other being None."""
    field = "expect.account_id"
    if expect.account_id is None or not expect.account_id.strip():
        raise Refused("missing_fields", field=field, fields=[field])
    account_id = identifier(expect.account_id, field)
    if is_given(expect.available_at_least) == (expect.version is not None):
        raise Refused("invalid_request", "Either a version or what is to be available", field="expect")
    if expect.version is not None:
        return account_id, expect.version, None
    return account_id, None, amount_text(expect.available_at_least, _AT_LEAST)


def expectation_of(
    expected: tuple[str, int | None, str | None], owners: Mapping[str, Owner], caller: Caller
) -> Expectation:
    """Return the expectation, if the caller may know what is in that account."""
    account_id, version, text = expected
    try:
        owner = require_account(caller, Action.READ_BALANCE, owners.get(account_id))
    except Refused as refused:
        raise Refused(refused.reason, field="expect.account_id") from None
    if text is None:
        return Expectation(account_id, version)
    scale = asset_named(owner.asset).scale
    if not text.strip("0.") and len(text.partition(".")[2]) <= scale:
        return Expectation(account_id, available_at_least=0)
    return Expectation(account_id, available_at_least=parse_amount(text, scale, MAX_BALANCE, _AT_LEAST))

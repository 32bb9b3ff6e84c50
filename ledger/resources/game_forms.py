"""What game calls send and are answered, for the documentation: the dialect reads bodies in a way of its own."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ledger.domain.money import DEFAULT_MAX_AMOUNT

_Uuid = Annotated[str, Meta(pattern="^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
_User = Annotated[str, Meta(min_length=1, max_length=255)]
_Amount = Annotated[int, Meta(ge=0, le=DEFAULT_MAX_AMOUNT, description="Money × 100000.")]


class QuestionForm(msgspec.Struct, frozen=True, kw_only=True):
    """Who is asked about; other fields are ignored."""

    user: _User
    request_uuid: _Uuid


class RollbackForm(msgspec.Struct, frozen=True, kw_only=True):
    """A bet or a win that is to be undone; other fields are kept as metadata."""

    user: _User
    request_uuid: _Uuid
    transaction_uuid: _Uuid
    reference_transaction_uuid: _Uuid
    round: Any = None
    game_code: Any = None


class BetForm(msgspec.Struct, frozen=True, kw_only=True):
    """A stake, zero for a free round; other fields are kept as metadata."""

    user: _User
    request_uuid: _Uuid
    transaction_uuid: _Uuid
    currency: str
    amount: _Amount
    round: Any = None
    game_code: Any = None


class WinForm(BetForm, frozen=True, kw_only=True):
    """What a bet has won, zero where it was lost; other fields are kept as metadata."""

    reference_transaction_uuid: _Uuid


class GameAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a call is answered with; money is an integer, the amount × 100000."""

    status: str
    user: str | None = None
    request_uuid: str | None = None
    currency: str | None = None
    balance: int | None = None

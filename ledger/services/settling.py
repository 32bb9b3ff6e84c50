"""What became of a COMMIT that was not answered: asked after until it is known, or until time is up."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from twisted.internet.task import deferLater

from ledger.domain.errors import Refused, unavailable
from ledger.store.postgres import StatementFailed

T = TypeVar("T")

_SETTLE_WITHIN: Final = 30.0
_FIRST_RETRY, _LAST_RETRY = 0.1, 3.0


def is_in_doubt(refused: Refused) -> bool:
    """Whether a refusal leaves open what became of the operation."""
    return refused.details.get("outcome") == "unknown"


async def settled(
    was_made: Callable[[], Awaitable[bool | None]], read: Callable[[], Awaitable[T | None]], reactor: Any
) -> T:
    """Return what `read` finds of something in doubt that was made, or refuse with what is known after 30 s at most.

    `was_made` answers None while the transaction is still under way.
    """
    deadline = reactor.seconds() + _SETTLE_WITHIN
    delay = _FIRST_RETRY
    while reactor.seconds() < deadline:
        try:
            made = await was_made()
            found = await read() if made else None
        except (Refused, StatementFailed):
            made = found = None
        if found is not None:
            return found
        if made is False:
            raise unavailable()
        await deferLater(reactor, delay)
        delay = min(delay * 2, _LAST_RETRY)
    raise unavailable("unknown")

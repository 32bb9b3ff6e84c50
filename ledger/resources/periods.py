"""Closing periods: what counts from before an instant is final."""

from __future__ import annotations

import msgspec

from ledger.domain.commands import Replayed
from ledger.domain.periods import ClosePeriod, PeriodClosed, instant_of
from ledger.domain.policy import Action, Caller
from ledger.resources.backend import Backend
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.resources.reading import Moment


class PeriodEnd(msgspec.Struct, frozen=True):
    """The first instant that entries may still count from."""

    until: Moment


class PeriodEndpoints:
    """POST /api/periods/close."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare it."""
        return (
            Endpoint(
                "POST",
                "/api/periods/close",
                self.close,
                summary="Close all periods before an instant",
                policy=Action.CLOSE_PERIODS,
                body=PeriodEnd,
                answer=PeriodClosed,
                refuses=(
                    "missing_fields",
                    "invalid_request",
                    "invalid_datetime_format",
                    "already_processed",
                    "service_unavailable",
                ),
                idempotent=True,
            ),
        )

    async def close(self, caller: Caller, call: Call[PeriodEnd, None]) -> Answer:
        """Let nothing count from before the instant any more, which must have come, and be later than the last."""
        command = ClosePeriod(
            id=self._backend.new_id(), scope=caller.scope, key=call.key, until=instant_of(call.body.until)
        )
        outcome = await self._backend.submit(command)
        return Answer(msgspec.Raw(command.answer(outcome.record)), replayed=isinstance(outcome, Replayed))

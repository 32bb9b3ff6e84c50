"""What brings a payment to its end: it is processed, at once or by a job, or cancelled."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ledger.domain.jobs import Job
from ledger.domain.payments import Payment, PaymentTold
from ledger.domain.policy import Action, Caller, require_role, require_user
from ledger.resources.backend import Backend
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.resources.payment_forms import ScheduleWanted
from ledger.resources.reading import identifier

REFUSES: Final = ("insufficient_permissions", "service_unavailable")
OF_ONE: Final = (*REFUSES, "invalid_uuid_format", "unauthorized_access", "payment_not_found")
OF_STATUS: Final = ("account_frozen", "account_suspended", "account_inactive")


async def found(backend: Backend, caller: Caller, action: Action, call: Call[Any, Any]) -> Payment:
    """Return the payment that a path names, if the caller may do this with it."""
    payment = await backend.payments.find(identifier(call.params["id"], "id"))
    require_user(caller, action, payment.user_id)
    return payment


def require_funding(backend: Backend, caller: Caller, direction: str) -> None:
    """Refuse a payment that brings money in where users may not do that themselves."""
    if direction == "CREDIT" and not backend.config.self_funding:
        require_role(caller, Action.BRING_MONEY_IN_FOR_OTHERS)


class PaymentEndEndpoints:
    """What is done with one payment, once."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare them."""
        one = "/api/payments/<id>"
        cancelling: dict[str, Any] = {
            "policy": Action.CANCEL_PAYMENTS,
            "answer": PaymentTold,
            "refuses": (*OF_ONE, "already_processed"),
        }
        return (
            Endpoint(
                "POST",
                f"{one}/process",
                self.process,
                summary="Process a payment now",
                policy=Action.PROCESS_PAYMENTS,
                answer=PaymentTold,
                refuses=(
                    *(*OF_ONE, *OF_STATUS, "invalid_idempotency_key", "already_processed", "account_not_found"),
                    *("amount_exceeds_limit", "insufficient_funds", "daily_limit_exceeded", "duplicate_transaction"),
                ),
                idempotent=True,
            ),
            Endpoint(
                "POST",
                f"{one}/schedule",
                self.schedule,
                summary="Have a job process a payment",
                policy=Action.PROCESS_PAYMENTS,
                body=ScheduleWanted,
                answer=Job,
                status=202,
                refuses=(*OF_ONE, "invalid_request", "already_processed"),
            ),
            Endpoint("POST", f"{one}/cancel", self.cancel, summary="Cancel a payment", **cancelling),
            Endpoint("DELETE", one, self.cancel, summary="Cancel a payment", **cancelling),
        )

    async def process(self, caller: Caller, call: Call[None, None]) -> Answer:
        """Post it, once; what is refused leaves it as it is."""
        payment = await found(self._backend, caller, Action.PROCESS_PAYMENTS, call)
        require_funding(self._backend, caller, payment.direction)
        told, is_replay = await self._backend.payments.process(payment, caller.scope, call.key)
        return Answer(msgspec.Raw(told), replayed=is_replay)

    async def schedule(self, caller: Caller, call: Call[ScheduleWanted, None]) -> Answer:
        """Queue it; a job that was queued in the last minute is told instead of another."""
        payment = await found(self._backend, caller, Action.PROCESS_PAYMENTS, call)
        require_funding(self._backend, caller, payment.direction)
        body = call.body
        return Answer(await self._backend.payments.schedule(payment, body.priority, float(body.delay_seconds or 0)))

    async def cancel(self, caller: Caller, call: Call[None, None]) -> Answer:
        """End it, if it is pending."""
        payment = await found(self._backend, caller, Action.CANCEL_PAYMENTS, call)
        return Answer(msgspec.Raw(await self._backend.payments.cancel(payment)))

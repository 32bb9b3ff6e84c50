"""The worker of payments: whenever it dies, and however often it is run, a payment is posted once or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from twisted.logger import Logger

from ledger.domain.errors import Refused
from ledger.domain.jobs import ATTEMPTS, Cancel
from ledger.domain.payments import Payment
from ledger.services.payments import WORKER

_TIMEOUT: Final = 30.0


class Ends(Protocol):
    """What payments are found and ended by."""

    async def find(self, payment_id: str) -> Payment: ...
    async def process(self, payment: Payment) -> tuple[bytes, bool]: ...
    async def fail(self, payment: Payment, reason: str) -> None: ...


class PaymentWorker:
    """Processes payments; one whose job is given up fails, unless it has ended by then."""

    name = WORKER
    queue = "payments"
    timeout = _TIMEOUT
    max_attempts = ATTEMPTS

    _log = Logger()

    def __init__(self, payments: Ends) -> None:
        self._payments = payments

    async def run(self, args: Mapping[str, Any]) -> None:
        """Process the payment, unless somebody has: the writer lets that happen once."""
        payment = await self._payments.find(args["payment_id"])
        if not _is_done(payment):
            try:
                await self._payments.process(payment)
            except Refused as refused:
                if refused.reason != "already_processed":
                    raise
                # By another process, by a client, or by this very job when it was run before.
                if not _is_done(await self._payments.find(payment.id)):
                    raise

    async def gave_up(self, args: Mapping[str, Any], refused: Refused) -> None:
        """Let the payment fail for the reason that its job was given up for."""
        try:
            payment = await self._payments.find(args["payment_id"])
            await self._payments.fail(payment, refused.reason)
        except Refused as trouble:
            if trouble.reason not in ("already_processed", "payment_not_found"):
                raise
        else:
            self._log.info("Payment {payment_id} failed: {reason}", payment_id=payment.id, reason=refused.reason)


def _is_done(payment: Payment) -> bool:
    """Whether the payment is completed; one that has ended otherwise is nothing to be done about."""
    if payment.status in ("CANCELLED", "FAILED"):
        raise Cancel(f"The payment is {payment.status}")
    return payment.status == "COMPLETED"

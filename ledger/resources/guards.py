"""What every request passes: where it comes from, how often its client may ask, and what is written down of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ledger.domain.addresses import client_of
from ledger.domain.errors import Category, Refused
from ledger.domain.policy import Caller
from ledger.resources.addresses import Addresses, HeaderLines
from ledger.resources.answers import Headers
from ledger.resources.rate_limit import RateLimiter, headers
from ledger.services.audit import AuditEvent, Event

_EVENTS: Final[dict[Category, Event]] = {
    Category.AUTHENTICATION: "authentication_failed",
    Category.AUTHORIZATION: "authorization_failed",
    Category.RATE_LIMIT: "rate_limited",
}


class Guards:
    """The rate limit and the audit log as the HTTP edge meets them."""

    def __init__(
        self, addresses: Addresses, limiter: RateLimiter | None, record: Callable[[AuditEvent], None] = lambda _: None
    ) -> None:
        self._addresses = addresses
        self._limiter = limiter
        self._record = record

    def address(self, peer: str, fields: HeaderLines) -> str:
        """Return the address of a request's client."""
        return self._addresses.of(peer, fields)

    def count(self, caller: Caller | None, address: str) -> tuple[Headers, Refused | None]:
        """Count a request: return the headers that tell the client how it stands, and the refusal of one too many."""
        if self._limiter is None:
            return (), None
        verdict = self._limiter.take(client_of(address) if caller is None else caller.client)
        if verdict.retry_after is None:
            return headers(verdict), None
        return headers(verdict), Refused("rate_limit_exceeded", retry_after=verdict.retry_after)

    def refused(
        self,
        refused: Refused,
        endpoint: str,
        caller: Caller | None,
        address: str,
        correlation_id: str,
        notes: dict[str, Any],
    ) -> None:
        """Write down a refusal that may be an attack."""
        event = _EVENTS.get(refused.category)
        if event is not None:
            self._write(event, refused.reason, endpoint, caller, address, correlation_id, notes)

    def acted(self, endpoint: str, caller: Caller, address: str, correlation_id: str, details: dict[str, Any]) -> None:
        """Write down what an admin has done."""
        self._write("admin_action", None, endpoint, caller, address, correlation_id, details)

    def _write(
        self,
        event: Event,
        reason: str | None,
        endpoint: str,
        caller: Caller | None,
        address: str,
        correlation_id: str,
        details: dict[str, Any],
    ) -> None:
        kind = None if caller is None else caller.kind
        actor = None if caller is None else caller.user_id if kind == "user" else caller.account_id
        self._record(AuditEvent(event, reason, endpoint, kind, actor, address, correlation_id, details))

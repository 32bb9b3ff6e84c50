"""From what became of a request to its answer: envelopes, refusals, dialects, CORS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.logger import Logger

from ledger.domain.errors import Refused
from ledger.resources.answers import (
    ENVELOPE,
    JSON,
    Flow,
    Headers,
    Instant,
    Outgoing,
    envelope_end,
    enveloped,
    refusal,
    to_json,
)
from ledger.resources.counts import Allowance
from ledger.resources.cross_origin import CrossOrigin
from ledger.resources.endpoint import Answer, Endpoint, Streamed
from ledger.resources.incoming import Incoming

LOGGED_REFUSALS_A_SECOND: Final = 10


class Rendering:
    """Makes the answers to requests."""

    _log = Logger()

    def __init__(self, cross_origin: CrossOrigin, seconds: Callable[[], float]) -> None:
        self._cross_origin = cross_origin
        self._seconds = seconds
        self._instant = Instant()
        self._allowance = Allowance(LOGGED_REFUSALS_A_SECOND)

    def success(
        self, endpoint: Endpoint, answer: Answer | Streamed, incoming: Incoming, correlation_id: str, standing: Headers
    ) -> Outgoing:
        """Return the answer of an endpoint."""
        if isinstance(answer, Streamed):
            headers = (*standing, *self._cross_origin.headers(incoming.headers), *answer.headers)
            return Outgoing(endpoint.status, b"", correlation_id, headers, self._flow(answer, correlation_id))
        if endpoint.envelope:
            now = self._instant.text(self._seconds())
            body = enveloped(answer.data, answer.metadata, now, correlation_id)
        else:
            body = to_json(answer.data)
        headers = standing + self._cross_origin.headers(incoming.headers)
        if answer.replayed:
            headers += ((b"Idempotent-Replayed", b"true"),)
        return Outgoing(answer.status or endpoint.status, body, correlation_id, headers)

    def _flow(self, answer: Streamed, correlation_id: str) -> Flow:
        if answer.content_type != JSON[1]:
            return Flow(answer.content_type, answer.parts)
        after = envelope_end(None, self._instant.text(self._seconds()), correlation_id)
        return Flow(answer.content_type, answer.parts, ENVELOPE, after)

    def refused(
        self,
        endpoint: Endpoint | None,
        name: str,
        refused: Refused,
        incoming: Incoming,
        correlation_id: str,
        headers: Headers,
    ) -> Outgoing:
        """Return the answer that tells a refusal, in the endpoint's dialect where it has one; log one of ours."""
        seconds = self._seconds()
        if refused.category.status >= 500 and name and (left_out := self._allowance.take(seconds)) is not None:
            self._log.error(
                "{endpoint} refused: {reason} [{correlation_id}]",
                endpoint=name,
                reason=refused.reason,
                details=refused.details,
                left_out=left_out,
                correlation_id=correlation_id,
            )
        if endpoint is not None and endpoint.dialect is not None:
            return self.success(endpoint, endpoint.dialect(refused, incoming.body), incoming, correlation_id, headers)
        now = self._instant.text(seconds)
        return refusal(refused, now, correlation_id, (*headers, *self._cross_origin.headers(incoming.headers)))

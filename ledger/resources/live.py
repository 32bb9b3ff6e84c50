"""The HTTP side of the live streams: their refusals, and the headers of their answers, are those of every endpoint."""

from __future__ import annotations

from typing import Any

from ledger.domain.errors import Refused
from ledger.resources.answers import Headers
from ledger.resources.exchange import Exchange
from ledger.resources.klein_adapter import incoming_of, render


class LiveFront:
    """What the WebSocket and event resources need of the HTTP edge."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def begin(self, request: Any) -> None:
        """Set the headers that every answer carries, the correlation id among them."""
        for name, value in self._exchange.common_headers(incoming_of(request)):
            request.responseHeaders.setRawHeaders(name, [value])

    def refuse(self, request: Any, refused: Refused) -> None:
        """Answer with the standard error, and finish the request."""
        allow = refused.details.pop("allow", None)
        headers: Headers = () if allow is None else ((b"Allow", allow.encode()),)
        request.write(render(request, self._exchange.refuse(incoming_of(request), refused, headers)))
        request.finish()

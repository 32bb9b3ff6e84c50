"""The HTTP side of the live streams: their refusals, and the headers of their answers, are those of every endpoint."""

from __future__ import annotations

from typing import Any, Final

from ledger.domain.errors import Refused
from ledger.domain.policy import Caller
from ledger.pubsub.access import Note
from ledger.resources.answers import SECURITY_HEADERS, Headers, Outgoing
from ledger.resources.channel import on_the_wire
from ledger.resources.exchange import Exchange
from ledger.resources.klein_adapter import incoming_of, render

_METHODS: Final = ("GET", "OPTIONS")


class LiveVisit:
    """One request for a stream, until the stream begins or it is answered otherwise."""

    def __init__(self, exchange: Exchange, name: str, request: Any) -> None:
        self._exchange = exchange
        self._name = name
        self._request = request
        self._incoming = incoming = incoming_of(request)
        # Made now, if it has to be: one id for all that is said of this request.
        request.requestHeaders.setRawHeaders(b"X-Correlation-Id", [exchange.correlation_id(incoming).encode()])
        self._caller: Caller | None = None
        self._standing: Headers | None = None  # with the rate limit, once this request has been counted

    def admit(self, caller: Caller | None) -> None:
        """Count the request as its client's, or refuse it as one too many; one that is refused before counts too."""
        self._caller = caller
        self._standing, too_many = self._exchange.count(self._incoming, caller)
        if too_many is not None:
            raise too_many

    def headers(self) -> Headers:
        """Return the headers that every answer carries, the correlation id among them."""
        return (*SECURITY_HEADERS, *(self._standing or ()), *self._exchange.common_headers(self._incoming))

    def refuse(self, refused: Refused) -> None:
        """Answer with the standard error, and finish the request."""
        _answer(self._request, self._refused(refused))

    def refusal(self, refused: Refused) -> bytes:
        """Return the standard error as it goes over the wire, for a request whose connection was taken over."""
        channel = self._request.channel
        return on_the_wire(self._refused(refused), channel.site.date(), channel.secure, close=True)

    def answer_without_get(self) -> None:
        """Answer OPTIONS, refuse any other method than GET, and finish the request."""
        request, incoming = self._request, self._incoming
        if request.method == b"OPTIONS":
            _answer(request, self._exchange.options(incoming, _METHODS))
        else:
            allow = (b"Allow", ", ".join(_METHODS).encode())
            _answer(request, self._exchange.refuse(incoming, Refused("method_not_allowed"), (allow,)))

    def witness(self) -> Note:
        """Return what writes down refusals for as long as the stream lasts, and holds nothing of the request."""
        return self._exchange.witness(self._incoming, self._name)

    def _refused(self, refused: Refused) -> Outgoing:
        return self._exchange.refuse(
            self._incoming, refused, endpoint=self._name, caller=self._caller, standing=self._standing
        )


class LiveFront:
    """What the WebSocket and event resources need of the HTTP edge."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def visit(self, name: str, request: Any) -> LiveVisit:
        """Begin to answer a request; `name` is what counts and logs call it."""
        return LiveVisit(self._exchange, name, request)


def _answer(request: Any, outgoing: Outgoing) -> None:
    request.write(render(request, outgoing))
    request.finish()

"""Klein as the adapter for all endpoints: routes, and answers to what no route takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Request
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import BaseConverter

from ledger.domain.errors import Refused
from ledger.resources.answers import JSON, Outgoing
from ledger.resources.endpoint import Endpoint
from ledger.resources.exchange import Exchange
from ledger.resources.incoming import Incoming
from ledger.resources.sending import Sending

_log = Logger()


_Resource: Any = Resource  # Twisted leaves it without types


class _Rest(BaseConverter):
    """The rest of a path, whatever is in it: `<rest:name>`."""

    regex = "(?s:.+)"
    part_isolating = False


class KleinAdapter(_Resource):  # type: ignore[misc]
    """The resource that answers every endpoint, and 404 or 405 to all else."""

    isLeaf = True

    def __init__(self, exchange: Exchange, endpoints: Iterable[Endpoint], clock: Any) -> None:
        super().__init__()
        self._exchange = exchange
        self._clock = clock
        self._app = Klein()
        self._app.url_map.merge_slashes = False
        self._app.url_map.converters["rest"] = _Rest
        self._plain: dict[bytes, set[str]] = {}  # the methods of paths without parameters, which hide those with some
        for endpoint in endpoints:
            for path in endpoint.paths:
                if "<" not in path:
                    methods = self._plain.setdefault(path.encode(), {"OPTIONS"})
                    methods |= {"GET", "HEAD"} if endpoint.method == "GET" else {endpoint.method}
                route = self._app.route(path, methods=[endpoint.method], endpoint=f"{endpoint.method} {path}")
                route(self._handler(endpoint))
        self._app.handle_errors(HTTPException)(self._unrouted)
        self._app.handle_errors(Exception)(self._broken)
        self._klein = self._app.resource()

    def render(self, request: Request) -> Any:
        """Have Klein route the request; what its router would choke on is kept from it."""
        request.getRequestHostname = _no_host  # type: ignore[method-assign]
        if not _is_routable(request):
            return render(request, self._exchange.refuse(incoming_of(request), Refused("resource_not_found")))
        methods = self._plain.get(request.path)
        if methods is not None and request.method.decode("latin-1") not in methods - {"OPTIONS"}:
            return self._not_allowed(request, methods)
        return self._klein.render(request)

    def _handler(self, endpoint: Endpoint) -> Callable[..., Deferred[bytes]]:
        def handle(request: Request, **params: str) -> Deferred[bytes]:
            # The shield: Klein cancels this Deferred when the client hangs up; the operation does not hang on it.
            answered: Deferred[bytes] = Deferred()
            self._exchange.take(endpoint, incoming_of(request), params, partial(self._deliver, request, answered))
            return answered

        return handle

    def _deliver(self, request: Request, answered: Deferred[bytes], outgoing: Outgoing) -> None:
        if answered.called:
            return
        body = render(request, outgoing)
        if outgoing.flow is None or request.method == b"HEAD":
            answered.callback(body)
        else:
            Sending(request, outgoing.flow, answered, self._clock, outgoing.correlation_id).begin()

    def _unrouted(self, request: Request, failure: Failure) -> bytes:
        error = failure.value
        if isinstance(error, MethodNotAllowed):
            return self._not_allowed(request, {*(error.valid_methods or ()), "OPTIONS"})
        return render(request, self._exchange.refuse(incoming_of(request), Refused("resource_not_found")))

    def _not_allowed(self, request: Request, methods: Iterable[str]) -> bytes:
        incoming, methods = incoming_of(request), sorted(methods)
        if request.method == b"OPTIONS":
            return render(request, self._exchange.options(incoming, methods))
        allow = (b"Allow", ", ".join(methods).encode())
        return render(request, self._exchange.refuse(incoming, Refused("method_not_allowed"), (allow,)))

    def _broken(self, request: Request, failure: Failure) -> bytes:
        outgoing = self._exchange.refuse(incoming_of(request), Refused("internal_server_error"))
        _log.failure("the adapter failed [{correlation_id}]", failure, correlation_id=outgoing.correlation_id)
        return render(request, outgoing)


def _is_routable(request: Request) -> bool:
    if request.path[:1] != b"/" or request.path[:2] == b"//":  # Klein would take these for paths without the excess
        return False
    try:
        b"/".join(request.postpath or ()).decode()
    except UnicodeDecodeError:
        return False
    return True


def _no_host() -> bytes:
    """No route depends on the host, and what a client calls it can be any bytes."""
    return b"localhost"


def incoming_of(request: Request) -> Incoming:
    """Return a Twisted request as the exchange takes it."""
    query = request.uri.partition(b"?")[2]
    peer = getattr(request.client, "host", "unix")
    assert request.content is not None
    request.content.seek(0)
    return Incoming(request.requestHeaders, query, request.content.read(), peer)


def render(request: Request, outgoing: Outgoing) -> bytes:
    """Set an answer's status and headers, and return its body, as far as it is to be sent."""
    request.setResponseCode(outgoing.status)
    headers = request.responseHeaders
    headers.setRawHeaders(b"X-Correlation-ID", [outgoing.correlation_id.encode("ascii")])
    for name, value in outgoing.headers:
        headers.setRawHeaders(name, [value])
    if outgoing.flow is not None:
        headers.setRawHeaders(JSON[0], [outgoing.flow.content_type])
    elif outgoing.status != 204:
        headers.setRawHeaders(JSON[0], [JSON[1]])
        headers.setRawHeaders(b"Content-Length", [b"%d" % len(outgoing.body)])
    return b"" if request.method == b"HEAD" else outgoing.body  # Twisted would log every body that it leaves out

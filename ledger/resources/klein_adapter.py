"""Klein as the adapter for all endpoints: routes, and answers to what no route takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any, TypeAlias

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

Route: TypeAlias = tuple[str, str]  # a method and a path

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
        self._routes = {(endpoint.method, path): endpoint for endpoint in endpoints for path in endpoint.paths}
        self._plain: dict[bytes, set[str]] = {}  # the methods of paths without parameters, which hide those with some
        for method, path in self._routes:
            if "<" not in path:
                methods = self._plain.setdefault(path.encode(), {"OPTIONS"})
                methods |= {"GET", "HEAD"} if method == "GET" else {method}
        self._klein = _routed(tuple(self._routes)).__get__(self, KleinAdapter).resource()

    def render(self, request: Request) -> Any:
        """Have Klein route the request; what its router would choke on is kept from it."""
        request.getRequestHostname = _no_host  # type: ignore[method-assign]
        if not _is_routable(request):
            return render(request, self._exchange.refuse(incoming_of(request), Refused("resource_not_found")))
        methods = self._plain.get(request.path)
        if methods is not None and request.method.decode("latin-1") not in methods - {"OPTIONS"}:
            return self._not_allowed(request, methods)
        return self._klein.render(request)

    def answer(self, route: Route, request: Request, params: Mapping[str, str]) -> Deferred[bytes]:
        """Have the endpoint of a route answer."""
        # The shield: Klein cancels this Deferred when the client hangs up; the operation does not hang on it.
        answered: Deferred[bytes] = Deferred()
        deliver = partial(self._deliver, request, answered)
        self._exchange.take(self._routes[route], incoming_of(request), params, deliver)
        return answered

    def unrouted(self, request: Request, failure: Failure) -> bytes:
        """Answer what no route takes."""
        error = failure.value
        if isinstance(error, MethodNotAllowed):
            return self._not_allowed(request, {*(error.valid_methods or ()), "OPTIONS"})
        return render(request, self._exchange.refuse(incoming_of(request), Refused("resource_not_found")))

    def broken(self, request: Request, failure: Failure) -> bytes:
        """Answer where Klein or the way to an endpoint fails."""
        outgoing = self._exchange.refuse(incoming_of(request), Refused("internal_server_error"))
        _log.failure("the adapter failed [{correlation_id}]", failure, correlation_id=outgoing.correlation_id)
        return render(request, outgoing)

    def _deliver(self, request: Request, answered: Deferred[bytes], outgoing: Outgoing) -> None:
        if answered.called:
            return
        body = render(request, outgoing)
        if outgoing.flow is None or request.method == b"HEAD":
            answered.callback(body)
        else:
            Sending(request, outgoing.flow, answered, self._clock, outgoing.correlation_id).begin()

    def _not_allowed(self, request: Request, methods: Iterable[str]) -> bytes:
        incoming, methods = incoming_of(request), sorted(methods)
        if request.method == b"OPTIONS":
            return render(request, self._exchange.options(incoming, methods))
        allow = (b"Allow", ", ".join(methods).encode())
        return render(request, self._exchange.refuse(incoming, Refused("method_not_allowed"), (allow,)))


@lru_cache
def _routed(routes: tuple[Route, ...]) -> Klein:
    """Klein with these routes, to be bound to an adapter; it takes a while to make, and is the same for all sites."""
    klein = Klein()
    klein.url_map.merge_slashes = False
    klein.url_map.converters["rest"] = _Rest
    for method, path in routes:
        klein.route(path, methods=[method], endpoint=f"{method} {path}")(_handler((method, path)))
    klein.handle_errors(HTTPException)(KleinAdapter.unrouted)
    klein.handle_errors(Exception)(KleinAdapter.broken)
    return klein


def _handler(route: Route) -> Callable[..., Deferred[bytes]]:
    def handle(adapter: KleinAdapter, request: Request, **params: str) -> Deferred[bytes]:
        return adapter.answer(route, request, params)

    return handle


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

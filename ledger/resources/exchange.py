"""The way of a request from any HTTP adapter to its endpoint and back; every check stands here, in its order.

Authentication, rate limit, role, body limit, idempotency key, body and query, handler, envelope; whatever is refused
on the way is rendered in one place, and what was not foreseen is logged and answered 500. An operation that was begun
is never cancelled: what an adapter gets is not a Deferred but one call of `deliver`, and it may have lost interest.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ledger.domain.errors import Refused
from ledger.domain.policy import Caller, require_role
from ledger.resources.answers import Headers, Outgoing
from ledger.resources.backend import Backend
from ledger.resources.counts import Counts
from ledger.resources.cross_origin import CrossOrigin
from ledger.resources.endpoint import Call, Endpoint
from ledger.resources.guards import Guards
from ledger.resources.incoming import CorrelationIds, Incoming, bearer_of, idempotency_key, single_header
from ledger.resources.rendering import Rendering
from ledger.services.correlation import correlation
from ledger.services.settling import is_in_doubt

SLOW: Final = 1.0

_fail_into: Any = Failure.throwExceptionIntoGenerator  # Twisted leaves it without types


class Exchange:
    """Answers requests to endpoints, whichever adapter they came through."""

    _log = Logger()

    def __init__(
        self,
        backend: Backend,
        guards: Guards,
        seconds: Callable[[], float],
        random: Callable[[int], bytes],
        counts: Counts | None = None,
    ) -> None:
        self._backend = backend
        self._guards = guards
        self._seconds = seconds
        self._cross_origin = CrossOrigin(backend.config.cors_origins)
        self._rendering = Rendering(self._cross_origin, seconds)
        self._ids = CorrelationIds(random)
        self.counts = Counts() if counts is None else counts
        self.live = 0

    def take(
        self,
        endpoint: Endpoint,
        incoming: Incoming,
        params: Mapping[str, str],
        deliver: Callable[[Outgoing], None],
    ) -> None:
        """Answer a request to an endpoint: `deliver` is called once, whatever happens."""
        self.live += 1
        started = self._seconds()
        correlation_id = self._ids.of(incoming)
        run = self._answer(endpoint, incoming, params, correlation_id).__await__()
        self._advance(run, correlation_id, partial(self._finish, endpoint, started, deliver))

    def refuse(
        self,
        incoming: Incoming,
        refused: Refused,
        headers: Headers = (),
        *,
        endpoint: str = "-",
        caller: Caller | None = None,
        standing: Headers | None = None,
        meant: Endpoint | None = None,
    ) -> Outgoing:
        """Return the answer to a request that did not get to an endpoint, such as the one that was meant.

        One without `standing` has not been counted yet.
        """
        correlation_id, address = self._ids.of(incoming), self._guards.address(incoming.peer, incoming.headers)
        if meant is not None and not meant.rate_limited:
            standing = ()
        if standing is None:
            standing, too_many = self._guards.count(caller, address)
            refused = too_many or refused
        self._guards.refused(refused, endpoint, caller, address, correlation_id, {})
        outgoing = self._rendering.refused(meant, endpoint, refused, incoming, correlation_id, (*headers, *standing))
        self.counts.count(endpoint, outgoing.status, None)
        return outgoing

    def count(self, incoming: Incoming, caller: Caller | None) -> tuple[Headers, Refused | None]:
        """Count a request that is answered elsewhere: how its client stands, and the refusal of one too many."""
        return self._guards.count(caller, self._guards.address(incoming.peer, incoming.headers))

    def witness(self, incoming: Incoming, endpoint: str) -> Callable[[Refused, Caller | None], None]:
        """Return what writes down a refusal that is told elsewhere, for as long as that takes."""
        guards, correlation_id = self._guards, self._ids.of(incoming)
        address = guards.address(incoming.peer, incoming.headers)
        return lambda refused, caller: guards.refused(refused, endpoint, caller, address, correlation_id, {})

    def options(self, incoming: Incoming, methods: Iterable[str]) -> Outgoing:
        """Return the answer to OPTIONS, which to a browser of a configured origin permits the request to come."""
        allow = ", ".join(methods).encode()
        headers: Headers = ((b"Allow", allow), *self._cross_origin.preflight(incoming.headers, allow))
        self.counts.count("OPTIONS", 204, None)
        return Outgoing(204, b"", self._ids.of(incoming), headers)

    def common_headers(self, incoming: Incoming) -> Headers:
        """Return the headers of an answer that is not made here: its correlation id, and what CORS asks for."""
        mine = (b"X-Correlation-ID", self._ids.of(incoming).encode())
        return (mine, *self._cross_origin.headers(incoming.headers))

    def correlation_id(self, incoming: Incoming) -> str:
        """Return the name that a request goes by."""
        return self._ids.of(incoming)

    def _advance(
        self,
        run: Generator[Deferred[Any], None, Outgoing],
        correlation_id: str,
        finish: Callable[[Outgoing], None],
        result: object = None,
    ) -> None:
        # `Deferred.fromCoroutine` does this too, for about 5 us more; most runs end without waiting, or wait once.
        mark = correlation.set(correlation_id)
        try:
            waiting = _fail_into(result, run) if isinstance(result, Failure) else run.send(None)
        except StopIteration as end:
            finish(end.value)
        else:
            waiting.addBoth(partial(self._advance, run, correlation_id, finish))
        finally:
            correlation.reset(mark)

    def _finish(
        self, endpoint: Endpoint, started: float, deliver: Callable[[Outgoing], None], outgoing: Outgoing
    ) -> None:
        self.live -= 1
        took = self._seconds() - started
        self.counts.count(endpoint.name, outgoing.status, took)
        if took > SLOW:
            self._log.warn(
                "{endpoint} took {took:.1f} s [{correlation_id}]",
                endpoint=endpoint.name,
                took=took,
                status=outgoing.status,
                correlation_id=outgoing.correlation_id,
            )
        try:
            deliver(outgoing)
        except Exception:
            self._log.failure(
                "{endpoint}: the answer could not be sent [{correlation_id}]",
                endpoint=endpoint.name,
                correlation_id=outgoing.correlation_id,
            )

    async def _answer(
        self, endpoint: Endpoint, incoming: Incoming, params: Mapping[str, str], correlation_id: str
    ) -> Outgoing:
        guards = self._guards
        address = guards.address(incoming.peer, incoming.headers)
        call: Call[Any, Any] = Call(None, None, params, None, correlation_id, address)
        caller: Caller | None = None
        standing: Headers = ()
        try:
            try:
                caller = await self._caller(endpoint, incoming)
            finally:  # who is not known is counted by address, and hears of the limit before all else
                if endpoint.rate_limited:
                    standing, too_many = guards.count(caller, address)
                    if too_many is not None:
                        raise too_many
            if caller is not None:
                require_role(caller, endpoint.policy)
            if len(incoming.body) > endpoint.body_limit:
                raise Refused("payload_too_large", limit=endpoint.body_limit)
            if endpoint.header is not None:
                call.raw, call.header = incoming.body, single_header(incoming, endpoint.header)
            if endpoint.idempotent:
                call.key = idempotency_key(incoming)
            if endpoint.read_body is not None:
                call.body = endpoint.read_body.body(incoming.body)
            if endpoint.read_query is not None:
                call.query = endpoint.read_query.query(incoming.query)
            answer = await endpoint.handler(caller, call)
            self._acted(endpoint, caller, call)
            return self._rendering.success(endpoint, answer, incoming, correlation_id, standing)
        except Refused as refused:
            guards.refused(refused, endpoint.name, caller, address, correlation_id, call.notes)
            if is_in_doubt(refused):
                self._acted(endpoint, caller, call, outcome="unknown")
            return self._rendering.refused(endpoint, endpoint.name, refused, incoming, correlation_id, standing)
        except Exception:
            self._log.failure(
                "{endpoint} failed [{correlation_id}]", endpoint=endpoint.name, correlation_id=correlation_id
            )
            self._acted(endpoint, caller, call, outcome="unknown")
            failed = Refused("internal_server_error")
            return self._rendering.refused(endpoint, "", failed, incoming, correlation_id, standing)

    def _acted(self, endpoint: Endpoint, caller: Caller | None, call: Call[Any, Any], **more: str) -> None:
        """Write down what an admin has done, or may have."""
        if caller is not None and caller.is_admin and endpoint.method != "GET":
            details = {**call.params, **call.notes, **more}
            self._guards.acted(endpoint.name, caller, call.address, call.correlation_id, details)

    async def _caller(self, endpoint: Endpoint, incoming: Incoming) -> Caller | None:
        if endpoint.is_open and not endpoint.knows_caller:
            return None
        given = incoming.headers.getRawHeaders(b"Authorization")
        if given is None and endpoint.is_open:
            return None
        token = bearer_of(given)
        try:
            caller = self._backend.authenticate(token)
            return caller if isinstance(caller, Caller) else await caller
        except Refused as refused:
            if endpoint.is_open and refused.reason == "service_unavailable":
                return None  # how the server does is told while the database is away, too
            raise

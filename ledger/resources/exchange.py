"""The way of a request from any HTTP adapter to its endpoint and back; every check stands here, in its order.

Authentication, rate limit, role, body limit, idempotency key, body and query, handler, envelope; whatever is refused
on the way is rendered in one place, and what was not foreseen is logged and answered 500. An operation that was begun
is never cancelled: what an adapter gets is not a Deferred but one call of `deliver`, and it may have lost interest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ledger.domain.errors import Refused
from ledger.domain.policy import Caller, require_role
from ledger.resources.answers import Headers, Instant, Outgoing, enveloped, refusal, to_json
from ledger.resources.backend import Backend
from ledger.resources.counts import Allowance, Counts
from ledger.resources.cross_origin import CrossOrigin
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.resources.guards import Guards
from ledger.services.correlation import correlation

SLOW: Final = 1.0
LOGGED_REFUSALS_A_SECOND: Final = 10

_fail_into: Any = Failure.throwExceptionIntoGenerator  # Twisted leaves it without types
_is_correlation_id = re.compile(rb"[\x20-\x7e]{1,128}\Z").match
_is_key = re.compile(rb"[\x20-\x7e]{1,255}\Z").match
_is_bearer = re.compile(rb"bearer +([\x21-\x7e]{1,4096})\Z", re.IGNORECASE).match


class HeaderFields(Protocol):
    """The headers of a request, under the names that Twisted gives them."""

    def getRawHeaders(self, name: bytes) -> Sequence[bytes] | None: ...
    def getAllRawHeaders(self) -> Iterable[tuple[bytes, Sequence[bytes]]]: ...


@dataclass(slots=True)
class Incoming:
    """A request as an adapter hands it in."""

    headers: HeaderFields
    query: bytes
    body: bytes
    peer: str


class Exchange:
    """Answers requests to endpoints, whichever adapter they came through."""

    _log = Logger()

    def __init__(
        self, backend: Backend, guards: Guards, seconds: Callable[[], float], random: Callable[[int], bytes]
    ) -> None:
        self._backend = backend
        self._guards = guards
        self._seconds = seconds
        self._random = random
        self._cross_origin = CrossOrigin(backend.config.cors_origins)
        self._instant = Instant()
        self._ids: list[str] = []
        self._allowance = Allowance(LOGGED_REFUSALS_A_SECOND)
        self.counts = Counts()
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
        correlation_id = self.correlation_id(incoming)
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
    ) -> Outgoing:
        """Return the answer to a request that reached no endpoint; one without `standing` has not been counted yet."""
        correlation_id, address = self.correlation_id(incoming), self._guards.address(incoming.peer, incoming.headers)
        if standing is None:
            standing, too_many = self._guards.count(caller, address)
            refused = too_many or refused
        self._guards.refused(refused, endpoint, caller, address, correlation_id, {})
        outgoing = self._refusal(endpoint, refused, incoming, correlation_id, (*headers, *standing))
        self.counts.count(endpoint, outgoing.status, 0.0)
        return outgoing

    def count(self, incoming: Incoming, caller: Caller | None) -> tuple[Headers, Refused | None]:
        """Count a request that is answered elsewhere: how its client stands, and the refusal of one too many."""
        return self._guards.count(caller, self._guards.address(incoming.peer, incoming.headers))

    def options(self, incoming: Incoming, methods: Iterable[str]) -> Outgoing:
        """Return the answer to OPTIONS, which to a browser of a configured origin permits the request to come."""
        allow = ", ".join(methods).encode()
        headers: Headers = ((b"Allow", allow), *self._cross_origin.preflight(incoming.headers, allow))
        self.counts.count("OPTIONS", 204, 0.0)
        return Outgoing(204, b"", self.correlation_id(incoming), headers)

    def common_headers(self, incoming: Incoming) -> Headers:
        """Return the headers of an answer that is not made here: its correlation id, and what CORS asks for."""
        mine = (b"X-Correlation-ID", self.correlation_id(incoming).encode())
        return (mine, *self._cross_origin.headers(incoming.headers))

    def correlation_id(self, incoming: Incoming) -> str:
        """Return the client's correlation id, if it is fit to be repeated, or a new one."""
        given = incoming.headers.getRawHeaders(b"X-Correlation-Id")
        if given and len(given) == 1 and _is_correlation_id(given[0]):
            return given[0].decode("ascii")
        if not self._ids:
            digits = self._random(16 * 128).hex()
            self._ids = [digits[start : start + 32] for start in range(0, len(digits), 32)]
        return self._ids.pop()

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
            if endpoint.idempotent:
                call.key = _idempotency_key(incoming)
            if endpoint.read_body is not None:
                call.body = endpoint.read_body.body(incoming.body)
            if endpoint.read_query is not None:
                call.query = endpoint.read_query.query(incoming.query)
            answer = await endpoint.handler(caller, call)
            if caller is not None and caller.is_admin and endpoint.method != "GET":
                guards.acted(endpoint.name, caller, address, correlation_id, {**params, **call.notes})
            return self._success(endpoint, answer, incoming, correlation_id, standing)
        except Refused as refused:
            guards.refused(refused, endpoint.name, caller, address, correlation_id, call.notes)
            return self._refusal(endpoint.name, refused, incoming, correlation_id, standing)
        except Exception:
            self._log.failure(
                "{endpoint} failed [{correlation_id}]", endpoint=endpoint.name, correlation_id=correlation_id
            )
            return self._refusal("", Refused("internal_server_error"), incoming, correlation_id, standing)

    async def _caller(self, endpoint: Endpoint, incoming: Incoming) -> Caller | None:
        if endpoint.is_open and not endpoint.knows_caller:
            return None
        given = incoming.headers.getRawHeaders(b"Authorization")
        if given is None and endpoint.is_open:
            return None
        bearer = _is_bearer(given[0]) if given and len(given) == 1 else None
        if bearer is None:
            raise Refused("invalid_token")
        try:
            caller = self._backend.authenticate(bearer[1].decode("ascii"))
            return caller if isinstance(caller, Caller) else await caller
        except Refused as refused:
            if endpoint.is_open and refused.reason == "service_unavailable":
                return None  # how the server does is told while the database is away, too
            raise

    def _success(
        self, endpoint: Endpoint, answer: Answer, incoming: Incoming, correlation_id: str, standing: Headers
    ) -> Outgoing:
        if endpoint.envelope:
            now = self._instant.text(self._seconds())
            body = enveloped(answer.data, answer.metadata, now, correlation_id)
        else:
            body = to_json(answer.data)
        headers = standing + self._cross_origin.headers(incoming.headers)
        if answer.replayed:
            headers += ((b"Idempotent-Replayed", b"true"),)
        return Outgoing(answer.status or endpoint.status, body, correlation_id, headers)

    def _refusal(
        self, endpoint: str, refused: Refused, incoming: Incoming, correlation_id: str, headers: Headers = ()
    ) -> Outgoing:
        seconds = self._seconds()
        if refused.category.status >= 500 and endpoint and (left_out := self._allowance.take(seconds)) is not None:
            self._log.error(
                "{endpoint} refused: {reason} [{correlation_id}]",
                endpoint=endpoint,
                reason=refused.reason,
                details=refused.details,
                left_out=left_out,
                correlation_id=correlation_id,
            )
        now = self._instant.text(seconds)
        return refusal(refused, now, correlation_id, (*headers, *self._cross_origin.headers(incoming.headers)))


def _idempotency_key(incoming: Incoming) -> str | None:
    given = incoming.headers.getRawHeaders(b"Idempotency-Key")
    if given is None:
        return None
    if len(given) != 1 or not _is_key(given[0]):
        raise Refused("invalid_idempotency_key", field="Idempotency-Key")
    return given[0].decode("ascii")

"""The way of a request from any HTTP adapter to its endpoint and back; every check stands here, in its order.

Body limit, authentication, role, idempotency key, body and query, handler, envelope; whatever is refused on the
way is rendered in one place, and what was not foreseen is logged and answered 500. An operation that was begun is
never cancelled: what an adapter gets is not a Deferred but one call of `deliver`, and it may have lost interest.
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
from ledger.domain.policy import OPERATOR, Caller, require_admin
from ledger.pubsub.loopback import operator_allowed
from ledger.resources.answers import Headers, Instant, Outgoing, enveloped, refusal, to_json
from ledger.resources.backend import Backend
from ledger.resources.counts import Allowance, Counts
from ledger.resources.endpoint import Access, Answer, Call, Endpoint

SLOW: Final = 1.0
LOGGED_REFUSALS_A_SECOND: Final = 10

_fail_into: Any = Failure.throwExceptionIntoGenerator  # Twisted leaves it without types
_is_correlation_id = re.compile(rb"[\x20-\x7e]{1,128}\Z").match
_is_key = re.compile(rb"[\x20-\x7e]{1,255}\Z").match
_is_bearer = re.compile(rb"bearer +([\x21-\x7e]{1,4096})\Z", re.IGNORECASE).match
_EXPOSED: Final = b"X-Correlation-ID, Idempotent-Replayed, Retry-After, Location"
_ACCEPTED: Final = b"Authorization, Content-Type, Idempotency-Key, X-Correlation-ID"


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

    def __init__(self, backend: Backend, seconds: Callable[[], float], random: Callable[[int], bytes]) -> None:
        self._backend = backend
        self._seconds = seconds
        self._random = random
        self._origins = frozenset(origin.encode() for origin in backend.config.cors_origins)
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
        run = self._answer(endpoint, incoming, params, self.correlation_id(incoming)).__await__()
        self._advance(run, partial(self._finish, endpoint, started, deliver))

    def refuse(self, incoming: Incoming, refused: Refused, headers: Headers = ()) -> Outgoing:
        """Return the answer to a request that reached no endpoint."""
        outgoing = self._refusal("-", refused, incoming, self.correlation_id(incoming), headers)
        self.counts.count("-", outgoing.status, 0.0)
        return outgoing

    def options(self, incoming: Incoming, methods: Iterable[str]) -> Outgoing:
        """Return the answer to OPTIONS, which to a browser of a configured origin permits the request to come."""
        allow = ", ".join(methods).encode()
        headers: Headers = ((b"Allow", allow), *self._cross_origin(incoming))
        if self._is_known_origin(incoming):
            headers += (
                (b"Access-Control-Allow-Methods", allow),
                (b"Access-Control-Allow-Headers", _ACCEPTED),
                (b"Access-Control-Max-Age", b"600"),
            )
        self.counts.count("OPTIONS", 204, 0.0)
        return Outgoing(204, b"", self.correlation_id(incoming), headers)

    def common_headers(self, incoming: Incoming) -> Headers:
        """Return the headers of an answer that is not made here: its correlation id, and what CORS asks for."""
        return ((b"X-Correlation-ID", self.correlation_id(incoming).encode()), *self._cross_origin(incoming))

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
        self, run: Generator[Deferred[Any], None, Outgoing], finish: Callable[[Outgoing], None], result: object = None
    ) -> None:
        # `Deferred.fromCoroutine` does this too, for about 5 us more; most runs end without waiting, or wait once.
        try:
            waiting = _fail_into(result, run) if isinstance(result, Failure) else run.send(None)
        except StopIteration as end:
            finish(end.value)
        else:
            waiting.addBoth(partial(self._advance, run, finish))

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
        try:
            if len(incoming.body) > endpoint.body_limit:
                raise Refused("payload_too_large", limit=endpoint.body_limit)
            caller: Caller | None
            if endpoint.access is Access.OPEN:
                caller = OPERATOR if self._is_operator(incoming) else None
            else:
                caller = await self._caller(endpoint.access, incoming)
                if endpoint.permits is not None:
                    endpoint.permits(caller)
            key = _idempotency_key(incoming) if endpoint.idempotent else None
            body = None if endpoint.read_body is None else endpoint.read_body.body(incoming.body)
            query = None if endpoint.read_query is None else endpoint.read_query.query(incoming.query)
            answer = await endpoint.handler(caller, Call(body, query, params, key, correlation_id))
            return self._success(endpoint, answer, incoming, correlation_id)
        except Refused as refused:
            return self._refusal(endpoint.name, refused, incoming, correlation_id)
        except Exception:
            self._log.failure(
                "{endpoint} failed [{correlation_id}]", endpoint=endpoint.name, correlation_id=correlation_id
            )
            return self._refusal("", Refused("internal_server_error"), incoming, correlation_id)

    async def _caller(self, access: Access, incoming: Incoming) -> Caller:
        given = incoming.headers.getRawHeaders(b"Authorization")
        if given is None and access is Access.ADMIN and self._is_operator(incoming):
            return OPERATOR
        bearer = _is_bearer(given[0]) if given and len(given) == 1 else None
        if bearer is None:
            raise Refused("invalid_token")
        caller = self._backend.authenticate(bearer[1].decode("ascii"))
        if not isinstance(caller, Caller):
            caller = await caller
        if access is Access.ADMIN:
            require_admin(caller)
        return caller

    def _is_operator(self, incoming: Incoming) -> bool:
        """Whether a request without a token comes from this machine, and not through a proxy or a web page."""
        headers = incoming.headers
        return headers.getRawHeaders(b"Authorization") is None and operator_allowed(
            incoming.peer, {name: b",".join(values) for name, values in headers.getAllRawHeaders()}
        )

    def _success(self, endpoint: Endpoint, answer: Answer, incoming: Incoming, correlation_id: str) -> Outgoing:
        if endpoint.envelope:
            now = self._instant.text(self._seconds())
            body = enveloped(answer.data, answer.metadata, now, correlation_id)
        else:
            body = to_json(answer.data)
        headers = self._cross_origin(incoming) if self._origins else ()
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
        return refusal(refused, now, correlation_id, (*headers, *self._cross_origin(incoming)))

    def _is_known_origin(self, incoming: Incoming) -> bool:
        origin = incoming.headers.getRawHeaders(b"Origin") if self._origins else None
        return origin is not None and (origin[0] in self._origins or b"*" in self._origins)

    def _cross_origin(self, incoming: Incoming) -> Headers:
        if not self._origins:
            return ()
        headers: Headers = ((b"Vary", b"Origin"),)
        if self._is_known_origin(incoming) and (origin := incoming.headers.getRawHeaders(b"Origin")):
            headers += (
                (b"Access-Control-Allow-Origin", origin[0]),
                (b"Access-Control-Expose-Headers", _EXPOSED),
            )
        return headers


def _idempotency_key(incoming: Incoming) -> str | None:
    given = incoming.headers.getRawHeaders(b"Idempotency-Key")
    if given is None:
        return None
    if len(given) != 1 or not _is_key(given[0]):
        raise Refused("invalid_idempotency_key", field="Idempotency-Key")
    return given[0].decode("ascii")

"""`GET /api/events?topics=A,B`: the stream of updates as server-sent events.

    id: SEQ:PART
    event: balance_updated
    data: {"type": "balance_updated", "topic", "seq", "part", "data"}

An update that matches two of the topics is two events. The stream is ordered by record, in a record by the topics'
names, and in a topic by its parts; the PART of an `id` counts all events of the stream for that record in this order,
from 0 (so it is the topic's own part where there is one topic), hidden ones included. Coming back with the last id as
`Last-Event-ID`, and the same topics, continues the stream without a gap and without a repeat. An `id` without data
comes first, so that a client that has seen no event yet can come back too. Before the server ends a stream by itself it
sends `event: close` with the code that a WebSocket would be closed with.
"""

from collections.abc import Iterable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from ledger.domain.errors import Refused
from ledger.domain.policy import Caller
from ledger.pubsub.access import Bearer, Context, Front, Visit, bearer_token
from ledger.pubsub.event import Event
from ledger.pubsub.following import Following, Outlet
from ledger.pubsub.session import MOST_TOPICS
from ledger.pubsub.sockets import TOO_SLOW, UNAUTHENTICATED
from ledger.pubsub.topics import grant

_log = Logger()

HEARTBEAT: Final = 15.0
_MOST_STALLED: Final = 4  # heartbeats that the client has read nothing for


class Stream:
    """One client's stream, until one side ends it."""

    def __init__(self, context: Context, request: Any) -> None:
        self.outlet = Outlet(self._deliver, self._too_slow)
        self.bearer = Bearer(context.authenticator, self._revoked)
        self.ended = False
        self.gone = False
        self._context = context
        self._request = request
        self._following: Following | None = None
        self._stalled = 0
        self._timer: Any = None
        request.notifyFinish().addBoth(lambda _: self._lost())

    def begin(self, following: Following, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Send the head of the answer, and then events; or refuse, where there is no room any more."""
        self._context.sockets.add(self, known=True)
        self._following = following
        request = self._request
        for name, value in headers:
            request.setHeader(name, value)
        request.setHeader(b"Content-Type", b"text/event-stream")
        request.setHeader(b"Cache-Control", b"no-store")
        request.setHeader(b"X-Accel-Buffering", b"no")
        request.registerProducer(self, True)
        request.write(b"retry: 1000\nid: %b\n\n" % following.place.encode())
        self._timer = self._context.clock.callLater(HEARTBEAT, self._beat)
        following.begin()

    def _deliver(self, event: Event, number: int) -> None:
        if not self.ended:
            self._request.write(b"id: %d:%d\nevent: balance_updated\ndata: %b\n\n" % (event.seq, number, event.message))

    def _beat(self) -> None:
        self._timer = self._context.clock.callLater(HEARTBEAT, self._beat)
        if self.outlet.is_open:
            self._stalled = 0
            self._request.write(b": still here\n\n")
        else:
            self._stalled += 1
            if self._stalled >= _MOST_STALLED:
                self._too_slow()

    def pauseProducing(self) -> None:
        """The transport is full."""
        self.outlet.close()

    def resumeProducing(self) -> None:
        """The transport is empty."""
        self._stalled = 0
        if not self.ended:
            self.outlet.open()

    def stopProducing(self) -> None:
        """The transport is gone: `_lost` follows."""

    def _revoked(self) -> None:
        self.close(UNAUTHENTICATED, "the token is not valid any more")

    def _too_slow(self) -> None:
        # The end of the answer would only wait behind what the client does not read.
        self.abort()

    def close(self, code: int, reason: str) -> None:
        """Say why, and end the answer."""
        if not self.ended:
            self._end()
            if self._request.startedWriting:
                self._request.write(b'event: close\ndata: {"code":%d,"reason":"%b"}\n\n' % (code, reason.encode()))
                self._request.unregisterProducer()
                self._request.finish()

    def abort(self) -> None:
        """Cut the connection."""
        _log.debug("cutting an event stream", code=TOO_SLOW)
        self._end()
        if self._request.channel is not None:
            self._request.channel.forceAbortClient()

    def _lost(self) -> None:
        self.gone = True
        self._end()
        self._context.sockets.remove(self)

    def _end(self) -> None:
        self.ended = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self.bearer.drop()
        if self._following is not None:
            self._following.cancel()


class EventsResource(Resource):
    """Opens streams; what is refused before a stream begins is answered like any other request."""

    isLeaf = True

    def __init__(self, context: Context, front: Front) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._context = context
        self._front = front

    def render(self, request: Any) -> int:
        """Open a stream, or refuse."""
        visit = self._front.visit("GET /api/events", request)
        if request.method == b"GET":
            Deferred.fromCoroutine(self._open(request, visit))
        else:
            visit.answer_without_get()
        return NOT_DONE_YET

    async def _open(self, request: Any, visit: Visit) -> None:
        stream = Stream(self._context, request)
        try:
            self._context.sockets.admit()
            following = await self._follow(request, visit, stream)
            if not stream.ended:
                stream.begin(following, visit.headers())
            elif not stream.gone:  # the token stopped meanwhile
                raise Refused("invalid_token")
        except Refused as refused:
            if not stream.gone:
                visit.refuse(refused)
        except Exception:
            _log.failure("an event stream could not be opened")
            if not stream.gone:
                visit.refuse(Refused("internal_server_error"))

    async def _follow(self, request: Any, visit: Visit, stream: Stream) -> Following:
        caller = await self._caller(request, stream.bearer)
        visit.admit(caller)
        names = _topics(request)
        grants = [await grant(self._context.directory, caller, name) for name in names]
        since = (request.getHeader(b"last-event-id") or b"").decode("latin-1") or None
        return await self._context.feed.follow(grants, since, stream.outlet)

    async def _caller(self, request: Any, bearer: Bearer) -> Caller:
        authorization = request.getHeader(b"authorization")
        if authorization is None:
            raise Refused("invalid_token")
        token = bearer_token(authorization.decode("latin-1"))
        caller = await bearer.check(token)
        bearer.keep(token)  # at once: from here on, a revocation is noticed
        return caller


def _topics(request: Any) -> list[str]:
    """The names of the topics asked for, each once."""
    texts = [text.decode("utf-8", "replace") for text in request.args.get(b"topics", [])]
    names = list(dict.fromkeys(name.strip() for text in texts for name in text.split(",") if name.strip()))
    if not names:
        raise Refused("missing_fields", field="topics")
    if len(names) > MOST_TOPICS:
        raise Refused("invalid_request", "Too many topics in one stream", limit=MOST_TOPICS)
    return names

"""The conversation with one WebSocket client, whatever carries the messages.

From the client, one JSON object each:

    {"type": "auth", "token"}                  no answer unless refused; within 5 s of connecting, else closed: 4401;
                                               not needed with a valid Authorization header; again before the token
                                               expires, to stay with a fresh one
    {"type": "subscribe", "topic", "since"?}   answered by "subscribed", then by events: all after `since`, or all from
                                               now on; a topic that is subscribed already goes on undisturbed without
                                               `since`, and starts anew with it
    {"type": "unsubscribe", "topic"}           answered by "unsubscribed", even if it was not subscribed
    {"type": "ping"}                           answered by "pong"

To the client: {"type": "subscribed", "topic", "seq"}, `seq` being the last record of which nothing will come any more,
{"type": "unsubscribed", "topic"}, {"type": "pong"},
{"type": "balance_updated", "topic", "seq", "part", "data"}, and for what was refused, the connection staying open,
{"type": "error", "reason", "message", "topic"?, "details"?}.

Messages are handled in their order, one at a time. Closed with: 4401 not authenticated in time, or the token stopped
being valid; 4408 too slow a reader; 4503 the server is stopping, or full.
"""

from collections import deque
from typing import Any, Final, Protocol

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ledger.domain.errors import Refused
from ledger.domain.policy import Caller
from ledger.pubsub.access import Bearer, Context, Note, bearer_token
from ledger.pubsub.event import Event
from ledger.pubsub.following import Following, Outlet
from ledger.pubsub.sockets import STOPPING, TOO_SLOW, UNAUTHENTICATED
from ledger.pubsub.topics import grant

_log = Logger()

MOST_TOPICS: Final = 1_000
PATIENCE: Final = 5.0
_MOST_QUEUED: Final = 100
_MOST_UNREAD: Final = 1_000
_IN_A_ROW: Final = 20
_LONGEST_TEXT: Final = 512
_LONGEST_TOKEN: Final = 4_096  # as in a header: a signed token holds an e-mail address

_encode = msgspec.json.Encoder().encode


class Line(Protocol):
    """What carries messages to the client."""

    def send(self, message: bytes) -> None: ...
    def deliver(self, event: Event) -> None: ...
    def hold(self, held: bool) -> None:
        """Stop reading from the client, or go on."""

    def close(self, code: int, reason: str) -> None: ...
    def abort(self) -> None: ...


class Session:
    """One client: who it is, what it follows, and its messages in their order."""

    def __init__(self, context: Context, line: Line, note: Note = lambda _refused, _caller: None) -> None:
        self._context = context
        self._line = line
        self._note = note
        self._caller: Caller | None = None
        self._bearer = Bearer(context.authenticator, self._revoked)
        self._followings: dict[str, Following] = {}
        self._outlet = Outlet(lambda event, _number: line.deliver(event), self._too_slow)
        self._queue: deque[tuple[str, str | bytes]] = deque()
        self._working = False
        self._held = False
        self._unread = 0
        self._closed = False
        self._timer: Any = None

    def opened(self, authorization: str | None) -> None:
        """Begin, with the client's `Authorization` header if it sent one; or close, where there is no room any more."""
        try:
            self._context.sockets.add(self, known=False)
        except Refused as refused:  # the last place was taken, or the server began to stop, during the handshake
            self.close(STOPPING, refused.message)
            return
        self._timer = self._context.clock.callLater(PATIENCE, self._impatient)
        if authorization is not None:
            self._take("header", authorization)

    def received(self, message: bytes, binary: bool) -> None:
        """Take a message from the client."""
        self._take("binary" if binary else "text", message)

    def nudged(self) -> None:
        """Count something that is answered; a client that makes us answer without reading is too slow."""
        if not self._outlet.is_open:
            self._unread += 1
            if self._unread > _MOST_UNREAD:
                self._too_slow()

    def pause(self) -> None:
        """The connection takes no more for now."""
        self._outlet.close()

    def resume(self) -> None:
        """The connection takes more."""
        self._unread = 0
        if not self._closed:
            self._outlet.open()

    def close(self, code: int, reason: str) -> None:
        """Send nothing more but the close; only the first one counts."""
        if not self._closed:
            self._end()
            self._line.close(code, reason)

    def abort(self) -> None:
        """Cut the connection."""
        self._end()
        self._line.abort()

    def lost(self) -> None:
        """Learn that the connection is gone."""
        self._end()
        self._context.sockets.remove(self)

    def _end(self) -> None:
        self._closed = True
        self._queue.clear()
        self._hold(False)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._bearer.drop()
        for following in self._followings.values():
            following.cancel()
        self._followings.clear()

    def _revoked(self) -> None:
        self.close(UNAUTHENTICATED, "the token is not valid any more")

    def _impatient(self) -> None:
        self.close(UNAUTHENTICATED, "not authenticated in time")

    def _too_slow(self) -> None:
        self.close(TOO_SLOW, "too slow: resume with since")

    def _hold(self, held: bool) -> None:
        if held != self._held:
            self._held = held
            self._line.hold(held)

    def _take(self, kind: str, content: str | bytes) -> None:
        if self._closed:
            return
        self._queue.append((kind, content))
        if not self._working:
            self._working = True
            Deferred.fromCoroutine(self._work())
        elif len(self._queue) >= _MOST_QUEUED:
            self._hold(True)

    async def _work(self) -> None:
        count = 0
        while self._queue:
            kind, content = self._queue.popleft()
            message: dict[str, Any] = {}
            try:
                if kind == "header":
                    await self._authenticate(bearer_token(str(content)))
                else:
                    message = _read(kind, content)
                    await self._handle(message)
            except Refused as refused:
                self._note(refused, self._caller)
                self._refuse(refused, message.get("topic"))
                if kind == "header" and refused.reason != "service_unavailable":
                    self.close(UNAUTHENTICATED, refused.message)
            except Exception:
                _log.failure("a message could not be handled")
                self._refuse(Refused("internal_server_error"), message.get("topic"))
            count += 1
            if count % _IN_A_ROW == 0 and self._queue:
                await self._breathe()
        self._working = False
        self._hold(False)

    def _breathe(self) -> Deferred[None]:
        rested: Deferred[None] = Deferred()
        self._context.clock.callLater(0, rested.callback, None)
        return rested

    async def _handle(self, message: dict[str, Any]) -> None:
        kind = _text(message, "type")
        if kind == "ping":
            self._send({"type": "pong"})
        elif kind == "auth":
            await self._authenticate(_text(message, "token", _LONGEST_TOKEN))
        elif kind == "subscribe":
            await self._subscribe(_text(message, "topic"), message.get("since"))
        elif kind == "unsubscribe":
            topic = _text(message, "topic")
            if (following := self._followings.pop(topic, None)) is not None:
                following.cancel()
            self._send({"type": "unsubscribed", "topic": topic})
        else:
            raise Refused("invalid_request", "The type of message is not known", field="type")

    async def _authenticate(self, token: str) -> None:
        caller = await self._bearer.check(token)
        if self._closed:
            return
        if self._followings and (self._caller is None or caller.identity != self._caller.identity):
            raise Refused("invalid_request", "Somebody else's topics are subscribed on this connection", field="token")
        self._caller = caller
        self._context.sockets.recognise(self)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._bearer.keep(token)

    async def _subscribe(self, topic: str, since: object) -> None:
        if self._caller is None:
            raise Refused("invalid_token")
        granted = await grant(self._context.directory, self._caller, topic)
        old = self._followings.get(topic)
        if old is None and len(self._followings) >= MOST_TOPICS:
            raise Refused("invalid_request", "Too many topics on one connection", limit=MOST_TOPICS)
        if old is not None and since is None:
            self._send({"type": "subscribed", "topic": topic, "seq": old.seq})
            return
        following = await self._context.feed.follow([granted], since, self._outlet)
        if self._closed:
            return
        if old is not None:
            old.cancel()
        self._followings[topic] = following
        self._send({"type": "subscribed", "topic": topic, "seq": following.seq})
        following.begin()

    def _refuse(self, refused: Refused, topic: object) -> None:
        answer: dict[str, Any] = {"type": "error", "reason": refused.reason, "message": refused.message}
        if topic is not None and len(str(topic)) <= _LONGEST_TEXT:
            answer["topic"] = topic
        if refused.details:
            answer["details"] = refused.details
        self._send(answer)

    def _send(self, answer: dict[str, Any]) -> None:
        if not self._closed:
            self.nudged()
            self._line.send(_encode(answer))


def _read(kind: str, content: str | bytes) -> dict[str, Any]:
    if kind == "binary":
        raise Refused("invalid_request", "Messages are text")
    try:
        message = msgspec.json.decode(content)
    except (ValueError, RecursionError):
        raise Refused("invalid_request", "The message is not JSON") from None
    if not isinstance(message, dict):
        raise Refused("invalid_request", "The message is not a JSON object")
    return message


def _text(message: dict[str, Any], field: str, longest: int = _LONGEST_TEXT) -> str:
    value = message.get(field)
    if value is None or value == "":
        raise Refused("missing_fields", field=field)
    if not isinstance(value, str) or len(value) > longest:
        raise Refused("invalid_request", field=field)
    return value

"""`/ws`: WebSocket connections, carried by Autobahn."""

from typing import Any, Final

from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from ledger.domain.errors import Refused
from ledger.pubsub.access import Context, Front
from ledger.pubsub.event import Event
from ledger.pubsub.loopback import operator_allowed
from ledger.pubsub.session import Session

_LARGEST: Final = 64 * 1024
_PING_EVERY: Final = 30
_PONG_WITHIN: Final = 30
_CLOSE_WITHIN: Final = 10


class Socket(WebSocketServerProtocol):  # type: ignore[misc]
    """One connection: passes messages between Autobahn and a session, and the transport's fullness to the session."""

    session: Session | None = None
    closeHandshakeTimeoutCall: Any

    def onConnect(self, request: Any) -> None:
        """Keep of the handshake what says who this is."""
        host = getattr(self.transport.getPeer(), "host", "")
        self._operator = operator_allowed(host, request.headers)
        self._authorization = request.headers.get("authorization")

    def onOpen(self) -> None:
        """Begin the session."""
        self.transport.unregisterProducer()  # the HTTP channel that this connection began as
        self.transport.registerProducer(self, True)
        self.session = Session(self.factory.context, self)
        self.session.opened(self._authorization, self._operator)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Pass on a message."""
        if self.session is not None:
            self.session.received(payload, isBinary)

    def onPing(self, payload: bytes) -> None:
        """Answer, within what the client reads."""
        if self.session is not None:
            self.session.nudged()
        super().onPing(payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: ARG002
        """End the session."""
        if self.closeHandshakeTimeoutCall is not None:  # Autobahn leaves it running when the connection is cut
            self.closeHandshakeTimeoutCall.cancel()
            self.closeHandshakeTimeoutCall = None
        if self.session is not None:
            self.session.lost()

    def pauseProducing(self) -> None:
        """The transport is full."""
        if self.session is not None:
            self.session.pause()

    def resumeProducing(self) -> None:
        """The transport is empty."""
        if self.session is not None:
            self.session.resume()

    def stopProducing(self) -> None:
        """The transport is gone: `onClose` follows."""

    def send(self, message: bytes) -> None:
        """Send one text message."""
        if self.state == self.STATE_OPEN:
            self.sendMessage(message)

    def deliver(self, event: Event) -> None:
        """Send an event, framed once for all its subscribers."""
        frame = event.frame
        if frame is None:
            frame = event.frame = self.factory.prepareMessage(event.message, doNotCompress=True).payloadHybi
        if self.state == self.STATE_OPEN:
            self.transport.write(frame)  # sendPreparedMessage spends more on a debug line than on this

    def hold(self, held: bool) -> None:
        """Stop reading, or go on."""
        if held:
            self.transport.pauseProducing()
        else:
            self.transport.resumeProducing()

    def close(self, code: int, reason: str) -> None:
        """Close with a code; Autobahn cuts the connection if the client does not answer in time."""
        self.sendClose(code, reason)

    def abort(self) -> None:
        """Cut the connection."""
        self.dropConnection(abort=True)


class SocketFactory(WebSocketServerFactory):  # type: ignore[misc]
    """Builds the connections of one server."""

    protocol = Socket

    def __init__(self, context: Context, reactor: Any) -> None:
        super().__init__(reactor=reactor, server="")
        self.context = context
        self.setProtocolOptions(
            webStatus=False,
            allowNullOrigin=True,
            failByDrop=False,
            maxMessagePayloadSize=_LARGEST,
            maxFramePayloadSize=_LARGEST,
            closeHandshakeTimeout=_CLOSE_WITHIN,
            autoPingInterval=_PING_EVERY,
            autoPingTimeout=_PONG_WITHIN,
            tcpNoDelay=True,
        )


@implementer(IResource)
class _Door:
    """Turns away what is no WebSocket handshake, or one too many, in the manner of every other endpoint."""

    isLeaf = True

    def __init__(self, factory: SocketFactory, front: Front) -> None:
        self._factory = factory
        self._front = front
        self._inner = WebSocketResource(factory)

    def getChildWithDefault(self, path: bytes, request: Any) -> Any:  # noqa: ARG002
        """There is nothing below."""
        return self

    def putChild(self, path: bytes, child: Any) -> None:
        """There is nothing below."""

    def render(self, request: Any) -> Any:
        """Hand the connection over to Autobahn, or refuse."""
        try:
            _check_handshake(request)
            self._factory.context.sockets.admit()
        except Refused as refused:
            self._front.refuse(request, refused)
            return NOT_DONE_YET
        return self._inner.render(request)


def _check_handshake(request: Any) -> None:
    if request.method != b"GET":
        raise Refused("method_not_allowed", allow="GET")
    upgrade = (request.getHeader(b"upgrade") or b"").lower()
    version = request.getHeader(b"sec-websocket-version")
    if upgrade != b"websocket" or version != b"13":
        raise Refused("invalid_request", "This is a WebSocket endpoint (version 13)", field="Upgrade")


def websocket_resource(context: Context, front: Front, reactor: Any) -> Any:
    """Return the resource for `/ws`."""
    factory = SocketFactory(context, reactor)
    factory.startFactory()
    return _Door(factory, front)

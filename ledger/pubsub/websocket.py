"""`/ws`: WebSocket connections, carried by Autobahn."""

from typing import Any, Final

from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from ledger.domain.errors import Refused
from ledger.pubsub.access import Context, Front, Visit
from ledger.pubsub.event import Event
from ledger.pubsub.session import Session

_LARGEST: Final = 64 * 1024
_PING_EVERY: Final = 30
_PONG_WITHIN: Final = 30
_CLOSE_WITHIN: Final = 10


class Socket(WebSocketServerProtocol):  # type: ignore[misc]
    """One connection: passes messages between Autobahn and a session, and the transport's fullness to the session."""

    session: Session | None = None
    visit: Visit | None  # the HTTP request that this connection began as, until it is open
    closeHandshakeTimeoutCall: Any

    def onConnect(self, request: Any) -> tuple[None, dict[str, str]]:
        """Keep of the handshake what says who this is; returns the headers of the answer."""
        self._authorization = request.headers.get("authorization")
        headers = () if self.visit is None else self.visit.headers()
        return None, {name.decode(): value.decode() for name, value in headers}

    def sendHttpErrorResponse(self, code: int, reason: str, responseHeaders: Any = None) -> None:  # noqa: ARG002
        """Refuse a handshake that Autobahn finds fault with; it logs the reason, and closes the connection."""
        if self.visit is not None:
            refused = Refused("invalid_request", "This is no valid WebSocket handshake")
            self.transport.write(self.visit.refusal(refused))

    def onOpen(self) -> None:
        """Begin the session."""
        visit, self.visit = self.visit, None
        assert visit is not None
        self.transport.unregisterProducer()  # the HTTP channel that this connection began as
        self.transport.registerProducer(self, True)
        self.session = Session(self.factory.context, self, visit.witness())
        self.session.opened(self._authorization)

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


class _Handshake:
    """The factory as Autobahn's resource sees it for one request, which answers are made for."""

    def __init__(self, factory: SocketFactory, visit: Visit) -> None:
        self._factory = factory
        self._visit = visit

    def buildProtocol(self, address: Any) -> Any:
        """Return the connection."""
        socket = self._factory.buildProtocol(address)
        socket.visit = self._visit
        return socket


class _Door(Resource):
    """Turns away what is no WebSocket handshake, or one too many, in the manner of every other endpoint."""

    isLeaf = True

    def __init__(self, factory: SocketFactory, front: Front) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._factory = factory
        self._front = front

    def render(self, request: Any) -> Any:
        """Hand the connection over to Autobahn, or refuse."""
        visit = self._front.visit("GET /ws", request)
        if request.method != b"GET":
            visit.answer_without_get()
            return NOT_DONE_YET
        try:
            visit.admit(None)
            _check_handshake(request)
            self._factory.context.sockets.admit()
        except Refused as refused:
            visit.refuse(refused)
            return NOT_DONE_YET
        return WebSocketResource(_Handshake(self._factory, visit)).render(request)


def _check_handshake(request: Any) -> None:
    upgrade = (request.getHeader(b"upgrade") or b"").lower()
    version = request.getHeader(b"sec-websocket-version")
    if upgrade != b"websocket" or version != b"13":
        raise Refused("invalid_request", "This is a WebSocket endpoint (version 13)", field="Upgrade")


def websocket_resource(context: Context, front: Front, reactor: Any) -> Any:
    """Return the resource for `/ws`."""
    factory = SocketFactory(context, reactor)
    factory.startFactory()
    return _Door(factory, front)

"""One client connection and its requests: Twisted's own, spared what a JSON service does not need."""

from __future__ import annotations

from email.utils import formatdate
from io import BytesIO
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IAddress
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, parse_qs
from twisted.web.http_headers import Headers
from twisted.web.iweb import INonQueuedRequestFactory
from twisted.web.server import Request
from zope.interface import provider

from ledger.domain.errors import Refused
from ledger.resources.answers import JSON, REASONS, SECURITY_HEADERS, TRANSPORT_SECURITY, Outgoing
from ledger.resources.incoming import Incoming
from ledger.resources.plain_adapter import read_request

if TYPE_CHECKING:
    from ledger.resources.site import LedgerSite


def _lines(*headers: tuple[bytes, bytes]) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)


_STANDARD = _lines(JSON, *SECURITY_HEADERS)
_STANDARD_TLS = _lines(JSON, *SECURITY_HEADERS, TRANSPORT_SECURITY)
_STATUS_LINES = {status: b"HTTP/1.1 %d %b\r\n" % (status, phrase) for status, phrase in REASONS.items()}
_Request: Any = Request  # Twisted leaves these without types
_Channel: Any = HTTPChannel
_parse_query: Any = parse_qs

_PATIENCE = 1 << 20  # bytes of a body that was refused already, before the connection is cut


class HttpDate:
    """The Date header's text, made at most once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = b""

    def text(self, seconds: float) -> bytes:
        """Return the instant as HTTP writes it."""
        second = int(seconds)
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True).encode()
        return self._text


def on_the_wire(outgoing: Outgoing, date: bytes, secure: bool, close: bool) -> bytes:
    """Return an answer as it goes over the wire."""
    return b"%b%bDate: %b\r\nX-Correlation-ID: %b\r\nContent-Length: %d\r\n%b%b\r\n%b" % (
        _STATUS_LINES[outgoing.status],
        _STANDARD_TLS if secure else _STANDARD,
        date,
        outgoing.correlation_id.encode("ascii"),
        len(outgoing.body),
        _lines(*outgoing.headers) if outgoing.headers else b"",
        b"Connection: close\r\n" if close else b"",
        outgoing.body,
    )


@provider(INonQueuedRequestFactory)
class LedgerRequest(_Request):  # type: ignore[misc]
    """A request whose body is bounded before it is read, and that takes the short way to a hot endpoint."""

    received = False
    _size = 0
    _limit = 0
    _too_large = False

    def parseCookies(self) -> None:
        """Nothing here reads cookies."""

    def gotLength(self, length: int | None) -> None:
        """Make room for the body, or refuse it before it comes."""
        self.content = BytesIO()
        self._limit = self.channel.site.body_limit(self.channel._path)
        if length is not None and length > self._limit:
            self._refuse_body()

    def handleContentChunk(self, data: bytes) -> None:
        """Take a piece of the body; beyond the limit nothing is kept, and far beyond it the connection ends."""
        self._size += len(data)
        if not self._too_large:
            if self._size <= self._limit:
                self.content.write(data)
                return
            self._refuse_body()
        if self._size > self._limit + _PATIENCE:
            self.channel.transport.abortConnection()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Hand the complete request to its endpoint, if it is a hot one, else to the resources."""
        channel = self.channel
        site = channel.site
        self.received = True
        channel.served += 1
        self.method, self.uri, self.clientproto = command, path, version
        self.path, _, query = path.partition(b"?")
        if self._too_large:
            self._finish()
            return
        hot = site.hot.get((command, self.path))
        if hot is not None:
            incoming = Incoming(self.requestHeaders, query, self.content.getvalue(), channel.peer_host)
            site.exchange.take(hot, incoming, {}, self.send)
            return
        if self.path == b"*":  # Twisted would answer this by itself, unlike everything else
            incoming = Incoming(self.requestHeaders, b"", b"", channel.peer_host)
            self.send(site.exchange.refuse(incoming, Refused("resource_not_found")))
            return
        self.args = _parse_query(query, True) if query else {}
        self.content.seek(0)
        self.process()

    def send(self, outgoing: Outgoing) -> None:
        """Answer in one write; to a client that has gone, nothing is said."""
        if self.channel is not None:
            self._say(outgoing)
            self._finish()

    def _refuse_body(self) -> None:
        # The answer goes out at once. The connection is closed only when the body has come, or when too much has:
        # closed earlier, the client would see a reset instead of the answer.
        self._too_large = True
        self.requestHeaders.removeHeader(b"Expect")  # Twisted would go on to invite the body
        self.channel.persistent = False
        incoming = Incoming(self.requestHeaders, b"", b"", self.channel.peer_host)
        refused = Refused("payload_too_large", limit=self._limit)
        meant = self.channel.site.dialect_at(self.channel._path)
        self._say(self.channel.site.exchange.refuse(incoming, refused, meant=meant))

    def _say(self, outgoing: Outgoing) -> None:
        channel = self.channel
        site = channel.site
        if site.draining:
            channel.persistent = False
        self.startedWriting = 1
        channel.transport.write(on_the_wire(outgoing, site.date(), channel.secure, not channel.persistent))

    def _finish(self) -> None:
        self.finished = 1
        self._cleanup()


class LedgerChannel(_Channel):  # type: ignore[misc]
    """A connection that knows who is at its other end, and that its site watches over and can drain."""

    site: LedgerSite
    secure = False
    served = 0
    peer_host = ""

    def connectionMade(self) -> None:
        """Ask once what every request wants to know."""
        self._peer: IAddress = self.transport.getPeer()
        self._host: IAddress = self.transport.getHost()
        self.peer_host = getattr(self._peer, "host", "unix")
        self.secure = self.isSecure()
        super().connectionMade()
        self.site.opened(self)

    def connectionLost(self, reason: Failure) -> None:
        """Leave the site's watch."""
        self.site.closed(self)
        super().connectionLost(reason)

    def dataReceived(self, data: bytes) -> None:
        """Read a request to a hot endpoint in one go, if it is that plain, else as Twisted does."""
        if self.line_mode and self.persistent and not self.requests and not self._buffer:
            read = read_request(self.site.hot_lines, data)
            if read is not None and not self.transport.disconnecting:
                (method, path), fields, body = read
                request = LedgerRequest(self)
                request.requestHeaders = fields
                request.content = BytesIO(body)
                self.requests.append(request)
                self._handlingRequest = True
                self.setRawMode()  # what comes before the answer waits, as in `allContentReceived`
                request.requestReceived(method, path, b"HTTP/1.1")
                return
        super().dataReceived(data)

    def getPeer(self) -> IAddress:
        """The client's address."""
        return self._peer

    def getHost(self) -> IAddress:
        """Our own address."""
        return self._host

    @property
    def is_waiting(self) -> bool:
        """Whether a complete request waits for its answer."""
        return bool(self.requests) and self.requests[0].received

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """Write the head of an answer that a resource gives, with the standard headers it has no others for."""
        for name, value in (*SECURITY_HEADERS, TRANSPORT_SECURITY) if self.secure else SECURITY_HEADERS:
            if not headers.hasHeader(name):
                headers.setRawHeaders(name, [value])
        headers.removeHeader(b"Server")
        headers.setRawHeaders(b"Date", [self.site.date()])
        if self.site.draining:
            self.persistent = False
            headers.setRawHeaders(b"Connection", [b"close"])
        super().writeHeaders(version, code, reason, headers)

    def lineLengthExceeded(self, _line: bytes) -> None:
        """Answer to a header without an end."""
        self._respondToBadRequestAndDisconnect()

    def _respondToBadRequestAndDisconnect(self) -> None:
        incoming = Incoming(Headers(), b"", b"", self.peer_host)
        refused = Refused("invalid_request", "The request is not HTTP")
        outgoing = self.site.exchange.refuse(incoming, refused)
        self.transport.write(on_the_wire(outgoing, self.site.date(), self.secure, close=True))
        self.loseConnection()

"""The documentation page at /docs: Swagger UI, as a package carries it, under a content security policy of its own."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET

from ledger.domain.errors import Refused
from ledger.resources.live import LiveFront, LiveVisit
from ledger.resources.openapi import PATH

_log = Logger()
_Resource: Any = Resource  # Twisted leaves these without types

_NAME: Final = "GET /docs"  # whichever file of it: that is what counts and logs say
_PACKAGE: Final = "flask-swagger-ui"
_FOLDER: Final = "flask_swagger_ui/dist"
_FILES: Final = {
    "swagger-ui.css": b"text/css; charset=utf-8",
    "swagger-ui-bundle.js": b"text/javascript; charset=utf-8",
    "favicon-32x32.png": b"image/png",
}
_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
    b"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PIECE: Final = 1 << 16
_FOR_EVER: Final = b"public, max-age=31536000, immutable"  # another version of it has another path
_PAGE: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Ledger API</title>
<link rel="stylesheet" href="{assets}/swagger-ui.css">
<link rel="icon" type="image/png" href="{assets}/favicon-32x32.png">
</head>
<body>
<div id="ui"></div>
<noscript>This page needs JavaScript. The document that it shows is at <a href="{document}">{document}</a>.</noscript>
<script src="{assets}/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START: Final = """\
SwaggerUIBundle({{url: "{document}", dom_id: "#ui", deepLinking: true, validatorUrl: null}});
"""


class Text:
    """Content that is at hand."""

    def __init__(self, text: str) -> None:
        self._content = text.encode()

    async def read(self) -> bytes:
        """Return it."""
        return self._content


class PackagedFile:
    """A file that is read once, when it is first asked for, on a thread; after a failure it is tried again."""

    def __init__(self, path: Path, reactor: Any) -> None:
        self._path = path
        self._reactor = reactor
        self._content: bytes | None = None

    async def read(self) -> bytes:
        """Return its content."""
        if self._content is None:
            pool = self._reactor.getThreadPool()
            reading: Deferred[bytes] = deferToThreadPool(self._reactor, pool, self._path.read_bytes)
            self._content = await reading
        return self._content


class _Sending:
    """Writes content as fast as the client reads it, so that slow ones do not fill the memory."""

    def __init__(self, request: Any, content: bytes) -> None:
        self._request = request
        self._content = content
        self._sent = 0
        self._is_open = False

    def begin(self) -> None:
        """Write what the transport takes; it asks for the rest."""
        self._request.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        """The transport is empty."""
        self._is_open = True
        while self._is_open and self._sent < len(self._content):
            start, self._sent = self._sent, self._sent + _PIECE
            self._request.write(self._content[start : self._sent])
        if self._is_open:
            self._is_open = False
            self._request.unregisterProducer()
            self._request.finish()

    def pauseProducing(self) -> None:
        """The transport is full."""
        self._is_open = False

    def stopProducing(self) -> None:
        """The transport is gone."""
        self._is_open = False


class Page(_Resource):  # type: ignore[misc]
    """One path that answers GET and HEAD with one content."""

    isLeaf = True

    def __init__(self, front: LiveFront, content: Text | PackagedFile, headers: Mapping[bytes, bytes]) -> None:
        super().__init__()
        self._front = front
        self._content = content
        self._headers = headers

    def render(self, request: Any) -> int:
        """Send the content, to a slow client piece by piece."""
        visit = self._front.visit(_NAME, request)
        if request.method in (b"GET", b"HEAD"):
            Deferred.fromCoroutine(self._send(request, visit))
        else:
            visit.answer_without_get()
        return NOT_DONE_YET

    async def _send(self, request: Any, visit: LiveVisit) -> None:
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)
        try:
            visit.admit(None)
            content = await self._content.read()
        except Refused as refused:
            visit.refuse(refused)
            return
        except Exception:
            _log.failure("a file of the documentation page could not be read")
            if not gone:
                visit.refuse(Refused("internal_server_error"))
            return
        if gone:
            return
        own = {**self._headers, b"Content-Length": b"%d" % len(content)}
        for name, value in (*visit.headers(), *own.items()):
            request.setHeader(name, value)
        if request.method == b"HEAD":
            request.finish()
        else:
            _Sending(request, content).begin()


def documentation(front: LiveFront, reactor: Any) -> dict[str, IResource]:
    """Return the page and what belongs to it, each by its whole path: no other file can be reached."""
    package = distribution(_PACKAGE)
    assets = f"/docs/{package.version}"
    policy = {b"Content-Security-Policy": _POLICY}
    names = {"assets": assets, "document": PATH}
    page = Page(front, Text(_PAGE.format(**names)), {**policy, b"Content-Type": b"text/html; charset=utf-8"})
    start = Page(front, Text(_START.format(**names)), {b"Content-Type": b"text/javascript; charset=utf-8"})
    found: dict[str, Any] = {"/docs": page, "/docs/": page, "/docs/start.js": start}
    for name, kind in _FILES.items():
        file = PackagedFile(_path(package, name), reactor)
        found[f"{assets}/{name}"] = Page(front, file, {b"Content-Type": kind, b"Cache-Control": _FOR_EVER})
    return found


def _path(package: Distribution, name: str) -> Path:
    return Path(str(package.locate_file(f"{_FOLDER}/{name}")))

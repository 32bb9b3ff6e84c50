"""The documentation page: packaged files, nothing from elsewhere, and no way to any other file."""

from __future__ import annotations

import re
from hashlib import sha256
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ledger.resources.documentation import PackagedFile, documentation
from ledger.resources.live import LiveFront
from tests.resources.harness import Reply, Server

BUNDLE = f"/docs/{version('flask-swagger-ui')}/swagger-ui-bundle.js"


class Threads:
    """A reactor with a thread pool that works when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []

    def getThreadPool(self) -> Threads:
        """The pool."""
        return self

    def callInThreadWithCallback(self, done: Any, work: Any, *args: Any, **named: Any) -> None:
        """Take work."""
        self.waiting.append((done, work, args, named))

    def callFromThread(self, work: Any, *args: Any) -> None:
        """Come back from the pool."""
        work(*args)

    def work(self) -> int:
        """Do what waits, and tell how much it was."""
        waiting, self.waiting = self.waiting, []
        for done, work, args, named in waiting:
            try:
                result = work(*args, **named)
            except OSError:
                done(False, Failure())  # type: ignore[no-untyped-call]
            else:
                done(True, result)
        return len(waiting)


class Site(Server):
    """A site with the page."""

    def __init__(self, limit: tuple[int, int] | None = None) -> None:
        super().__init__(limit=limit)
        self.threads = Threads()
        extra = documentation(LiveFront(self.site.exchange), self.threads)
        self.site = type(self.site)(self.clock, self.site.exchange, (), extra)

    def get(self, path: str, method: str = "GET") -> Reply:
        """Ask for a page, and read all of it."""
        connection = self.connect()
        connection.send(self.request(method, path, token=None))
        self.threads.work()
        (reply,) = connection.replies(method == "HEAD")
        return reply


@pytest.fixture
def site() -> Site:
    """A site with the page."""
    return Site()


@pytest.mark.parametrize("path", ["/docs", "/docs/", "/docs?x=1"])
def test_the_page_takes_everything_from_here(site: Site, path: str) -> None:
    reply = site.get(path)
    assert reply.status == 200
    assert reply.header("Content-Type") == "text/html; charset=utf-8"
    found = re.findall(r'(?:src|href)="([^"]+)"', reply.body.decode())
    assert len(found) >= 4
    for part in found:
        assert part.startswith("/")
        if part != "/api/openapi.json":
            assert site.get(part).status == 200, part
    assert "<script>" not in reply.body.decode()
    assert b"/api/openapi.json" in site.get("/docs/start.js").body


def test_its_policy_allows_no_other_origin_and_nothing_inline(site: Site) -> None:
    reply = site.get("/docs")
    policy = reply.header("Content-Security-Policy") or ""
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules.pop("default-src") == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert {source for rule in rules.values() for source in rule.split()} == {"'self'", "'none'", "data:"}
    assert reply.header("X-Frame-Options") == "DENY"
    assert reply.header("X-Content-Type-Options") == "nosniff"
    assert reply.header("X-Correlation-ID")
    assert "default-src 'none'" in (site.get(BUNDLE).header("Content-Security-Policy") or "")


def test_files_come_whole_with_their_length_and_may_be_kept(site: Site) -> None:
    reply = site.get(BUNDLE)
    kept = Path(str(distribution("flask-swagger-ui").locate_file("flask_swagger_ui/dist/swagger-ui-bundle.js")))
    assert sha256(reply.body).digest() == sha256(kept.read_bytes()).digest()
    assert reply.header("Content-Length") == str(len(reply.body))
    assert reply.header("Cache-Control") == "public, max-age=31536000, immutable"
    assert reply.header("Content-Type") == "text/javascript; charset=utf-8"
    assert site.get("/docs").header("Cache-Control") == "no-store"


def test_a_slow_client_gets_a_file_piece_by_piece(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = site.connect()
    transport = connection.transport
    write = transport.write

    def write_and_be_full(data: bytes) -> None:
        write(data)
        if transport.producer is not None and transport.streaming:
            transport.producer.pauseProducing()

    monkeypatch.setattr(transport, "write", write_and_be_full)
    connection.send(site.request("GET", BUNDLE, token=None))
    site.threads.work()
    sizes = [len(connection.received())]
    while not connection.received().endswith(site.get(BUNDLE).body):
        assert sizes[-1] < sizes[0] + 64 * 1024 * len(sizes)
        transport.producer.resumeProducing()
        sizes.append(len(connection.received()))
    assert len(sizes) > 10


def test_a_file_is_read_once_and_on_a_thread(site: Site) -> None:
    first, second = site.connect(), site.connect()
    first.send(site.request("GET", BUNDLE, token=None))
    assert first.received() == b""
    assert site.threads.work() == 1
    second.send(site.request("GET", BUNDLE, token=None))
    assert site.threads.work() == 0
    assert first.replies()[0].body == second.replies()[0].body


def test_a_client_that_left_before_the_file_was_read_harms_nobody(site: Site) -> None:
    connection = site.connect()
    connection.send(site.request("GET", BUNDLE, token=None))
    connection.hang_up()
    assert site.threads.work() == 1
    assert connection.received() == b""
    assert site.get(BUNDLE).status == 200


def test_a_head_has_the_length_and_no_body(site: Site) -> None:
    reply = site.get(BUNDLE, "HEAD")
    assert reply.status == 200
    assert int(reply.header("Content-Length") or 0) > 1_000_000


def test_other_methods_are_refused(site: Site) -> None:
    reply = site.get("/docs", "DELETE")
    assert reply.refusal == (405, "method_not_allowed")
    assert reply.header("Allow") == "GET, OPTIONS"
    assert site.get("/docs", "OPTIONS").status == 204


def test_its_requests_count_as_their_clients() -> None:
    site = Site(limit=(2, 60))
    assert [site.get("/docs").header("X-RateLimit-Remaining") for _ in range(2)] == ["1", "0"]
    assert site.get(BUNDLE).refusal == (429, "rate_limit_exceeded")
    assert site.threads.waiting == []


@pytest.mark.parametrize(
    "path",
    [
        "/docs/../../etc/passwd",
        "/docs/%2e%2e/%2e%2e/etc/passwd",
        f"{BUNDLE}/../index.css",
        f"{BUNDLE}/..%2findex.css",
        f"{BUNDLE}%00",
        "/docs//etc/passwd",
        "/docs/swagger-ui.js",
        "/docs/5.0.0/swagger-ui.css",
    ],
)
def test_no_other_file_can_be_reached(site: Site, path: str) -> None:
    assert site.get(path).refusal == (404, "resource_not_found")


def test_a_file_that_cannot_be_read_is_tried_again_the_next_time(tmp_path: Path) -> None:
    threads = Threads()
    file = PackagedFile(tmp_path / "late", threads)
    failed: list[Any] = []
    Deferred.fromCoroutine(file.read()).addErrback(failed.append)
    threads.work()
    assert failed[0].check(FileNotFoundError)
    (tmp_path / "late").write_bytes(b"here")
    read: list[bytes] = []
    Deferred.fromCoroutine(file.read()).addCallback(read.append)
    threads.work()
    assert read == [b"here"]

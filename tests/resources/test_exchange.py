"""What the exchange notes down: failures, refusals of its own side, slowness, counts; and what it keeps to itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogEvent, Logger, formatEvent, globalLogPublisher

from ledger.domain.errors import Refused, unavailable
from ledger.domain.policy import Action
from ledger.logs import json_line, text_line
from ledger.resources.counts import BUCKETS, Allowance, Counts
from ledger.resources.endpoint import Answer, Call, Endpoint
from tests.cleanliness import LoggedErrors
from tests.resources.backend import MemoryBackend
from tests.resources.harness import Server
from tests.resources.live import LiveMemoryServer


@pytest.fixture
def events() -> Iterator[list[LogEvent]]:
    """What is logged meanwhile."""
    noted: list[LogEvent] = []
    publisher: Any = globalLogPublisher
    publisher.addObserver(noted.append)
    yield noted
    publisher.removeObserver(noted.append)


def texts(events: list[LogEvent]) -> list[str]:
    """The lines of the exchange and its adapters."""
    return [formatEvent(event) for event in events if "ledger.resources" in str(event.get("log_namespace"))]


def test_what_was_not_foreseen_is_answered_500_and_logged_without_secrets(
    server: Server, events: list[LogEvent], logged_errors: LoggedErrors
) -> None:
    server.backend.trouble = RuntimeError("a bug")
    body = {"user_id": server.user_id, "amount": 1, "description": "confidential"}
    reply = server.ask("POST", "/credit", body, {"X-Correlation-ID": "find-me"})
    assert reply.refusal == (500, "internal_server_error")
    assert b"a bug" not in reply.body
    (line,) = texts(events)
    assert line == "POST /credit failed [find-me]"
    (event,) = [event for event in events if "log_failure" in event]
    assert event["log_failure"].getErrorMessage() == "a bug"
    shown = str(event["log_failure"].getTraceback()) + str(events)
    assert server.token not in shown
    assert "confidential" not in shown
    assert len(logged_errors(RuntimeError)) == 1


def test_an_outage_is_logged_but_does_not_flood_the_log(server: Server, events: list[LogEvent]) -> None:
    server.backend.trouble = unavailable()
    for _ in range(1000):
        server.credit(1)
    assert len(texts(events)) == 10
    server.clock.advance(1)
    server.credit(1)
    assert len(texts(events)) == 11
    assert [event["left_out"] for event in events if "left_out" in event][-1] == 990


def test_what_is_no_failure_is_not_logged_but_counted(server: Server, events: list[LogEvent]) -> None:
    for amount in (1, 2, 0):
        server.credit(amount)
    server.ask("POST", "/api/credit", {}, token="nope")
    server.ask("GET", "/nothing")
    server.ask("GET", "/credit")
    assert texts(events) == []
    counts = server.site.exchange.counts.requests
    assert dict(counts) == {
        ("POST /credit", 201): 2,
        ("POST /credit", 422): 1,
        ("POST /credit", 401): 1,
        ("-", 404): 1,
        ("-", 405): 1,
    }


def test_what_is_slow_is_logged(adapter: str, events: list[LogEvent]) -> None:
    waiting: list[Callable[[], None]] = []
    server = Server(MemoryBackend(later=waiting.append), plain=adapter == "plain")
    connection = server.connect()
    body = {"user_id": server.user_id, "amount": 1}
    connection.send(server.request("POST", "/credit", body, {"X-Correlation-ID": "snail"}))
    server.clock.advance(1.5)
    waiting.pop()()
    assert texts(events) == ["POST /credit took 1.5 s [snail]"]
    assert server.site.exchange.counts.seconds["POST /credit"] == 1.5


def test_a_handler_may_wait_often_and_fail_late(adapter: str, logged_errors: LoggedErrors) -> None:
    steps: list[Deferred[int]] = []

    def step() -> Deferred[int]:
        steps.append(Deferred())
        return steps[-1]

    async def add(_caller: Any, _call: Call[None, None]) -> Answer:
        try:
            total = await step() + await step()
        except ZeroDivisionError:
            total = -1
        return Answer(total + await step())

    endpoint = Endpoint("POST", "/add", add, summary="", policy=Action.READ_DOCUMENTS, hot=True)
    server = Server(plain=adapter == "plain", endpoints=(endpoint,))

    def ask() -> Any:
        connection = server.connect()
        connection.send(server.request("POST", "/add"))
        return connection

    first, second, third = ask(), ask(), ask()
    steps[0].callback(1)
    steps[3].callback(2)
    steps[4].callback(3)
    assert first.replies()[0].data == 6
    steps[1].errback(ZeroDivisionError())
    steps[5].callback(11)
    assert second.replies()[0].data == 10
    steps[2].cancel()
    assert third.replies()[0].refusal == (500, "internal_server_error")
    assert server.site.exchange.live == 0
    assert len(logged_errors(CancelledError)) == 1


class TestCorrelation:
    """What is logged while a request is worked on carries its correlation id, and nothing else does."""

    log = Logger()

    @pytest.fixture
    def lines(self) -> Iterator[list[tuple[str, str]]]:
        """Each line of the log as it is written, and the id in its form for machines."""
        written: list[tuple[str, str]] = []

        def write(event: LogEvent) -> None:
            if event.get("log_namespace") == self.log.namespace:
                written.append((text_line(event).split(None, 2)[2], json.loads(json_line(event)).get("correlation_id")))

        publisher: Any = globalLogPublisher
        publisher.addObserver(write)
        yield written
        publisher.removeObserver(write)

    def test_over_all_that_a_handler_waits_for(self, adapter: str, lines: list[tuple[str, str]]) -> None:
        """However requests take turns."""
        steps: list[Deferred[None]] = []

        async def deeper() -> None:
            steps.append(Deferred())
            await steps[-1]
            self.log.info("deeper")

        async def work(_caller: Any, _call: Call[None, None]) -> Answer:
            self.log.info("begun")
            await deeper()
            await Deferred.fromCoroutine(deeper())
            self.log.info("done")
            return Answer("ok")

        endpoint = Endpoint("POST", "/work", work, summary="", policy=Action.READ_DOCUMENTS, hot=True)
        server = Server(plain=adapter == "plain", endpoints=(endpoint,))
        for name in ("one", "two"):
            server.connect().send(server.request("POST", "/work", headers={"X-Correlation-ID": name}))
        self.log.info("between")
        steps[1].callback(None)
        steps[0].callback(None)
        self.log.info("between")
        steps[2].callback(None)
        steps[3].callback(None)
        self.log.info("after")
        assert lines == [
            ("begun [one]", "one"),
            ("begun [two]", "two"),
            ("between", None),
            ("deeper [two]", "two"),
            ("deeper [one]", "one"),
            ("between", None),
            ("deeper [two]", "two"),
            ("done [two]", "two"),
            ("deeper [one]", "one"),
            ("done [one]", "one"),
            ("after", None),
        ]
        assert server.site.exchange.live == 0

    def test_after_a_handler_that_fails(self, adapter: str, lines: list[tuple[str, str]]) -> None:
        """Nothing of it is left."""

        async def fail(_caller: Any, _call: Call[None, None]) -> Answer:
            self.log.info("begun")
            raise Refused("forbidden")

        endpoint = Endpoint("POST", "/fail", fail, summary="", policy=Action.READ_DOCUMENTS, hot=True)
        server = Server(plain=adapter == "plain", endpoints=(endpoint,))
        reply = server.ask("POST", "/fail")
        self.log.info("after")
        made = reply.header("X-Correlation-ID")
        assert lines == [(f"begun [{made}]", made), ("after", None)]


def test_counts_by_duration() -> None:
    counts = Counts()
    for seconds in (0.0, 0.001, 0.0011, 99.0):
        counts.count("x", 200, seconds)
    assert counts.buckets["x"][:2] == [2, 1]
    assert counts.buckets["x"][-1] == 1
    assert sum(counts.buckets["x"]) == counts.requests["x", 200] == 4
    assert BUCKETS[-1] == float("inf")


def test_an_allowance_tells_what_it_left_out() -> None:
    allowance = Allowance(2)
    assert [allowance.take(0.1), allowance.take(0.2), allowance.take(0.3), allowance.take(0.9)] == [0, 0, None, None]
    assert [allowance.take(1.0), allowance.take(1.1)] == [2, 0]
    assert allowance.take(5.0) == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["user_id", "amount", "account_id", "description", "name", "email", "password", "\0", "x"])
TOKENS = st.sampled_from([b"POST", b"GET", b"OPTIONS", b"HEAD", b"FOO"])
PATHS = st.sampled_from(
    [
        b"/credit",
        b"/api/debit",
        b"/users",
        b"/balance",
        b"/balance?user_id=",
        b"/api/health/detailed",
        b"/api/events",
        b"/api/events?topics=balance_updated",
        b"/api/events?topics=%ff,users:",
        b"/ws",
    ]
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "Authorization",
                "Idempotency-Key",
                "X-Correlation-ID",
                "Host",
                "Origin",
                "Content-Type",
                "Expect",
                "Cookie",
                "Last-Event-ID",
                "Upgrade",
                "Connection",
            ]
        ),
        st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=30),
    ),
    max_size=4,
)


class TestFuzz:
    """Whatever comes, we answer, and never with 500."""

    server = LiveMemoryServer()

    def check(self, data: bytes, peer: str) -> None:
        """Send it, and look at all answers."""
        connection = self.server.connect(peer)
        connection.send(data)
        if data.startswith(b"HEAD") or b"\r\nContent-Type: text/event-stream\r\n" in connection.received():
            statuses = [
                int(status) for status in re.findall(rb"^HTTP/1\.1 ([0-9]{3}) ", connection.received(), re.MULTILINE)
            ]
        else:
            statuses = [reply.status for reply in connection.replies()]
        assert all(status < 500 for status in statuses), statuses
        connection.hang_up()

    @settings(max_examples=400, deadline=None)
    @given(
        TOKENS,
        PATHS,
        HEADERS,
        st.dictionaries(FIELDS, JSON, max_size=5) | JSON,
        st.booleans(),
        st.sampled_from(["127.0.0.1", "192.0.2.7"]),
    )
    def test_json(
        self, method: bytes, path: bytes, headers: list[tuple[str, str]], body: Any, known: bool, peer: str
    ) -> None:
        """Bodies that are JSON, or nearly."""
        content = json.dumps(body).encode()
        if known:
            content = content.replace(b'"x"', b'"%b"' % self.server.user_id.encode())
            headers = [*headers, ("Authorization", f"Bearer {self.server.token}")]
        headers = [*headers, ("Content-Length", str(len(content)))]
        head = "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1")
        self.check(b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, path, head, content), peer)

    @settings(max_examples=300, deadline=None)
    @given(PATHS, st.binary(max_size=60) | st.from_regex(rb'\{"(user_id|amount)":[ -~]{0,30}\}?', fullmatch=True))
    def test_bytes(self, path: bytes, body: bytes) -> None:
        """Bodies that are anything."""
        head = b"POST %b HTTP/1.1\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n"
        self.check(head % (path, self.server.token.encode(), len(body)) + body, "192.0.2.7")

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=40), st.binary(max_size=60))
    def test_targets(self, path: bytes, rest: bytes) -> None:
        """Anything at all."""
        self.check(b"GET /%b HTTP/1.1\r\nAccept: x\r\n\r\n%b" % (path, rest), "127.0.0.1")

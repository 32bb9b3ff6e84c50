"""Connections: keeping them, losing them, and what HTTP asks of them, through both adapters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.web import http

from ledger.resources.plain_adapter import hot_table, read_request, request_lines
from ledger.resources.site import IDLE, SWEEP
from tests.resources.backend import MemoryBackend
from tests.resources.harness import Server

NAMES = (
    *("Host", "host", "Content-Type", "Connection", "Expect", "Content-Length", "content-length", "Accept", "X-Odd"),
    *("Authorization", "Idempotency-Key", "X-Correlation-ID", "x-correlation-id", " Folded", ""),
)

Waiting = list[Callable[[], None]]


@pytest.fixture
def waiting() -> Waiting:
    """Answers of the backend that the test lets go when it wants."""
    return []


@pytest.fixture
def server(adapter: str, waiting: Waiting) -> Server:
    """A server whose operations take as long as the test wants."""
    return Server(MemoryBackend(later=waiting.append), plain=adapter == "plain")


def credit(server: Server, amount: object = 1, **headers: str) -> bytes:
    """The bytes of a credit."""
    body = {"user_id": server.user_id, "amount": amount}
    return server.request("POST", "/credit", body, {name.replace("_", "-"): value for name, value in headers.items()})


def release(waiting: Waiting) -> None:
    """Let all answers go that wait."""
    while waiting:
        waiting.pop(0)()


def test_one_connection_serves_many_requests(server: Server, waiting: Waiting) -> None:
    connection = server.connect()
    for count in range(1, 6):
        connection.send(credit(server))
        release(waiting)
        assert len(connection.replies()) == count
    connection.send(server.request("GET", "/balance"))
    assert connection.replies()[-1].data["balance"] == "5.00"
    assert not connection.transport.disconnecting


def test_pipelined_requests_are_answered_in_their_order(server: Server, waiting: Waiting) -> None:
    connection = server.connect()
    connection.send(b"".join(credit(server, amount) for amount in range(1, 31)) + server.request("GET", "/balance"))
    assert len(waiting) == 1  # one after the other: a later one must not overtake
    release(waiting)
    *credits, balance = connection.replies()
    assert [reply.data["amount"] for reply in credits] == [f"{amount}.00" for amount in range(1, 31)]
    assert balance.data["balance"] == "465.00"


def test_many_pipelined_requests_do_not_exhaust_the_stack(server: Server) -> None:
    server.backend.later = None
    connection = server.connect()
    connection.send(credit(server) * 1500)
    assert {reply.status for reply in connection.replies()} == {201}
    assert len(server.backend.submitted) == 1500


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_request_may_come_in_pieces(server: Server, waiting: Waiting, size: int) -> None:
    connection = server.connect()
    data = credit(server) * 2
    for place in range(0, len(data), size):
        connection.send(data[place : place + size])
    release(waiting)
    assert [reply.status for reply in connection.replies()] == [201, 201]


def test_the_client_can_ask_for_the_end(server: Server, waiting: Waiting) -> None:
    connection = server.connect()
    connection.send(credit(server, Connection="close"))
    assert not connection.transport.disconnecting
    release(waiting)
    (reply,) = connection.replies()
    assert reply.header("Connection") == "close"
    assert connection.transport.disconnecting


def test_http_1_0_is_one_request_a_connection(server: Server, waiting: Waiting) -> None:
    connection = server.connect()
    connection.send(credit(server).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    release(waiting)
    (reply,) = connection.replies()
    assert reply.status == 201
    assert connection.transport.disconnecting


def test_a_client_may_wait_to_be_asked_for_the_body(server: Server, waiting: Waiting) -> None:
    connection = server.connect()
    head, separator, body = credit(server, Expect="100-continue").partition(b"\r\n\r\n")
    connection.send(head + separator)
    assert connection.received() == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.send(body)
    release(waiting)
    assert [reply.status for reply in connection.replies()] == [100, 201]


def test_a_body_may_come_in_chunks(server: Server, waiting: Waiting) -> None:
    body = f'{{"user_id":"{server.user_id}","amount":1}}'.encode()
    connection = server.connect()
    connection.send(server.request("POST", "/credit", None, {"Transfer-Encoding": "chunked"}))
    connection.send(b"5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (body[:5], len(body) - 5, body[5:]))
    release(waiting)
    (reply,) = connection.replies()
    assert reply.status == 201


def test_a_client_that_hangs_up_does_not_stop_its_operation(server: Server, waiting: Waiting) -> None:
    connection = server.connect()
    connection.send(credit(server, Idempotency_Key="k"))
    connection.hang_up()
    assert server.site.exchange.live == 1
    release(waiting)
    assert server.site.exchange.live == 0
    assert connection.received() == b""
    assert server.site.exchange.counts.requests["POST /credit", 201] == 1
    again = server.connect()
    again.send(credit(server, Idempotency_Key="k"))
    release(waiting)
    (reply,) = again.replies()
    assert reply.header("Idempotent-Replayed") == "true"
    assert reply.data["balance"] == "1.00"


def test_a_client_that_hangs_up_before_its_request_is_complete_did_nothing(server: Server) -> None:
    connection = server.connect()
    connection.send(credit(server)[:-1])
    connection.hang_up()
    assert server.backend.submitted == []


NO_HTTP = (
    *(b"\0\0\0\0\r\n\r\n", b"GET / HTTP/2.0\r\n\r\n", b"GET  / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nx\r\n\r\n"),
    *(
        b"G\xe9T / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nA b: c\r\n\r\n",
        b"GET /" + b"x" * 20_000,
        b"\x16\x03\x01\r\n",
    ),
    b"POST /credit HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST /credit HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /credit HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /credit HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 600 + b"\r\n",
)


def test_what_is_not_http_is_told_so_and_the_connection_ends(server: Server) -> None:
    for data in NO_HTTP:
        connection = server.connect()
        connection.send(data)
        (reply,) = connection.replies()
        assert reply.refusal == (400, "invalid_request"), data[:40]
        assert reply.header("X-Content-Type-Options") == "nosniff"
        assert connection.transport.disconnecting
    assert server.backend.submitted == []


class TestWatch:
    """Connections on which nothing is asked are closed; those that wait for us are not."""

    def pass_time(self, server: Server, seconds: float) -> None:
        """Let the sweeps of that time happen."""
        server.clock.pump([SWEEP] * int(seconds / SWEEP))

    @pytest.fixture(autouse=True)
    def watch(self, server: Server) -> None:
        """Start the watch."""
        server.site.startFactory()

    @pytest.mark.parametrize(
        ("begun", "more"),
        [(b"", b""), (b"POST /cre", b"d"), (b"POST /credit HTTP/1.1\r\nContent-Length: 9\r\n\r\n{", b" ")],
    )
    def test_an_idle_connection(self, server: Server, begun: bytes, more: bytes) -> None:
        """Closed, even where a request was begun but goes on drop by drop, and cut where it does not close."""
        connection = server.connect()
        connection.send(begun)
        self.pass_time(server, IDLE)
        assert not connection.transport.disconnecting
        connection.send(more)
        self.pass_time(server, 2 * SWEEP)
        assert connection.transport.disconnecting
        self.pass_time(server, 2 * SWEEP)
        assert connection.transport.disconnected

    def test_a_connection_in_use(self, server: Server, waiting: Waiting) -> None:
        """Kept."""
        connection = server.connect()
        for _ in range(3):
            self.pass_time(server, IDLE - SWEEP)
            connection.send(credit(server))
            release(waiting)
        assert len(connection.replies()) == 3
        assert not connection.transport.disconnecting

    def test_a_connection_that_waits_for_us(self, server: Server, waiting: Waiting) -> None:
        """Kept, however long it takes."""
        connection = server.connect()
        connection.send(credit(server))
        self.pass_time(server, 3 * IDLE)
        assert not connection.transport.disconnecting
        release(waiting)
        assert len(connection.replies()) == 1

    def test_a_connection_that_a_websocket_took_over(self, server: Server) -> None:
        """Is not ours any more."""
        connection = server.connect()
        connection.channel.transport = None
        self.pass_time(server, 2 * IDLE)
        done = _drain(server)
        server.clock.pump([0.02] * 3)
        assert done == [True]
        assert not connection.transport.disconnecting

    def test_the_watch_ends_with_the_last_port(self, server: Server) -> None:
        """No timer is left."""
        server.site.stopFactory()
        assert server.clock.getDelayedCalls() == []


class TestDrain:
    """Stopping: what has begun is finished."""

    def test_an_idle_site_closes_at_once(self, server: Server) -> None:
        """Nothing to wait for."""
        connection = server.connect()
        done = _drain(server)
        assert connection.transport.disconnecting
        connection.hang_up()
        server.clock.pump([0.02] * 3)
        assert done == [True]

    def test_requests_are_finished(self, server: Server, waiting: Waiting) -> None:
        """Whether they wait for us, or have come in part; their answers are the connections' last."""
        busy, partial, idle = server.connect(), server.connect(), server.connect()
        busy.send(credit(server))
        request = credit(server)
        partial.send(request[:50])
        done = _drain(server)
        server.clock.pump([0.02] * 5)
        assert not any(c.transport.disconnecting for c in (busy, partial, idle))
        partial.send(request[50:])
        idle.send(server.request("GET", "/balance"))  # it was on its way
        release(waiting)
        for connection in (busy, partial, idle):
            (reply,) = connection.replies()
            assert reply.status in (200, 201)
            assert reply.header("Connection") == "close"
            assert connection.transport.disconnecting
            connection.hang_up()
        server.clock.pump([0.02] * 5)
        assert done == [True]

    def test_operations_of_clients_that_hung_up_are_waited_for(self, server: Server, waiting: Waiting) -> None:
        """They were begun too."""
        connection = server.connect()
        connection.send(credit(server))
        connection.hang_up()
        done = _drain(server)
        server.clock.pump([0.02] * 5)
        assert done == []
        release(waiting)
        server.clock.pump([0.02] * 5)
        assert done == [True]

    def test_there_is_a_deadline(self, server: Server, waiting: Waiting) -> None:
        """Then connections are cut."""
        connection = server.connect()
        connection.send(credit(server))
        done = _drain(server, seconds=1.0)
        server.clock.pump([0.1] * 12)
        assert done == [True]
        assert connection.transport.disconnected
        connection.hang_up()
        release(waiting)

    def test_a_site_can_be_opened_again(self, server: Server, waiting: Waiting) -> None:
        """Connections are kept again."""
        _drain(server)
        server.site.reopen()
        connection = server.connect()
        connection.send(credit(server))
        release(waiting)
        assert connection.replies()[0].header("Connection") is None


def _drain(server: Server, seconds: float = 5.0) -> list[bool]:
    done: list[bool] = []
    Deferred.fromCoroutine(server.site.drain(seconds)).addCallback(lambda _: done.append(True))
    return done


def test_a_content_type_is_not_parsed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(_line: bytes) -> bytes:
        raise AssertionError("this costs a third of a request's time")

    monkeypatch.setattr(http, "_parseContentType", parse)  # raises where Twisted has it no more
    server.backend.later = None
    connection = server.connect()
    connection.send(credit(server, Content_Type="application/x-www-form-urlencoded"))
    (reply,) = connection.replies()
    assert reply.status == 201


class TestPlainHeads:
    """What is read in one go means the same as when Twisted's parser reads it."""

    def test_an_ordinary_request_is_read_in_one_go(self) -> None:
        """Else the short way is not short."""
        server = Server()
        for request in (
            credit(server, Idempotency_Key="k", X_Correlation_ID="c", Connection="keep-alive"),
            credit(server).replace(b"Content-Type", b"content-type").replace(b"Host", b"host"),
        ):
            assert read_request(server.site.hot_lines, request) is not None

    def test_the_names_of_twisted_that_it_relies_on_exist(self) -> None:
        """They are private: this fails loudly where a new version of Twisted has others."""
        server = Server(MemoryBackend(later=lambda _fire: None))
        assert callable(http.HTTPChannel._respondToBadRequestAndDisconnect)
        assert callable(http.Request._cleanup)
        slow, fast = server.connect().channel, server.connect().channel
        slow.dataReceived(credit(server, X_Unknown="x")[:-1])
        assert slow._path == b"/credit"  # asked for the limit of the body
        slow.dataReceived(b"}")
        fast.dataReceived(credit(server))
        for name in ("line_mode", "persistent", "_handlingRequest", "_buffer", "_busyReceiving", "paused"):
            assert getattr(slow, name) == getattr(fast, name), name
        assert [len(channel.requests) for channel in (slow, fast)] == [1, 1]

    @settings(max_examples=100, deadline=None)
    @given(
        lines=st.lists(
            st.tuples(
                st.sampled_from(NAMES),
                st.sampled_from([": ", ":", " : ", ":  ", ""]),
                st.sampled_from(
                    [
                        "x",
                        "",
                        "keep-alive",
                        "close",
                        "Keep-Alive, close",
                        "2",
                        "3",
                        "+2",
                        "a b",
                        "x ",
                        "\t",
                        "100-continue",
                    ]
                )
                | st.text(st.characters(max_codepoint=255), max_size=4),
            ),
            max_size=5,
        ),
        with_length=st.booleans(),
        body=st.sampled_from([b"{}", b"", b"{}POST"]),
        end=st.sampled_from([b"\r\n\r\n", b"\n\n", b"\r\n"]),
    )
    def test_both_ways_answer_alike(
        self, lines: list[tuple[str, str, str]], with_length: bool, body: bytes, end: bytes
    ) -> None:
        """For any head."""
        head = ["POST /debit HTTP/1.1", *("".join(line) for line in lines)]
        if with_length:
            head.append(f"Content-Length: {len(body)}")
        data = "\r\n".join(head).encode("latin-1") + end + body
        answers = []
        for short in (True, False):
            server = Server()
            if not short:
                server.site.hot_lines = {}
            connection = server.connect()
            connection.send(data)
            answers.append((connection.received(), connection.transport.disconnecting))
        assert answers[0] == answers[1]

    def test_what_is_not_hot_is_left_to_twisted(self) -> None:
        """By method, path or version."""
        server = Server()
        lines = request_lines(hot_table(server.site.hot.values()))
        for line in (
            b"GET /credit HTTP/1.1",
            b"POST /users HTTP/1.1",
            b"POST /credit HTTP/1.0",
            b"POST /credit?x HTTP/1.1",
        ):
            assert read_request(lines, line + b"\r\nContent-Length: 0\r\n\r\n") is None

# mypy: disable-error-code="untyped-decorator"
"""The HTTP child on real sockets: listening, sharing ports, losing clients, draining."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from ledger.domain.errors import ConfigurationError
from ledger.resources.addresses import Addresses
from ledger.resources.exchange import Exchange
from ledger.resources.guards import Guards
from ledger.resources.routes import all_endpoints
from ledger.resources.site import LedgerSite
from ledger.services.deadline import Overrun
from ledger.services.http import Http, _lengthen_backlog
from tests.resources.backend import MemoryBackend

reactor: Any = _reactor
ANY_PORT = "tcp:0:interface=127.0.0.1"


def make(backend: MemoryBackend | None = None, *listen: str, **more: Any) -> tuple[Http, LedgerSite]:
    """Build a server over a backend in memory."""
    backend = backend or MemoryBackend()
    endpoints = all_endpoints(backend, reactor.seconds)
    guards = Guards(Addresses(()), None)
    site = LedgerSite(reactor, Exchange(backend, guards, reactor.seconds, os.urandom), endpoints, {})
    return Http(reactor, site, listen or (ANY_PORT,), **more), site


@asynccontextmanager
async def running(http: Http) -> AsyncIterator[Http]:
    """Start a server, and stop it whatever happens."""
    try:
        await http.start()
        yield http
    finally:
        await http.stop()


def port_of(http: Http, index: int = 0) -> int:
    """The port that a server listens on."""
    return int(http.addresses[index].rpartition(":")[2])


def talk(port: int, data: bytes, *, hang_up: bool = False) -> Deferred[bytes]:
    """Send bytes over a socket of their own, in a thread, and return all that comes until the server closes."""

    def conversation() -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(data)
            if hang_up:
                return b""
            received = b""
            while chunk := client.recv(65536):
                received += chunk
            return received

    return deferToThread(conversation)


def get(path: str = "/api/health/live", *more: str) -> bytes:
    """The bytes of a request that is its connection's last."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *more, "", ""]).encode()


def credit(backend: MemoryBackend, key: str, close: bool = True) -> bytes:
    """The bytes of a credit for a new user."""
    user_id = backend.new_id()
    _, token = backend.open_account(user_id)
    body = b'{"user_id":"%b","amount":"1"}' % user_id.encode()
    lines = ["POST /credit HTTP/1.1", "Host: x", f"Authorization: Bearer {token}", f"Idempotency-Key: {key}"]
    lines += [f"Content-Length: {len(body)}", *(["Connection: close"] if close else []), "", ""]
    return "\r\n".join(lines).encode() + body


async def until(condition: Callable[[], object]) -> None:
    """Wait for something to become true."""
    deadline = reactor.seconds() + 20
    while not condition():
        assert reactor.seconds() < deadline
        await deferLater(reactor, 0.005)


@pytest_twisted.ensureDeferred
async def test_it_listens_on_all_endpoints_and_says_where(tmp_path: Path) -> None:
    http, _ = make(None, ANY_PORT, "tcp6:0:interface=\\:\\:1", f"unix:{tmp_path / 'socket'}")
    assert http.addresses == []
    async with running(http):
        assert http.addresses[0] == f"http://127.0.0.1:{port_of(http)}"
        assert http.addresses[1] == f"http://[::1]:{port_of(http, 1)}"
        assert http.addresses[2] == f"unix:{tmp_path / 'socket'}"
        answer = await talk(port_of(http), get())
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert http.addresses == []
    assert not (tmp_path / "socket").exists()


@pytest_twisted.ensureDeferred
async def test_over_a_unix_socket_nobody_is_an_admin_without_a_token(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    http, _ = make(None, f"unix:{path}")

    def ask() -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(path)
            client.sendall(get("/api/health/detailed"))
            return client.recv(65536) + client.recv(65536)

    async with running(http):
        answer: bytes = await deferToThread(ask)
    assert b'"checks"' in answer
    assert b'"services"' not in answer


def write_certificate(path: Path) -> None:
    """Write a key and a certificate that it signed itself into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
    ).sign(key, hashes.SHA256())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(key.private_bytes(*form) + certificate.public_bytes(serialization.Encoding.PEM))


@pytest.mark.parametrize("reuse_port", [False, True])
@pytest_twisted.ensureDeferred
async def test_over_tls_clients_are_told_to_stay_with_it(tmp_path: Path, reuse_port: bool) -> None:
    pem = tmp_path / "server.pem"
    write_certificate(pem)
    backend = MemoryBackend()
    http, _ = make(backend, f"ssl:0:interface=127.0.0.1:privateKey={pem}", reuse_port=reuse_port)
    trusting = ssl.create_default_context(cafile=str(pem))
    trusting.set_alpn_protocols(["h2", "http/1.1"])

    def ask(port: int, data: bytes) -> bytes:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
            trusting.wrap_socket(plain, server_hostname="localhost") as client,
        ):
            client.sendall(data)
            received = b""
            while chunk := client.recv(65536):
                received += chunk
            return received

    async with running(http):
        assert http.addresses == [f"https://127.0.0.1:{port_of(http)}"]
        for data, status in ((credit(backend, "k"), b"201"), (get(), b"200"), (get("/nothing"), b"404")):
            answer: bytes = await deferToThread(ask, port_of(http), data)
            assert answer.startswith(b"HTTP/1.1 " + status)
            assert b"\r\nStrict-Transport-Security: max-age=" in answer


@pytest.mark.parametrize(
    "listen",
    [
        *(
            "",
            "tcp",
            "tcp:abc",
            "tcp:99999999",
            "nonsense:1",
            "tcp:0:interface=192.0.2.1",
            "tcp:0:interface=no such host",
        ),
        *("unix:/no/such/folder/socket", "ssl:0:privateKey=/no/such/file"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_cannot_be_listened_on_is_told_in_one_line(listen: str) -> None:
    http, _ = make(None, ANY_PORT, listen)
    with pytest.raises(ConfigurationError) as caught:
        await http.start()
    assert str(caught.value).startswith(f"--listen {listen}: ")
    assert "\n" not in str(caught.value)
    await http.stop()
    assert http.addresses == []


@pytest_twisted.ensureDeferred
async def test_a_port_that_is_taken_is_told_and_can_be_shared_if_wanted() -> None:
    taken, _ = make(None, reuse_port=True)
    async with running(taken):
        port = port_of(taken)
        alone, _ = make(None, f"tcp:{port}:interface=127.0.0.1")
        with pytest.raises(
            ConfigurationError, match=f"--listen tcp:{port}:interface=127.0.0.1: Address already in use"
        ):
            await alone.start()
        await alone.stop()
        beside, _ = make(None, f"tcp:{port}:interface=127.0.0.1", reuse_port=True)
        async with running(beside):
            answers = await gatherResults([talk(port, get()) for _ in range(4)])
            assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)


@pytest_twisted.ensureDeferred
async def test_it_can_be_started_again() -> None:
    http, site = make()
    for _ in range(2):
        async with running(http):
            assert not site.draining
            assert b"200 OK" in await talk(port_of(http), get())
        assert site.draining


@pytest_twisted.ensureDeferred
async def test_a_client_that_hangs_up_does_not_stop_its_operation() -> None:
    waiting: list[Callable[[], None]] = []
    backend = MemoryBackend(later=waiting.append)
    http, site = make(backend)
    async with running(http):
        request = credit(backend, "k")
        await talk(port_of(http), request, hang_up=True)
        await until(lambda: waiting and not site._channels)
        waiting.pop()()
        assert site.exchange.counts.requests["POST /credit", 201] == 1
        answer = talk(port_of(http), request)
        await until(lambda: waiting)
        waiting.pop()()
        assert b"Idempotent-Replayed: true" in await answer


@pytest_twisted.ensureDeferred
async def test_a_stop_finishes_what_was_begun_and_takes_no_more() -> None:
    waiting: list[Callable[[], None]] = []
    closed: list[bool] = []

    async def close() -> None:
        closed.append(True)

    backend = MemoryBackend(later=waiting.append)
    http, site = make(backend, close_sockets=close)
    await http.start()
    port = port_of(http)
    answers = [talk(port, credit(backend, f"k{number}", close=False)) for number in range(3)]
    idle = talk(port, b"")
    await until(lambda: len(waiting) == 3 and len(site._channels) == 4)
    stopped = Deferred.fromCoroutine(http.stop())
    await until(lambda: closed)
    with pytest.raises(OSError):
        await talk(port, get())
    assert not stopped.called
    for fire in waiting:
        fire()
    for answer in await gatherResults(answers):
        assert answer.startswith(b"HTTP/1.1 201 Created\r\n")
        assert b"\r\nConnection: close\r\n" in answer
    assert await idle == b""
    await stopped


@pytest_twisted.ensureDeferred
async def test_a_stop_has_a_deadline_and_survives_trouble_with_the_sockets(logged_errors: Any) -> None:
    waiting: list[Callable[[], None]] = []
    backend = MemoryBackend(later=waiting.append)

    async def trouble() -> None:
        raise RuntimeError("trouble")

    http, _ = make(backend, close_sockets=trouble, drain_seconds=0.2)
    assert http.stop_deadline > 0.2
    await http.start()
    answer = talk(port_of(http), credit(backend, "k"))
    await until(lambda: waiting)
    await http.stop()
    with pytest.raises(ConnectionResetError):
        await answer
    waiting.pop()()
    assert len(logged_errors(RuntimeError)) == 1


@pytest_twisted.ensureDeferred
async def test_sockets_that_do_not_close_take_nothing_from_the_requests_time(logged_errors: Any) -> None:
    waiting: list[Callable[[], None]] = []
    turns: list[str] = []
    never: Deferred[None] = Deferred()

    async def close() -> None:
        turns.append("close")
        await never

    backend = MemoryBackend(later=waiting.append)
    http, _ = make(backend, close_sockets=close, reopen_sockets=lambda: turns.append("reopen"), drain_seconds=0.5)
    await http.start()
    answer = talk(port_of(http), credit(backend, "k"))
    await until(lambda: waiting)
    began = reactor.seconds()
    stopped = Deferred.fromCoroutine(http.stop())
    await until(lambda: turns == ["reopen", "close"])
    waiting.pop()()
    assert (await answer).startswith(b"HTTP/1.1 201 ")
    assert not stopped.called
    await stopped
    assert reactor.seconds() - began < http.stop_deadline
    never.callback(None)
    assert len(logged_errors(Overrun)) == 1


@pytest_twisted.ensureDeferred
async def test_a_large_answer_and_a_large_request_pass() -> None:
    backend = MemoryBackend()
    http, _ = make(backend)
    async with running(http):
        body = b'{"x":"' + b"x" * 1_000_000 + b'"}'
        head = b"POST /users HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        assert b"missing_fields" in await talk(port_of(http), head + body)


@pytest_twisted.ensureDeferred
async def test_what_is_too_large_is_refused_without_a_reset() -> None:
    http, _ = make()
    async with running(http):
        body = b"x" * 1_500_000
        head = b"POST /users HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
        answer = await talk(port_of(http), head + body)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b'"payload_too_large"' in answer


class _FakeSocket:
    def __init__(self) -> None:
        self.backlogs: list[int] = []

    def listen(self, backlog: int) -> None:
        self.backlogs.append(backlog)


class _FakePort:
    def __init__(self) -> None:
        self.socket = _FakeSocket()


@pytest.mark.parametrize(("description", "backlogs"), [("tcp:0", [1_024]), ("tcp:0:backlog=7", [])])
def test_a_burst_of_clients_may_queue_unless_the_endpoint_says_how_many(description: str, backlogs: list[int]) -> None:
    port = _FakePort()
    _lengthen_backlog(port, description)
    assert port.socket.backlogs == backlogs

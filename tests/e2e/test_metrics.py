# mypy: disable-error-code="untyped-decorator"
"""The metrics of a real server: on its own port and on the machine itself, true after traffic that is known."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest_twisted
from twisted.internet.threads import deferToThread

from ledger.version import VERSION
from tests.e2e.books import Books
from tests.e2e.client import Clients, hang_up, websocket
from tests.e2e.server import Machine, Server, pause, until
from tests.e2e.test_silent_database import frozen
from tests.scraping import Scrape

ANY_PORT = "tcp:0:interface=127.0.0.1"
FAMILIES = {
    *("ledger_info", "ledger_reactor_lag_seconds", "ledger_service_state", "ledger_service_restarts"),
    *("ledger_http_requests", "ledger_http_request_duration_seconds", "ledger_http_requests_in_progress"),
    *("ledger_writer_batches_guessed", "ledger_writer_batches_mistaken"),
    *("ledger_writer_batch_commands", "ledger_writer_batch_duration_seconds", "ledger_writer_records"),
    *("ledger_writer_replies", "ledger_writer_replies_waiting", "ledger_writer_lanes", "ledger_writer_lane_commands"),
    *("ledger_writer_lane_commands_deepest", "ledger_writer_bundles", "ledger_writer_bundle_commands"),
    *("ledger_writer_turned_away", "ledger_writer_connection_losses", "ledger_writer_away"),
    *("ledger_pool_size", "ledger_pool_open", "ledger_pool_in_use", "ledger_pool_waiting"),
    *("ledger_journal_head", "ledger_feed_published", "ledger_feed_lag_records"),
    *("ledger_live_connections", "ledger_live_subscriptions"),
    *("ledger_jobs", "ledger_job_slots", "ledger_jobs_running", "ledger_jobs_run"),
    *("ledger_breaker_state", "ledger_breaker_failures"),
    *("process_resident_memory_bytes", "process_virtual_memory_bytes", "process_cpu_seconds", "process_open_fds"),
    *("process_max_fds", "process_start_time_seconds"),
    *("python_gc_collections", "python_gc_objects_collected", "python_gc_objects_uncollectable"),
}


def ports_of(server: Server) -> list[int]:
    """Where a server tells its metrics."""
    return [int(port) for port in re.findall(r"Metrics are told at http://127\.0\.0\.1:([0-9]+)/metrics", server.log)]


async def get(port: int, path: str = "/metrics", **headers: str) -> tuple[int, str, str]:
    """Status, type and text of an answer."""

    def ask() -> tuple[int, str, str]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            with urlopen(Request(f"http://127.0.0.1:{port}{path}", headers=names), timeout=30) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except HTTPError as refused:
            with refused:
                return refused.code, refused.headers["Content-Type"], refused.read().decode()

    told: tuple[int, str, str] = await deferToThread(ask)
    return told


async def scrape(port: int) -> Scrape:
    """What a scrape says."""
    status, kind, text = await get(port)
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8"), text
    found = Scrape(text)
    found.check_histograms()
    return found


@pytest_twisted.ensureDeferred
async def test_what_is_told_is_true(machine: Machine, books: Books, clients: Clients) -> None:
    server = await machine.serve("--database", books.url, "--pool-size", "7", "--queue", "banking=4").ready()
    api = clients(server)
    (customer,) = books.seed(1)
    head = books.head()
    for amount in ("1.00", "2.00", "3.00"):
        assert (await api.move("credit", customer, amount)).status == 201
    assert (await api.move("debit", customer, "99.00")).status == 422
    assert (await api.ask("GET", f"/api/accounts/{customer.account_id}", token=customer.token)).status == 200
    await until(lambda: books.rows("SELECT count(*) FROM jobs WHERE state = 'completed'") == [(2,)])
    socket_client = await websocket(server, customer.token)
    assert (await socket_client.subscribe(f"accounts:{customer.account_id}"))["type"] == "subscribed"
    found = await scrape(server.port)
    assert set(found.families) == FAMILIES
    assert found("ledger_info", version=VERSION) == 1
    credit = {"method": "POST", "route": "/credit"}
    assert found("ledger_http_requests_total", status="201", **credit) == 3
    assert found("ledger_http_requests_total", status="422", method="POST", route="/debit") == 1
    assert found("ledger_http_requests_total", status="200", route="/api/accounts/<id>") == 1
    assert found("ledger_http_request_duration_seconds_count", **credit) == 3
    assert found("ledger_writer_records_total") == 3
    assert found("ledger_writer_batch_commands_sum") >= found("ledger_writer_batch_commands_count") >= 4
    assert found("ledger_writer_batch_commands_sum") == found("ledger_writer_replies_total")
    assert found("ledger_journal_head") == found("ledger_feed_published") == books.head() == head + 3
    assert found("ledger_feed_lag_records") == 0
    assert found("ledger_pool_size") == 7
    assert 1 <= found("ledger_pool_open") <= 7
    assert found("ledger_jobs", queue="default", state="completed") == 2
    assert found("ledger_jobs_run_total", queue="default") == 2
    assert found("ledger_job_slots", queue="banking") == 4
    assert found("ledger_live_connections", kind="websocket") == 1
    assert found("ledger_live_connections", kind="sse") == 0
    assert found("ledger_live_subscriptions") == 2  # the client's, and the balance watcher's
    assert set(found.values("ledger_service_state", state="running")) == {1.0}
    assert {told["service"] for told in found.labels("ledger_service_state")} >= {"writer", "reactor lag", "http"}
    assert set(found.values("ledger_service_restarts_total")) == {0}
    assert found("process_open_fds") > 10
    await hang_up(socket_client)
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_a_port_of_their_own(machine: Machine, books: Books) -> None:
    where = ("--metrics-listen", ANY_PORT, "--metrics-listen", ANY_PORT)
    server = await machine.serve("--database", books.url, *where, "--trusted-proxy", "127.0.0.1").ready()
    await until(lambda: len(ports_of(server)) == 2)
    for port in ports_of(server):
        found = await scrape(port)
        assert found("ledger_service_state", service="metrics", state="running") == 1
        assert (await get(port, "/api/health/live"))[0] == 200
        assert (await get(port, X_Forwarded_For="203.0.113.9"))[0] == 200
        for path in ("/", "/api/health", "/balance", "/api/openapi.json", "/docs", "/ws"):
            assert (await get(port, path))[0] == 404
    assert (await get(server.port, X_Forwarded_For="203.0.113.9"))[0] == 403
    assert (await get(server.port))[0] == 200
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_it_tells_how_the_start_goes_while_the_database_is_silent(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        where = ("--metrics-listen", f"tcp:{port}:interface=127.0.0.1")
        server = machine.serve("--database", f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d", *where)
        await until(lambda: answers(port) or server.process.poll() is not None, complaint=server.tail)
        found = await scrape(port)
        assert found("ledger_service_state", service="database", state="starting") == 1
        assert found("ledger_service_state", service="http", state="stopped") == 1
        assert FAMILIES - set(found.families) == {
            *("ledger_jobs", "ledger_journal_head", "ledger_feed_published", "ledger_feed_lag_records"),
        }
        assert (await get(port, "/api/health/live"))[0] == 200
        await server.stop()


@pytest_twisted.ensureDeferred
async def test_a_database_that_falls_silent_keeps_no_scrape_waiting(machine: Machine) -> None:
    data_dir = machine.new_data_dir()
    server = await machine.serve("--data-dir", str(data_dir)).ready()
    with frozen(data_dir):
        found = await scrape(server.port)
    assert FAMILIES - set(found.families) == {"ledger_jobs"}
    assert set(await told_jobs(server.port)) == {"banking", "payments", "notifications", "holds", "default"}
    await server.stop()


async def told_jobs(port: int) -> list[str]:
    """The queues whose jobs are counted, once they are."""
    while True:
        found = await scrape(port)
        if "ledger_jobs" in found.families:
            return [labels["queue"] for labels in found.labels("ledger_jobs")]
        await pause(0.05)


def answers(port: int) -> bool:
    """Whether anybody listens there."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@pytest_twisted.ensureDeferred
async def test_a_port_that_is_taken_ends_the_start(machine: Machine, books: Books) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = f"tcp:{holder.getsockname()[1]}:interface=127.0.0.1"
        server = machine.serve("--database", books.url, "--metrics-listen", taken)
        assert await server.ended() == 1
    assert f"--metrics-listen {taken}: " in server.log
    nonsense = machine.twistd("ledger", "--metrics-listen", "nonsense:1")
    assert await nonsense.ended() == 1
    assert "--metrics-listen: 'nonsense:1' is not a Twisted endpoint string" in nonsense.log

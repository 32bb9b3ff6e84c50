"""Statements over HTTP: whole or visibly cut off, no faster than the client reads, as JSON and as CSV."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from ledger.domain.accounts import world_id
from ledger.domain.errors import Refused, unavailable
from ledger.resources.sending import STALLED
from ledger.store.statements import Line
from tests.cleanliness import LoggedErrors
from tests.resources.harness import Server
from tests.resources.streams import BEFORE, SINCE, MemoryHistories, MemoryStatement, begin, line, path_of, whole


def serve(server: Server, *slices: Any) -> MemoryStatement:
    """Have the server give out a statement."""
    statement = MemoryStatement(slices)
    server.backend.histories = MemoryHistories(statement)
    return statement


def test_a_statement_is_one_envelope_in_chunks(server: Server) -> None:
    serve(server, [line(1), line(2, 'a "b"')], [line(3)])
    connection = begin(server, headers={"X-Correlation-ID": 'c"1'})
    reply, rest = whole(connection.received())
    assert rest == b""
    assert reply.status == 200
    assert reply.header("Content-Type") == "application/json"
    assert reply.header("Content-Length") is None
    assert reply.header("X-Content-Type-Options") == "nosniff"
    assert reply.header("X-Correlation-ID") == reply.json["correlation_id"] == 'c"1'
    assert set(reply.json) == {"data", "success", "timestamp", "correlation_id"}
    data = reply.data
    lines = data.pop("lines")
    assert data == {
        "account_id": server.account.account_id,
        "currency": "USD",
        "from": SINCE,
        "to": BEFORE,
        "opening_balance": "0.00",
        "closing_balance": "3.00",
    }
    assert [one["balance"] for one in lines] == ["1.00", "2.00", "3.00"]
    assert lines[1] == {name: getattr(line(2, 'a "b"'), name) for name in Line.__struct_fields__}


def test_a_statement_without_lines(server: Server) -> None:
    serve(server)
    reply, _ = whole(begin(server).received())
    assert reply.data["lines"] == []


def test_the_time_that_is_asked_for(server: Server) -> None:
    serve(server)
    begin(server, "?from=2026-01-01T01:00:00%2B01:00&to=2026-02-01T00:00:00Z")
    begin(server)
    since, before = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
    account_id = server.account.account_id
    assert server.backend.histories.asked == [(account_id, since, before), (account_id, None, None)]


def test_csv_has_a_header_and_no_formulas(server: Server) -> None:
    texts = ["=1+1", "+1", "-1", "@A1", "\t=1", 'a "b",\r\n=c', "", "'", "a=1", None]
    serve(server, [line(number, text) for number, text in enumerate(texts)])
    reply, _ = whole(begin(server, "?format=csv").received())
    assert reply.header("Content-Type") == "text/csv; charset=utf-8"
    account_id = server.account.account_id
    assert reply.header("Content-Disposition") == f'attachment; filename="statement-{account_id}.csv"'
    head, *rows = csv.reader(StringIO(reply.body.decode(), newline=""))
    assert head == [
        *("transaction_id", "transfer_id", "kind", "type", "amount", "balance", "description"),
        *("effective_at", "posted_at"),
    ]
    assert [row[6] for row in rows] == [
        *("'=1+1", "'+1", "'-1", "'@A1", "'\t=1", 'a "b",\r\n=c', "", "'", "a=1", ""),
    ]
    assert rows[2][4:6] == ["1.00", "2.00"]


def test_csv_of_nothing_is_a_header(server: Server) -> None:
    serve(server)
    reply, _ = whole(begin(server, "?format=csv").received())
    assert reply.body.count(b"\r\n") == 1


def test_a_balance_below_zero_stays_a_number(server: Server) -> None:
    serve(server, [Line("t", "r", "charge", "debit", "5.00", "-5.00", None, SINCE, SINCE)])
    reply, _ = whole(begin(server, "?format=csv").received())
    assert b",5.00,-5.00,," in reply.body


@pytest.mark.parametrize("query", ["", "?format=csv"])
def test_head_reads_nothing(server: Server, query: str) -> None:
    statement = serve(server, [line(1)])
    connection = server.connect()
    connection.send(server.request("HEAD", path_of(server, query)))
    (reply,) = connection.replies(head_only=True)
    assert (reply.status, reply.body, statement.reads) == (200, b"", 0)
    assert reply.header("Content-Type") == ("text/csv; charset=utf-8" if query else "application/json")
    connection.transport.clear()
    connection.send(server.request("GET", "/balance"))  # the connection goes on
    assert [reply.status for reply in connection.replies()] == [200]


def test_further_requests_of_the_connection_wait(server: Server) -> None:
    slow: Deferred[list[Line]] = Deferred()
    serve(server, [line(1)], slow, [line(3)])
    connection = begin(server)
    connection.send(server.request("GET", "/balance"))
    assert b'"available"' not in connection.received()
    slow.callback([line(2)])
    reply, rest = whole(connection.received())
    assert len(reply.data["lines"]) == 3
    assert b'"available"' in rest


def test_what_is_not_read_is_not_made(server: Server) -> None:
    slices: list[Deferred[list[Line]]] = [Deferred() for _ in range(4)]
    statement = serve(server, *slices)
    connection = begin(server)
    assert statement.reads == 1
    connection.channel.pauseProducing()  # the transport is full
    slices[0].callback([line(1)])
    assert statement.reads == 1
    connection.channel.resumeProducing()
    assert statement.reads == 2
    connection.channel.pauseProducing()
    connection.channel.resumeProducing()
    assert statement.reads == 2
    for one in slices[1:]:
        one.callback([line(2)])
    reply, _ = whole(connection.received())
    assert len(reply.data["lines"]) == 4
    assert server.clock.getDelayedCalls() == []


@pytest.mark.parametrize("is_full", [False, True])
def test_a_client_that_hangs_up_ends_the_reading(server: Server, is_full: bool) -> None:
    slow: Deferred[list[Line]] = Deferred()
    statement = serve(server, [line(1)], slow, [line(3)])
    connection = begin(server)
    assert statement.reads == 2
    if is_full:
        connection.channel.pauseProducing()
        slow.callback([line(2)])
    connection.hang_up()
    if not is_full:
        slow.callback([line(2)])
    assert statement.reads == 2
    assert server.clock.getDelayedCalls() == []


def test_a_client_that_reads_nothing_is_cut_off(server: Server) -> None:
    slow: Deferred[list[Line]] = Deferred()
    statement = serve(server, slow, [line(2)])
    connection = begin(server)
    connection.channel.pauseProducing()
    slow.callback([line(1)])
    server.clock.advance(STALLED - 1)
    connection.channel.resumeProducing()
    assert statement.reads == 3
    slow = Deferred()
    serve(server, slow)
    connection = begin(server)
    connection.channel.pauseProducing()
    server.clock.advance(STALLED)
    assert connection.transport.disconnected
    connection.hang_up()
    slow.callback([])
    assert b"\r\n0\r\n" not in connection.received()


def test_a_database_that_dies_midway_cuts_the_connection(server: Server) -> None:
    for query in ("", "?format=csv"):
        serve(server, [line(1)], unavailable())
        connection = begin(server, query)
        assert connection.transport.disconnected
        with pytest.raises(AssertionError, match="the last chunk is missing"):
            whole(connection.received())
        connection.hang_up()


def test_whatever_breaks_midway_cuts_the_connection_and_is_logged(server: Server, logged_errors: LoggedErrors) -> None:
    serve(server, [line(1)], RuntimeError("it does not add up"))
    connection = begin(server)
    assert connection.transport.disconnected
    with pytest.raises(AssertionError, match="the last chunk is missing"):
        whole(connection.received())
    connection.hang_up()
    assert len(logged_errors(RuntimeError)) == 1


def test_what_is_refused_is_refused_in_full(server: Server) -> None:
    somebodys, _ = server.backend.open_account(server.backend.new_id())
    cases: list[tuple[str, tuple[int, str]]] = [
        (path_of(server, "?from=yesterday"), (400, "invalid_datetime_format")),
        (path_of(server, "?format=pdf"), (400, "invalid_request")),
        ("/api/accounts/1/statement", (400, "invalid_uuid_format")),
        (f"/api/accounts/{server.backend.new_id()}/statement", (404, "account_not_found")),
        (f"/api/accounts/{world_id('USD/2')}/statement", (404, "account_not_found")),
        (f"/api/accounts/{somebodys.account_id}/statement", (403, "unauthorized_access")),
    ]
    statement = serve(server)
    for path, refusal in cases:
        assert server.ask("GET", path).refusal == refusal, path
    assert statement.reads == 0
    assert server.ask("GET", path_of(server), token=None).refusal == (401, "invalid_token")
    for refused, refusal in (
        (unavailable(), (503, "service_unavailable")),
        (Refused("invalid_datetime_format", field="from"), (400, "invalid_datetime_format")),
    ):
        server.backend.histories = MemoryHistories(refused)
        assert server.ask("GET", path_of(server)).refusal == refusal


def test_admins_and_support_read_any_account_and_admins_the_world(server: Server) -> None:
    serve(server)
    world = f"/api/accounts/{world_id('USD/2')}/statement"
    for token, path, status in (
        (server.backend.admin_token, world, 200),
        (server.backend.log_in("support"), world, 404),
        (server.backend.log_in("support"), path_of(server), 200),
        (server.backend.log_in("user", server.user_id), path_of(server), 200),
    ):
        connection = server.connect()
        connection.send(server.request("GET", path, token=token))
        assert b" %d " % status in connection.received()[:20], path

"""One connection: its settings, the time it has to connect, and what counts as passing."""

from __future__ import annotations

import os
import socket
from random import Random

import pytest
from twisted.internet.defer import Deferred

from ledger.store.literals import Literal
from ledger.store.postgres import ConnectionLost, Session, StatementFailed
from tests.postgres.house import on_reactor, reactor, until


def silent_url(silent: socket.socket) -> str:
    """A database that takes connections and says nothing."""
    return f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d"


@on_reactor
async def test_a_silent_server_is_given_up_in_five_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = reactor.seconds()
        session = Session(reactor, deadline=60.0)
        with pytest.raises(ConnectionLost):
            await session.open(silent_url(silent))
        assert 4.5 < reactor.seconds() - began < 20
        hasty = Session(reactor, deadline=0.1)
        with pytest.raises(ConnectionLost):
            await hasty.open(silent_url(silent))
        assert not hasty.is_open


@on_reactor
async def test_who_connects_in_vain_can_be_cancelled() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        session = Session(reactor)
        opening = Deferred.fromCoroutine(session.open(silent_url(silent)))
        opening.cancel()
        with pytest.raises(ConnectionLost):
            await opening
        assert not session.is_open


@on_reactor
async def test_a_statement_that_is_cancelled_closes_its_connection(database_url: str) -> None:
    session = Session(reactor)
    await session.open(database_url)
    running = Deferred.fromCoroutine(session.run("SELECT pg_sleep(60)"))
    running.cancel()
    with pytest.raises(ConnectionLost):
        await running
    assert not session.is_open


@on_reactor
async def test_the_urls_settings_hold_unless_ours_say_otherwise(database_url: str) -> None:
    more = "&" if "?" in database_url else "?"
    session = Session(reactor)
    await session.open(
        f"{database_url}{more}options=-c%20work_mem%3D7MB%20-c%20statement_timeout%3D1", statement_timeout=10_000
    )
    for name, value in (("work_mem", "7MB"), ("statement_timeout", "10s"), ("application_name", "ledger")):
        assert await session.run("SELECT current_setting(%s)", (name,)) == [(value,)]
    session.close()


@on_reactor
async def test_how_a_dead_network_is_noticed_may_be_said_in_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def connect(_: object, **settings: object) -> Deferred[None]:
        asked.append(settings)
        return Deferred(lambda answer: answer.callback(None))

    monkeypatch.setattr("ledger.store.postgres._Connection.connect", connect)
    for query in ("", "?keepalives_idle=60&tcp_user_timeout=1"):
        Deferred.fromCoroutine(Session(reactor).open(f"postgresql://u@h/d{query}")).cancel()
    await until(lambda: len(asked) == 2)
    assert [(str(one["keepalives_idle"]), str(one["tcp_user_timeout"])) for one in asked] == [
        ("5", "10000"),
        ("60", "1"),
    ]
    assert asked[0]["dbname"] == "d"


@on_reactor
async def test_a_database_that_can_only_be_read_is_a_passing_trouble(database_url: str) -> None:
    session = Session(reactor)
    await session.open(database_url, default_transaction_read_only="on")
    with pytest.raises(StatementFailed) as failed:
        await session.run("CREATE TABLE notes (n int)")
    assert (failed.value.sqlstate, failed.value.is_passing) == ("25006", True)
    session.close()


@on_reactor
async def test_texts_come_through_as_they_are_whatever_the_url_says(database_url: str) -> None:
    more = "&" if "?" in database_url else "?"
    session = Session(reactor)
    await session.open(f"{database_url}{more}client_encoding=LATIN1&options=-c%20standard_conforming_strings%3Doff")
    chance = Random(1)
    texts = ["".join(chance.choices("'\\\"%$nx0\n\tüЖ🂡'--/*", k=length)) for length in range(200)]
    texts += ["'); DROP TABLE journal; --", "\\'", "\\", "''", "%(name)s"]
    named = {f"text{number}": text for number, text in enumerate(texts)}
    columns = ", ".join(f"%({name})s::text" for name in named)
    assert await session.run(session.render(f"SELECT {columns}", named)) == [tuple(texts)]
    as_bytes = {name: text.encode() for name, text in named.items()}
    assert session.render(f"SELECT {columns}", as_bytes) == session.render(f"SELECT {columns}", named)
    session.close()


@pytest.mark.parametrize("text", ["\0", "a\0b", "\ud800", b"\0"])
def test_what_postgres_cannot_hold_is_not_sent(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"NUL|surrogates"):
        Literal(text)


@on_reactor
async def test_a_session_takes_much_at_once_if_it_is_told_to(database_url: str) -> None:
    session = Session(reactor)
    await session.open(database_url)
    with socket.socket(fileno=os.dup(session._connection.fileno())) as same:
        usual = same.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        session.take_at_once(usual // 4)  # the kernel doubles it
        assert same.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == usual // 4 * 2
        session.take_at_once(2**30)  # more than it grants
        assert same.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= usual
    assert await session.run(session.render("SELECT length(%(text)s)", {"text": "x" * 5_000_000})) == [(5_000_000,)]
    session.close()

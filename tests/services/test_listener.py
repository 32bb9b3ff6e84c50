"""The LISTEN connection: hears what is told, notices when it cannot, and comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any

import psycopg2
import pytest
from twisted.internet.defer import Deferred, ensureDeferred, fail

from ledger.domain.errors import ConfigurationError
from ledger.services import listener as listener_module
from ledger.services.listener import Listener
from ledger.store.postgres import ConnectionLost, Session
from tests.cleanliness import LoggedErrors
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import on_reactor, pause, reactor, until


class Notes:
    """An ear, and what it heard."""

    def __init__(self, url: str) -> None:
        self.listener = Listener(url, reactor)
        self.hearing: list[bool] = []
        self.heard: list[str] = []
        self.failures = 0
        self.listener.on("news", self.heard.append)
        self.listener.tell(self)

    def connected(self) -> Deferred[None] | None:
        """Note it, or fail."""
        self.hearing.append(True)
        if not self.failures:
            return None
        self.failures -= 1
        return fail(ConnectionLost("no server"))

    def disconnected(self) -> None:
        """Note it."""
        self.hearing.append(False)

    def kill(self, server: DatabaseServer) -> None:
        """Terminate the backend that listens."""
        session: Any = self.listener._session
        server.execute("SELECT pg_terminate_backend(%s)", session._connection.info.backend_pid)


def counts(things: Sequence[object], many: int) -> bool:
    """Whether there are so many."""
    return len(things) == many


def notify(url: str, payload: str, channel: str = "news") -> None:
    """Tell something, as another process would."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, %s)", (channel, payload))


@on_reactor
async def test_it_hears_what_others_tell(database_url: str) -> None:
    notes = Notes(database_url)
    assert not notes.listener.is_listening
    await notes.listener.start()
    assert notes.listener.is_listening
    for number in range(50):
        notify(database_url, str(number))
    await until(lambda: len(notes.heard) == 50)
    assert notes.heard == [str(number) for number in range(50)]
    assert notes.hearing == [True]
    notes.listener.stop()
    assert notes.hearing == [True, False]
    assert not notes.listener.is_listening


@on_reactor
async def test_it_comes_back_and_says_so(database_url: str, database_server: DatabaseServer) -> None:
    notes = Notes(database_url)
    await notes.listener.start()
    for times in (1, 2, 3):
        notes.kill(database_server)
        await until(partial(counts, notes.hearing, 1 + 2 * times))
        notify(database_url, str(times))
        await until(partial(counts, notes.heard, times))
    assert notes.hearing == [True] + [False, True] * 3
    assert notes.heard == ["1", "2", "3"]
    notes.listener.stop()


@on_reactor
async def test_an_ear_that_fails_is_told_again_while_it_lasts(database_url: str) -> None:
    notes = Notes(database_url)
    notes.failures = 3
    await notes.listener.start()
    await until(partial(counts, notes.hearing, 4))
    notes.listener.stop()
    assert notes.hearing == [True] * 4 + [False]
    notes.failures = 9
    await notes.listener.start()
    notes.listener.stop()
    notify(database_url, "nobody hears")
    await pause(0.2)
    assert notes.hearing[5:] == [True, False]


@on_reactor
async def test_it_goes_on_trying(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "_LAST_RETRY", 0.05)
    notes = Notes(database_url)
    await notes.listener.start()
    open_session, tries = Session.open, list[int]()

    async def fails(session: Session, url: str, **settings: Any) -> None:
        tries.append(1)
        if len(tries) < 5:
            raise ConnectionLost("no server")
        await open_session(session, url, **settings)

    monkeypatch.setattr(Session, "open", fails)
    notes.kill(database_server)
    await until(lambda: notes.hearing == [True, False, True])
    assert len(tries) == 5
    notes.listener.stop()


@on_reactor
async def test_a_stop_ends_the_trying(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Notes(database_url)
    await notes.listener.start()

    async def fails(*_: object, **__: object) -> None:
        raise ConnectionLost("no server")

    monkeypatch.setattr(Session, "open", fails)
    notes.kill(database_server)
    await until(lambda: notes.hearing == [True, False])
    notes.listener.stop()
    monkeypatch.undo()
    await pause(0.2)
    assert notes.hearing == [True, False]


@on_reactor
async def test_a_stop_while_it_connects_leaves_nothing_open(database_url: str, database_server: DatabaseServer) -> None:
    notes = Notes(database_url)
    started = ensureDeferred(notes.listener.start())
    notes.listener.stop()
    with pytest.raises(ConnectionLost):
        await started
    assert notes.hearing == []
    name = database_url.split("@/")[1].split("?")[0]
    await until(
        lambda: database_server.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", name) == [(0,)]
    )


@on_reactor
async def test_a_first_start_fails_where_there_is_no_server(database_url: str) -> None:
    notes = Notes(database_url.replace("test_", "no_"))
    with pytest.raises(ConnectionLost):
        await notes.listener.start()
    notes.listener.stop()
    assert notes.hearing == []


@on_reactor
async def test_what_cannot_listen_is_told_plainly(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection pooler in between swallows notifications."""
    monkeypatch.setattr(listener_module, "_PROBE_WITHIN", 0.2)
    run = Session.run

    async def deaf(session: Session, sql: str, parameters: Any = ()) -> Any:
        return await run(session, "SELECT 1" if sql.startswith("LISTEN") else sql, parameters)

    monkeypatch.setattr(Session, "run", deaf)
    notes = Notes(database_url)
    with pytest.raises(ConfigurationError, match="LISTEN"):
        await notes.listener.start()
    notes.listener.stop()
    assert notes.hearing == []


@on_reactor
async def test_the_pulse_finds_a_connection_that_has_gone_silent(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "_PULSE", 0.05)
    notes = Notes(database_url)
    await notes.listener.start()
    session: Any = notes.listener._session
    await pause(0.2)
    assert notes.hearing == [True]  # a pulse harms nobody

    async def silent(*_: object) -> None:
        raise ConnectionLost("no answer in time")

    monkeypatch.setattr(session, "run", silent)
    await until(lambda: notes.hearing == [True, False, True])
    assert not session.is_open
    notify(database_url, "again")
    await until(lambda: notes.heard == ["again"])
    notes.listener.stop()


@on_reactor
async def test_what_was_heard_last_counts_for_a_moment(database_url: str) -> None:
    """The backend stops without a word: it is a second until nothing is known to be so any more."""
    notes = Notes(database_url)
    assert not notes.listener.is_current()
    await notes.listener.start()
    session: Any = notes.listener._session
    backend = session._connection.info.backend_pid
    os.kill(backend, signal.SIGSTOP)
    try:
        notify(database_url, "unheard")
        await until(lambda: not notes.listener.is_current(), 3.0)
        assert (notes.heard, notes.hearing) == ([], [True])
    finally:
        os.kill(backend, signal.SIGCONT)
    await until(notes.listener.is_current)
    assert (notes.heard, notes.hearing) == (["unheard"], [True])
    notes.listener.stop()


@on_reactor
async def test_whoever_chokes_on_what_is_heard_harms_nobody(database_url: str, logged_errors: LoggedErrors) -> None:
    notes = Notes(database_url)
    notes.listener.on("numbers", lambda payload: notes.heard.append(str(int(payload))))
    await notes.listener.start()
    notify(database_url, "no number", "numbers")
    notify(database_url, "7", "numbers")
    await until(lambda: notes.heard == ["7"])
    assert len(logged_errors(ValueError)) == 1
    notes.listener.stop()

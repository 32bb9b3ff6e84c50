# mypy: disable-error-code="untyped-decorator"
"""The check that every test is under notices what tests leave behind."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python import log

from tests import cleanliness
from tests.cleanliness import LoggedErrors, ReactorWatch, describe, discard

reactor: Any = _reactor


def test_a_lost_failure_is_an_error(logged_errors: LoggedErrors) -> None:
    fail(ValueError("lost"))
    (event,) = logged_errors(ValueError)
    assert "lost" in describe(event)
    assert logged_errors() == []


def test_only_the_expected_types_are_taken(logged_errors: LoggedErrors) -> None:
    fail(ValueError("one"))
    fail(KeyError("other"))
    assert len(logged_errors(ValueError)) == 1
    assert len(logged_errors(KeyError)) == 1


def test_both_ways_of_logging_are_seen(logged_errors: LoggedErrors) -> None:
    Logger().critical("of the new kind")
    log.err(ValueError("of the old kind"))  # type: ignore[no-untyped-call]
    Logger().error("not critical")
    assert len(logged_errors()) == 2


@pytest_twisted.ensureDeferred
async def test_what_ends_by_itself_is_waited_for() -> None:
    done: Deferred[None] = Deferred()
    reactor.callLater(0, done.callback, None)
    reactor.callLater(0.05, lambda: None)
    await done


def test_a_delayed_call_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleanliness, "PATIENCE", 0.0)
    watch = ReactorWatch()
    call = reactor.callLater(60, lambda: None)
    assert watch.leftovers() == [call]
    discard(call)
    assert watch.leftovers() == []


def test_an_open_port_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleanliness, "PATIENCE", 0.0)
    watch = ReactorWatch()
    port = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
    assert watch.leftovers() == [port]
    discard(port)
    assert port not in watch.leftovers()  # it closes in the reactor's next turn

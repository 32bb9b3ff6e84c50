"""Counting connections: who comes while the others are being closed is refused until the server opens again."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ledger.domain.errors import Refused
from ledger.pubsub.sockets import Sockets


class Line:
    """A connection that is gone when it is told to close."""

    def __init__(self, sockets: Sockets) -> None:
        self._sockets = sockets

    def close(self, code: int, reason: str) -> None:  # noqa: ARG002
        self._sockets.remove(self)

    def abort(self) -> None:
        self._sockets.remove(self)


def test_nobody_comes_in_between_the_close_and_the_next_start() -> None:
    sockets = Sockets(Clock())
    sockets.add(Line(sockets), known=True)
    closed = Deferred.fromCoroutine(sockets.close_all())
    assert closed.called
    for enter in (sockets.admit, lambda: sockets.add(Line(sockets), known=True)):
        with pytest.raises(Refused, match="not available"):
            enter()
    assert len(sockets) == 0
    sockets.reopen()
    sockets.admit()
    sockets.add(Line(sockets), known=True)
    assert len(sockets) == 1


def test_those_who_were_admitted_together_do_not_all_fit_in_the_last_place() -> None:
    sockets = Sockets(Clock(), most=1)
    sockets.admit()
    sockets.admit()
    sockets.add(Line(sockets), known=True)
    with pytest.raises(Refused):
        sockets.add(Line(sockets), known=True)
    assert len(sockets) == 1

"""Passwords: hashed on threads of their own, bounded in number and in time, and refused rather than left behind."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import bcrypt
import pytest
from twisted.internet.defer import Deferred

from ledger.domain.errors import Refused
from ledger.services.http import Http
from ledger.services.passwords import Passwords
from tests.postgres.house import on_reactor, outcome_of, reactor, until

COST = 0.25  # seconds that one takes


class Hold:
    """Holds every hash until told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on = threading.Event()
        self.begun: list[bytes] = []
        monkeypatch.setattr(bcrypt, "hashpw", self._hash)

    def _hash(self, password: bytes, _: bytes) -> bytes:
        self.begun.append(password)
        assert self.go_on.wait(20)
        return b"hashed " + password


def asked(passwords: Passwords, *words: str) -> list[Deferred[Any]]:
    """What becomes of these passwords."""
    return [Deferred.fromCoroutine(outcome_of(Deferred.fromCoroutine(passwords.hash(word)))) for word in words]


@on_reactor
async def test_a_hash_is_of_its_password() -> None:
    passwords = Passwords(reactor, rounds=4)
    await passwords.start()
    try:
        assert bcrypt.checkpw(b"correct horse", (await passwords.hash("correct horse")).encode())
    finally:
        await passwords.stop()
    with pytest.raises(Refused):
        await passwords.hash("correct horse")


@on_reactor
async def test_the_reactor_goes_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def priority(*_: bytes) -> bytes:
        return b"%d" % os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    monkeypatch.setattr(bcrypt, "hashpw", priority)
    own = int(priority())
    passwords = Passwords(reactor)
    await passwords.start()
    theirs = int(await passwords.hash("correct horse"))
    await passwords.stop()
    assert theirs > own if sys.platform == "linux" else theirs == own
    assert int(priority()) == own


@on_reactor
async def test_too_many_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hold = Hold(monkeypatch)
    passwords = Passwords(reactor, queue=2)
    await passwords.start()
    answers = asked(passwords, "a", "b", "c")
    assert (await answers[2]).reason == "service_unavailable"
    hold.go_on.set()
    assert [await answer for answer in answers[:2]] == ["hashed a", "hashed b"]
    await passwords.stop()


@on_reactor
async def test_who_waits_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hold = Hold(monkeypatch)
    passwords = Passwords(reactor, patience=0.2)
    await passwords.start()
    answers = asked(passwords, "a", "b")
    late = reactor.seconds() + 0.3
    await until(lambda: hold.begun and reactor.seconds() > late)
    hold.go_on.set()
    assert await answers[0] == "hashed a"
    assert (await answers[1]).reason == "service_unavailable"
    assert hold.begun == [b"a"]
    await passwords.stop()


@on_reactor
async def test_a_stop_finishes_one_and_refuses_those_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hold = Hold(monkeypatch)
    passwords = Passwords(reactor)
    await passwords.start()
    answers = asked(passwords, "a", "b", "c")
    await until(lambda: hold.begun)
    stopped = Deferred.fromCoroutine(passwords.stop())
    hold.go_on.set()
    assert await answers[0] == "hashed a"
    assert [(await answer).reason for answer in answers[1:]] == ["service_unavailable"] * 2
    await stopped
    assert hold.begun == [b"a"]


def test_whatever_waits_is_answered_within_the_drain() -> None:
    passwords = Passwords(reactor)
    http = Http(reactor, object(), ())  # type: ignore[arg-type]
    assert passwords._queue * COST <= passwords._patience
    assert passwords._patience + COST < http._drain_seconds

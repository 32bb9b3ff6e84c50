"""The log: which request a line belongs to, and that no secret is in it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ledger.domain.secret import Secret
from ledger.logs import json_line, observer, text_line
from ledger.services.correlation import correlation

SECRET = "hunter2-horse"
REQUEST = "0123456789abcdef"


class Book:
    """A log whose lines are kept."""

    def __init__(self, line: Callable[[Any], str]) -> None:
        self._out = io.StringIO()
        self.log = Logger(namespace="tests", observer=observer(self._out, line))

    @property
    def text(self) -> str:
        """All of it."""
        return self._out.getvalue()

    @property
    def line(self) -> str:
        """The only line, without its time."""
        (line,) = self.text.splitlines()
        return line.partition(" ")[2]

    @property
    def json(self) -> dict[str, Any]:
        """The only line, without its time."""
        (line,) = self.text.splitlines()
        told: dict[str, Any] = json.loads(line)
        assert told.pop("time").endswith("Z")
        return told


@pytest.fixture
def text() -> Book:
    return Book(text_line)


@pytest.fixture
def machine() -> Book:
    return Book(json_line)


@contextmanager
def request(name: str) -> Iterator[None]:
    """Work for a request."""
    mark = correlation.set(name)
    try:
        yield
    finally:
        correlation.reset(mark)


def test_a_line_of_a_request_carries_its_id(text: Book, machine: Book) -> None:
    with request(REQUEST):
        for book in (text, machine):
            book.log.info("{what} happened", what="It")
    assert text.line == f"info     It happened [{REQUEST}]"
    assert machine.json == {
        "level": "info",
        "logger": "tests",
        "message": "It happened",
        "what": "It",
        "correlation_id": REQUEST,
    }


def test_an_event_with_an_id_of_its_own_keeps_it(text: Book, machine: Book) -> None:
    with request(REQUEST):
        for book in (text, machine):
            book.log.info("It happened [{correlation_id}]", correlation_id="other")
    assert text.line == "info     It happened [other]"
    assert machine.json["correlation_id"] == "other"


def test_a_line_of_no_request_carries_none(text: Book, machine: Book) -> None:
    for book in (text, machine):
        book.log.info("It happened")
    assert text.line == "info     It happened"
    assert "correlation_id" not in machine.json


def test_the_id_stays_with_work_that_waits(text: Book) -> None:
    waiting: Deferred[None] = Deferred()

    async def work() -> None:
        await waiting
        text.log.info("It happened")

    with request(REQUEST):
        done = Deferred.fromCoroutine(work())
    with request("another"):
        waiting.callback(None)
    assert done.called
    assert text.line == f"info     It happened [{REQUEST}]"
    assert correlation.get() is None


def test_a_secret_shows_nothing(text: Book, machine: Book) -> None:
    for book in (text, machine):
        book.log.warn("{given} {given!r} {more}", given=Secret(SECRET), more=[Secret(SECRET)])
    assert text.line == "warn     *** *** [***]"
    assert machine.json["message"] == "*** *** [***]"
    assert SECRET not in machine.text


def test_what_looks_like_a_secret_is_masked(text: Book, machine: Book) -> None:
    for book in (text, machine):
        book.log.warn("GET /ws?token={what}&x=1 {header}", what=SECRET, header=f"Bearer {SECRET}", password=SECRET)
    assert text.line == "warn     GET /ws?token=***&x=1 Bearer ***"
    assert machine.json["message"] == "GET /ws?token=***&x=1 Bearer ***"
    assert machine.json["password"] == "***"
    assert machine.json["header"] == "Bearer ***"


def test_an_example_of_ours_is_shown(text: Book, machine: Book) -> None:
    for book in (text, machine):
        book.log.info("Try: {body}", body='{"password": "correct horse"}', is_example=True)
    assert text.line == 'info     Try: {"password": "correct horse"}'
    assert machine.json["body"] == '{"password": "correct horse"}'
    assert machine.json["message"] == 'Try: {"password": "correct horse"}'


def test_fields_are_masked_by_what_they_are_called(machine: Book) -> None:
    machine.log.info("Hello", new_password=SECRET, token=SECRET, name="Ada", tokens=3)
    told = machine.json
    assert (told["new_password"], told["token"], told["name"], told["tokens"]) == ("***", "***", "Ada", 3)


def test_tracebacks_are_masked(text: Book, machine: Book) -> None:
    for book in (text, machine):
        try:
            raise ValueError(f"postgresql://ledger:{SECRET}@db and password='{SECRET} {SECRET}'")
        except ValueError:
            book.log.failure("It failed")
    assert "postgresql://ledger:***@db and password='***'" in text.text
    assert "postgresql://ledger:***@db and password='***'" in machine.json["traceback"]
    assert SECRET not in text.text + machine.text


def test_nobody_can_forge_a_line(text: Book) -> None:
    with request(REQUEST):
        text.log.info("{said}", said="a\nb\r\nc")
    assert text.line == f"info     a\\nb\\r\\nc [{REQUEST}]"

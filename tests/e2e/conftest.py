# mypy: disable-error-code="untyped-decorator"
"""Fixtures for tests with real servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred

from tests.e2e.books import Books
from tests.e2e.client import Clients
from tests.e2e.server import Machine


@pytest.fixture
def machine() -> Iterator[Machine]:
    """Where servers run; nothing of them outlives the test, and their logs hold neither secrets nor surprises."""
    machine = Machine()
    try:
        yield machine
        machine.check_logs()
    finally:
        machine.clear()


@pytest.fixture
def books(database_url: str) -> Books:
    """An external database."""
    return Books(database_url)


@pytest.fixture
def clients(machine: Machine) -> Iterator[Clients]:  # noqa: ARG001
    """Makes HTTP clients of servers, and closes them before the servers go."""
    made = Clients()
    yield made
    pytest_twisted.blockon(ensureDeferred(made.close()))

# mypy: disable-error-code="untyped-decorator"
"""Fixtures for tests with real servers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred

from ledger.services.postgres_cluster import running_postgres
from ledger.store.migrations import apply_migrations
from tests.e2e.books import Books
from tests.e2e.client import Clients
from tests.e2e.server import Machine
from tests.postgres.cluster import temporary_data_dir


@pytest.fixture(scope="session")
def template() -> Iterator[Path]:
    """A data directory with an embedded PostgreSQL and the schema in it, to be copied: `initdb` takes a while."""
    data_dir = temporary_data_dir()
    with running_postgres(data_dir) as url:
        apply_migrations(url)
    yield data_dir
    shutil.rmtree(data_dir)


@pytest.fixture
def machine(template: Path) -> Iterator[Machine]:
    """Where servers run; nothing of them outlives the test, and their logs hold neither secrets nor surprises."""
    machine = Machine(template)
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

"""Fixtures for all tests: a real PostgreSQL for those that ask, and a check that nobody leaves anything behind."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.cleanliness import LoggedErrors, ReactorWatch, describe, discard, start_observing, stop_observing
from tests.postgres.cluster import DatabaseServer, running_server

SLOW = ("e2e", "postgres", "services")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the folders whose files take longest, mixed, so that no process ends long after the other.

    Two files of servers at once have too little of two processors; those of the database mostly wait.
    """
    files: dict[str, list[Path]] = {}
    for path in dict.fromkeys(item.path for item in items):
        files.setdefault(path.parent.name, []).append(path)
    places = {
        path: (folder not in SLOW, place / len(paths))
        for folder, paths in files.items()
        for place, path in enumerate(paths)
    }
    items.sort(key=lambda item: places[item.path])


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> None:
    """Take what exists by now out of the garbage collector's sight, so that collecting after a test is cheap."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def logged_errors(request: pytest.FixtureRequest) -> Iterator[LoggedErrors]:
    """`logged_errors()` returns and forgets the errors logged; a test that leaves any, or a busy reactor, fails."""
    watch = ReactorWatch()
    errors = start_observing()
    try:
        yield errors
        if isinstance(request.instance, SynchronousTestCase):
            errors.forget()  # it has `flushLoggedErrors`, and fails by itself
        left = watch.leftovers()
        complaints = [f"left in the reactor: {thing}" for thing in left]
        for thing in left:
            discard(thing)
        complaints += [f"logged: {describe(event)}" for event in errors()]
    finally:
        stop_observing(errors)
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


@pytest.fixture(scope="session")
def database_server() -> Iterator[DatabaseServer]:
    """The PostgreSQL of this run, with ways in for the superuser."""
    with running_server() as server:
        yield server


@pytest.fixture
def database_url(database_server: DatabaseServer) -> Iterator[str]:
    """The URL of a fresh database with the schema in it."""
    with database_server.database() as url:
        yield url


@pytest.fixture
def empty_database_url(database_server: DatabaseServer) -> Iterator[str]:
    """The URL of a fresh database without a schema."""
    with database_server.database(migrated=False) as url:
        yield url

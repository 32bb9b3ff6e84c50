"""Servers for the tests of the HTTP edge."""

from __future__ import annotations

import pytest

from tests.resources.backend import MemoryBackend
from tests.resources.harness import Server


@pytest.fixture(params=["plain", "klein"])
def adapter(request: pytest.FixtureRequest) -> str:
    """The adapter that the money endpoints are reached through."""
    return str(request.param)


@pytest.fixture(params=["plain", "plain, later", "klein"])
def server(request: pytest.FixtureRequest) -> Server:
    """A server for each adapter, with a backend that knows things at once, or that must be waited for."""
    adapter, _, slowly = request.param.partition(", ")
    return Server(MemoryBackend(slowly=bool(slowly)), plain=adapter == "plain")

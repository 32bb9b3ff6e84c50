"""Servers for the tests of the HTTP edge."""

from __future__ import annotations

import pytest

from tests.resources.backend import MemoryBackend
from tests.resources.harness import Server


@pytest.fixture(params=["plain", "klein"])
def adapter(request: pytest.FixtureRequest) -> str:
    """The adapter that the money endpoints are reached through."""
    return str(request.param)


@pytest.fixture(params=["at once", "later"])
def server(adapter: str, request: pytest.FixtureRequest) -> Server:
    """A server for each adapter, with a backend that knows things at once, or that must be waited for."""
    return Server(MemoryBackend(slowly=request.param == "later"), plain=adapter == "plain")

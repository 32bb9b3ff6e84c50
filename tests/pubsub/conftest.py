"""A real server for those tests that ask for it."""

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.pubsub.server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on loopback."""
    server = Server()
    yield server
    pytest_twisted.blockon(Deferred.fromCoroutine(server.stop()))

"""Fixtures for tests of the service tree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.logger import globalLogPublisher

from tests.cleanliness import LoggedErrors
from tests.services.fakes import Log


@pytest.fixture
def log(logged_errors: LoggedErrors) -> Iterator[Log]:
    """Everything that is logged during the test; errors that it did not expect fail it."""
    seen = Log()
    observer: Any = seen.events.append
    globalLogPublisher.addObserver(observer)
    yield seen
    globalLogPublisher.removeObserver(observer)
    assert seen.unexpected(logged_errors()) == []

"""How the failure of a child is told: in health answers and in the log."""

from __future__ import annotations

from twisted.logger import Logger
from twisted.python.failure import Failure

from ledger.domain.errors import ConfigurationError
from ledger.services.deadline import Overrun
from ledger.services.postgres_cluster import PostgresFailed

_log = Logger()


def explains_itself(failure: Failure) -> bool:
    """Whether the message alone tells whoever runs the server what to do, so that a traceback would only hide it."""
    return isinstance(failure.value, (ConfigurationError, Overrun, PostgresFailed))


def summary(failure: Failure) -> str:
    """The failure as one short line."""
    lines = str(failure.value).strip().splitlines()
    kind = "" if explains_itself(failure) else f"{type(failure.value).__name__}: "
    return f"{kind}{lines[0] if lines else 'no message'}"[:200]


def log_failure(child: str, failure: Failure) -> None:
    """Log that a child failed: one line where that explains itself, else with the traceback."""
    if explains_itself(failure):
        _log.error("{child} failed: {reason}", child=child, reason=summary(failure))
    else:
        _log.failure("{child} failed", failure, child=child)

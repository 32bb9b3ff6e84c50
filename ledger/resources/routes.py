"""All endpoints of the server, in the order of the documentation."""

from __future__ import annotations

from collections.abc import Callable

from ledger.resources.backend import Backend
from ledger.resources.balance import BalanceEndpoints
from ledger.resources.endpoint import Endpoint
from ledger.resources.health import HealthEndpoints
from ledger.resources.money import CashEndpoints
from ledger.resources.users import UserEndpoints


def all_endpoints(backend: Backend, seconds: Callable[[], float], disk: str = ".") -> tuple[Endpoint, ...]:
    """Declare every endpoint; `disk` is a path on the disk whose room is watched."""
    return (
        *UserEndpoints(backend).endpoints(),
        *CashEndpoints(backend).endpoints(),
        *BalanceEndpoints(backend).endpoints(),
        *HealthEndpoints(backend, seconds, disk).endpoints(),
    )

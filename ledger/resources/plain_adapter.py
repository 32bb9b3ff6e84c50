"""The short way: hot endpoints, found by method and path before any resource is asked."""

from __future__ import annotations

from collections.abc import Iterable

from ledger.resources.endpoint import Endpoint

Table = dict[tuple[bytes, bytes], Endpoint]


def hot_table(endpoints: Iterable[Endpoint]) -> Table:
    """Return the hot endpoints by method and path, exactly as these stand in a request line."""
    return {
        (endpoint.method.encode(), path.encode()): endpoint
        for endpoint in endpoints
        if endpoint.hot
        for path in endpoint.paths
    }

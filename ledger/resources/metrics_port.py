"""What stands behind `--metrics-listen`: the metrics, for whoever gets there, and whether the process lives."""

from __future__ import annotations

import os
from typing import Any

from ledger.resources.addresses import Addresses
from ledger.resources.backend import Backend
from ledger.resources.counts import Counts
from ledger.resources.exchange import Exchange
from ledger.resources.guards import Guards
from ledger.resources.health import LIVE, HealthEndpoints
from ledger.resources.metrics import Metrics, MetricsEndpoints
from ledger.resources.site import LedgerSite


def metrics_site(reactor: Any, backend: Backend, metrics: Metrics, counts: Counts) -> LedgerSite:
    """Return a site that limits no rate, counts with the main one, and drains by itself."""
    exchange = Exchange(backend, Guards(Addresses(()), None), reactor.seconds, os.urandom, counts)
    health = HealthEndpoints(backend, reactor.seconds).endpoints()
    endpoints = (
        *MetricsEndpoints(metrics, for_anyone=True).endpoints(),
        *(endpoint for endpoint in health if endpoint.path == LIVE),
    )
    return LedgerSite(reactor, exchange, endpoints, {})

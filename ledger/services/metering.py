"""What the server's parts count, as Prometheus' client library takes it; all of it is read on a scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, get_args

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString
from twisted.logger import Logger

from ledger.domain.breaker import Position
from ledger.pubsub.feed import Feed
from ledger.pubsub.sockets import Sockets
from ledger.pubsub.sse import Stream
from ledger.services.child import ChildStatus, State
from ledger.services.job_queue import Queue
from ledger.services.outbound import BreakerStatus
from ledger.services.tally import Tally
from ledger.services.writer_meter import WriterMeter
from ledger.store.pool import Pool
from ledger.version import VERSION

Read = Callable[[], Iterable[Metric]]
Values = Iterable[tuple[Sequence[str], float]]

_written: Any = lru_cache(64)(floatToGoString)  # the client library leaves it without types
_STATES: Final[tuple[State, ...]] = get_args(State)
_POSITIONS: Final[tuple[Position, ...]] = get_args(Position)


class Reading:
    """A collector whose failure is logged, and spoils no other's scrape."""

    _log = Logger()

    def __init__(self, read: Read) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Read."""
        try:
            yield from self._read()
        except Exception:
            self._log.failure("some metrics could not be read")


def counter(name: str, text: str, value: float) -> Metric:
    """Return a counter without labels."""
    return CounterMetricFamily(name, text, value=value)


def gauge(name: str, text: str, value: float) -> Metric:
    """Return a gauge without labels."""
    return GaugeMetricFamily(name, text, value=value)


def gauges(name: str, text: str, labels: Sequence[str], values: Values) -> Metric:
    """Return a gauge with a value for each of some combinations of labels."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for places, value in values:
        family.add_metric(places, value)
    return family


def buckets_of(cumulated: Iterable[tuple[float, int]]) -> list[Any]:
    """Return the buckets of a histogram as the client library takes them."""
    return [(_written(bound), many) for bound, many in cumulated]


def histogram(name: str, text: str, tally: Tally) -> Metric:
    """Return a histogram without labels."""
    return HistogramMetricFamily(name, text, buckets=buckets_of(tally.cumulated()), sum_value=tally.total)


def server_metrics(lag: Tally) -> Iterator[Metric]:
    """Tell which version this is, and how late its reactor is."""
    yield InfoMetricFamily("ledger", "The version of the server.", {"version": VERSION})
    yield histogram(
        "ledger_reactor_lag_seconds", "How late the reactor came to what was due, four times a second.", lag
    )


def writer_metrics(meter: WriterMeter) -> Iterator[Metric]:
    """Tell how the writer does."""
    name, now = "ledger_writer", meter.standing()
    yield histogram(f"{name}_batch_commands", "Commands in each batch.", meter.sizes)
    text = "From taking a batch to its outcomes, the commit included."
    yield histogram(f"{name}_batch_duration_seconds", text, meter.seconds)
    yield counter(f"{name}_records", "Records that this process added to the journal.", meter.records)
    yield counter(f"{name}_replies", "Outcomes that were handed to those who waited.", now.replied)
    yield gauge(f"{name}_replies_waiting", "Outcomes that are still to be handed on.", now.replies)
    yield gauge(f"{name}_lanes", "Lanes in which commands wait.", now.lanes)
    yield gauge(f"{name}_lane_commands", "Commands that wait in all lanes.", now.commands)
    yield gauge(f"{name}_lane_commands_deepest", "Commands that wait in the fullest lane.", now.deepest)
    yield gauge(f"{name}_bundles", "Bundles that wait beside the lanes.", now.bundles)
    yield gauge(f"{name}_bundle_commands", "Commands in these bundles.", now.bundled)
    yield counter(f"{name}_batches_guessed", "Batches decided before the database was asked.", meter.guessed)
    yield counter(f"{name}_batches_mistaken", "Those of them that had to be decided again.", meter.mistaken)
    yield counter(f"{name}_turned_away", "Commands and bundles for which there was no room.", meter.turned_away)
    yield counter(f"{name}_connection_losses", "Connections to the database that broke in a batch.", meter.losses)
    yield gauge(f"{name}_away", "1 while the writer cannot reach its database.", now.away)


def pool_metrics(pool: Pool, size: int) -> Iterator[Metric]:
    """Tell how the connections for reads and short work are used."""
    opened, idle, waiting = pool.usage
    yield gauge("ledger_pool_size", "Connections that the pool may have.", size)
    yield gauge("ledger_pool_open", "Connections that it has, or is making.", opened)
    yield gauge("ledger_pool_in_use", "Connections that work.", opened - idle)
    yield gauge("ledger_pool_waiting", "Callers that wait for a connection.", waiting)


def live_metrics(feed: Feed, sockets: Sockets) -> Iterator[Metric]:
    """Tell how far the journal and its publishing are, and who follows."""
    if feed.published >= 0:
        yield gauge("ledger_journal_head", "The journal's last record, as far as is known here.", feed.head)
        yield gauge("ledger_feed_published", "The last record that was published here.", feed.published)
        yield gauge("ledger_feed_lag_records", "Records that are still to be published.", feed.head - feed.published)
    streams = sum(isinstance(one, Stream) for one in sockets)
    kinds = ((("websocket",), len(sockets) - streams), (("sse",), streams))
    yield gauges("ledger_live_connections", "Open real-time connections.", ("kind",), kinds)
    text = "Places in topics, of clients and of the server's own parts."
    yield gauge("ledger_live_subscriptions", text, feed.hub.subscriptions)


def service_metrics(children: Sequence[ChildStatus]) -> Iterator[Metric]:
    """Tell how the children of the service tree do."""
    states = (((child.name, state), child.state == state) for child in children for state in _STATES)
    yield gauges("ledger_service_state", "1 for the state that a service is in.", ("service", "state"), states)
    restarts = CounterMetricFamily("ledger_service_restarts", "How often a service was restarted.", labels=("service",))
    for child in children:
        restarts.add_metric((child.name,), child.restarts)
    yield restarts


def job_metrics(counted: Mapping[str, Mapping[str, int]] | None, queues: Mapping[str, Queue]) -> Iterator[Metric]:
    """Tell how many jobs there are, where that is known, and what this process does of them."""
    if counted is not None:
        jobs = (((queue, state), many) for queue, states in counted.items() for state, many in states.items())
        yield gauges("ledger_jobs", "Jobs in the database, whichever process runs them.", ("queue", "state"), jobs)
    slots = (((name,), queue.slots) for name, queue in queues.items())
    yield gauges("ledger_job_slots", "Jobs that this process runs at once, at most.", ("queue",), slots)
    running = (((name,), queue.running) for name, queue in queues.items())
    yield gauges("ledger_jobs_running", "Jobs that this process runs.", ("queue",), running)
    done = CounterMetricFamily("ledger_jobs_run", "Attempts that ended in this process.", labels=("queue",))
    for name, queue in queues.items():
        done.add_metric((name,), queue.done)
    yield done


def breaker_metrics(breakers: Sequence[BreakerStatus]) -> Iterator[Metric]:
    """Tell how the breakers before external services stand."""
    labels = ("service", "state")
    states = (((one.name, state), one.state == state) for one in breakers for state in _POSITIONS)
    yield gauges("ledger_breaker_state", "1 for the state that the breaker before a service is in.", labels, states)
    failures = (((one.name,), one.failures) for one in breakers)
    yield gauges("ledger_breaker_failures", "Failures in a row.", labels[:1], failures)

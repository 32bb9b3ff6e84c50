"""The balance watcher, and the feed as a child: watched, restarted, and back where they were."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ledger.domain.events import Committed
from ledger.pubsub.event import Event
from ledger.services.balance_watcher import BalanceWatcher
from ledger.services.feed import FeedService
from ledger.services.supervisor import RestartPolicy, Supervisor
from tests.cleanliness import LoggedErrors
from tests.pubsub.world import World, record


class Touchy(BalanceWatcher):
    """Cannot stand record 2."""

    def handle(self, event: Event) -> None:
        super().handle(event)
        if event.seq == 2:
            raise ZeroDivisionError


def tree(world: World, watcher: BalanceWatcher) -> tuple[Supervisor, FeedService]:
    escalated: list[Any] = []
    assert isinstance(world.clock, Clock)
    supervisor = Supervisor(world.clock, lambda: 0.5, lambda *why: escalated.append(why), RestartPolicy())
    feed = FeedService(world.feed)
    supervisor.add(feed)
    supervisor.add(watcher)
    supervisor.start(lambda: None)
    world.settle()
    assert [status.state for status in supervisor.status()] == ["running", "running"]
    return supervisor, feed


def test_it_counts_what_passes_until_it_is_stopped() -> None:
    world = World()
    watcher = BalanceWatcher(world.hub)
    supervisor, _ = tree(world, watcher)
    world.commit("bob", "alice1")
    world.commit("bob")
    world.settle()
    assert (watcher.seen, watcher.last_seq) == (3, 2)
    Deferred.fromCoroutine(supervisor.stop())
    world.settle()
    world.hub.publish(record(3, "bob"))
    assert watcher.seen == 3
    assert not world.hub._everyone
    assert world.clock.getDelayedCalls() == []


def test_it_dies_of_what_it_cannot_handle_and_comes_back(logged_errors: LoggedErrors) -> None:
    world = World()
    watcher = Touchy(world.hub)
    supervisor, _ = tree(world, watcher)
    for _ in range(3):
        world.commit("bob")
    world.settle(5)
    world.commit("bob")
    world.settle()
    assert watcher.last_seq == 4
    (_, status) = supervisor.status()
    assert (status.state, status.restarts) == ("running", 1)
    assert status.last_failure is not None
    assert "ZeroDivisionError" in status.last_failure
    assert len(logged_errors(ZeroDivisionError)) == 1
    assert len(world.hub._everyone[""]) == 1


def test_a_feed_that_breaks_is_restarted_and_goes_on(logged_errors: LoggedErrors) -> None:
    world = World()
    watcher = BalanceWatcher(world.hub)
    supervisor, _ = tree(world, watcher)
    bad = Committed(record(1, "bob").record, {})
    world.journal.records.append(bad)
    world.feed.committed([bad])
    world.journal.commit("bob")
    world.settle(10)
    assert world.feed.published == 2
    assert supervisor.status()[0].restarts == 1
    assert len(logged_errors(KeyError)) == 1
    world.commit("bob")
    world.settle()
    assert watcher.last_seq == 3

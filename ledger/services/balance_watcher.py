"""Watches every balance from inside the process: a cheap sign that the stream is alive."""

from twisted.logger import Logger
from twisted.python.failure import Failure

from ledger.domain.events import ALL_TOPIC
from ledger.pubsub.event import Event
from ledger.pubsub.hub import Hub, Subscription
from ledger.services.child import Child

_log = Logger()


class BalanceWatcher(Child):
    """Counts the updates that pass, and remembers the last; dies of what it cannot handle, and is started again."""

    name = "balance watcher"
    leans_on = ("feed",)

    def __init__(self, hub: Hub) -> None:
        self.seen = 0
        self.last_seq = 0
        self._hub = hub
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Subscribe."""
        self._subscription = self._hub.subscribe(ALL_TOPIC, self._watch)

    async def stop(self) -> None:
        """Unsubscribe."""
        if self._subscription is not None:
            self._subscription.cancel()
            self._subscription = None

    def _watch(self, event: Event) -> None:
        try:
            self.handle(event)
        except Exception:
            if self._subscription is not None:
                self._subscription.cancel()
            self.fail(Failure())  # type: ignore[no-untyped-call]

    def handle(self, event: Event) -> None:
        """Take note of one update."""
        self.seen += 1
        self.last_seq = event.seq

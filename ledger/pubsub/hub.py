"""Hands every published update to those who follow its topics, in this process."""

from collections.abc import Callable

from twisted.logger import Logger

from ledger.domain.events import ALL_TOPIC, Committed
from ledger.pubsub.event import Event, Lazy, published
from ledger.pubsub.topics import read_topic

_log = Logger()

Deliver = Callable[[Event], object]


class Subscription:
    """A subscriber's place in a topic, until it is cancelled."""

    __slots__ = ("_place", "deliver", "failures", "topic")

    def __init__(self, topic: str, deliver: Deliver, place: "_Place") -> None:
        self.topic = topic
        self.deliver = deliver
        self.failures = 0
        self._place: _Place | None = place

    @property
    def active(self) -> bool:
        """Whether it has not been cancelled."""
        return self._place is not None

    def cancel(self) -> None:
        """Deliver nothing more, not even what is being published now; harmless when repeated."""
        place, self._place = self._place, None
        if place is not None:
            hub, table, key = place
            hub.subscriptions -= 1
            subscribers = table[key]
            del subscribers[self]
            if not subscribers:
                del table[key]


_Table = dict[str, dict[Subscription, None]]
_Place = tuple["Hub", _Table, str]


class Hub:
    """Topics and their subscribers; a record that nobody follows costs next to nothing."""

    def __init__(self) -> None:
        self.subscriptions = 0
        self._everyone: _Table = {}
        self._accounts: _Table = {}
        self._users: _Table = {}

    def subscribe(self, topic: str, deliver: Deliver) -> Subscription:
        """Call `deliver` with every event of the topic published from now on, in order; it must return at once."""
        read = read_topic(topic)
        table = {"all": self._everyone, "accounts": self._accounts, "users": self._users}[read.kind]
        key = read.id
        subscription = Subscription(topic, deliver, (self, table, key))
        self.subscriptions += 1
        table.setdefault(key, {})[subscription] = None
        return subscription

    def publish(self, committed: Committed) -> None:
        """Deliver a record's events, topic by topic in the order of their names; a subscriber that raises is logged."""
        everyone, accounts, users = self._everyone, self._accounts, self._users
        if not (everyone or accounts or users):
            return
        # Who gets it is settled before anybody is called: whoever subscribes meanwhile begins with the next record.
        if not accounts and not users:
            _tell_everyone(committed, list(everyone[""]))
            return
        hits: dict[str, tuple[list[Subscription], list[Event]]] = {}
        lazy = Lazy(committed)
        for index, (account_id, user_id) in enumerate(published(committed)):
            followed = []
            if everyone:
                followed.append((ALL_TOPIC, everyone[""]))
            if accounts and (some := accounts.get(account_id)):
                followed.append((f"accounts:{account_id}", some))
            if users and user_id is not None and (some := users.get(user_id)):
                followed.append((f"users:{user_id}", some))
            for topic, subscribers in followed:
                hit = hits.get(topic)
                if hit is None:
                    hit = hits[topic] = (list(subscribers), [])
                events = hit[1]
                events.append(Event(topic, committed.record.seq, len(events), account_id, lazy, index))
        for topic in hits if len(hits) == 1 else sorted(hits):
            subscriptions, events = hits[topic]
            _deliver(events, subscriptions)


def _tell_everyone(committed: Committed, subscriptions: list[Subscription]) -> None:
    """Publish where nobody follows anything else, as a server does most of the time: at half of the cost."""
    record, owners = committed.record, committed.owners
    lazy, seq = Lazy(committed), record.seq
    events: list[Event] = []
    for item in record.items if record.changes else record.entries:
        account_id = item.account
        if not owners[account_id].is_system:
            index = len(events)
            events.append(Event(ALL_TOPIC, seq, index, account_id, lazy, index))
    _deliver(events, subscriptions)


def _deliver(events: list[Event], subscriptions: list[Subscription]) -> None:
    for event in events:
        for subscription in subscriptions:
            if subscription._place is not None:
                try:
                    subscription.deliver(event)
                except Exception:
                    _complain(subscription, event)


def _complain(subscription: Subscription, event: Event) -> None:
    """Log a subscriber's 1st, 2nd, 4th, 8th … failure: a broken one must not flood the log."""
    subscription.failures += 1
    count = subscription.failures
    if count & (count - 1) == 0:
        _log.failure(
            "a subscriber of {topic} failed at {seq}: its failure number {count}",
            topic=subscription.topic,
            seq=event.seq,
            count=count,
        )

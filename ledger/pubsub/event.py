"""One published update, made in full only when somebody looks at it."""

from collections.abc import Iterable, Sequence

import msgspec

from ledger.domain.events import Committed, Update, updates_of
from ledger.pubsub.topics import Topic

_encoder = msgspec.json.Encoder()


class _Message(msgspec.Struct, frozen=True, tag_field="type", tag="balance_updated"):
    topic: str
    seq: int
    part: int
    data: msgspec.Raw


class Lazy(msgspec.Struct, eq=False, gc=False):
    """A record's updates and their JSON, each made at most once for all topics."""

    _committed: Committed
    _updates: tuple[Update, ...] | None = None
    _texts: dict[int, msgspec.Raw] | None = None

    def update(self, index: int) -> Update:
        """The record's update of this number, system accounts not counted."""
        if self._updates is None:
            self._updates = updates_of(self._committed)
        return self._updates[index]

    def text(self, index: int) -> msgspec.Raw:
        """The JSON of that update."""
        if self._texts is None:
            self._texts = {}
        text = self._texts.get(index)
        if text is None:
            text = self._texts[index] = msgspec.Raw(_encoder.encode(self.update(index)))
        return text


class Event(msgspec.Struct, eq=False, gc=False):
    """An update as a message of one topic; `part` counts the topic's messages of one record from 0."""

    topic: str
    seq: int
    part: int
    account_id: str
    _lazy: Lazy
    _index: int
    frame: bytes | None = None  # a transport's own form of the message, kept here for the next subscriber
    _message: bytes | None = None

    def __repr__(self) -> str:
        return f"Event({self.topic!r}, {self.seq}:{self.part})"

    @property
    def data(self) -> Update:
        """The state of the account after the record."""
        return self._lazy.update(self._index)

    @property
    def message(self) -> bytes:
        """The whole message as JSON."""
        if self._message is None:
            self._message = _encoder.encode(_Message(self.topic, self.seq, self.part, self._lazy.text(self._index)))
        return self._message


def published(committed: Committed) -> Sequence[tuple[str, str | None]]:
    """Return the accounts and users of a record's updates, in the order of `updates_of`, which need not be made."""
    record, owners = committed.record, committed.owners
    items = record.items if record.changes else record.entries
    return [(item.account, owner.user_id) for item in items if not (owner := owners[item.account]).is_system]


def events_of(committed: Committed, topics: Iterable[Topic]) -> list[Event]:
    """Return a record's messages on these topics, topic by topic in the order given."""
    events: list[Event] = []
    updates: Sequence[tuple[str, str | None]] | None = None
    lazy: Lazy | None = None
    for topic in topics:
        if topic.kind == "accounts" and topic.id not in committed.owners:
            continue
        if updates is None:
            updates = published(committed)
        part = 0
        for index, (account_id, user_id) in enumerate(updates):
            if topic.covers(account_id, user_id):
                lazy = lazy or Lazy(committed)
                events.append(Event(topic.name, committed.record.seq, part, account_id, lazy, index))
                part += 1
    return events

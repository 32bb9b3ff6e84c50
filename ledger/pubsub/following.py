"""One follower of some topics: what it missed is replayed, then it is live, without a gap and without a repeat."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from ledger.domain.events import Committed
from ledger.domain.journal import Record
from ledger.pubsub.cursor import WHOLE, Cursor
from ledger.pubsub.event import Event, events_of
from ledger.pubsub.hub import Hub, Subscription
from ledger.pubsub.topics import Grant
from ledger.pubsub.turns import Turns

MOST_UNSENT: Final = 10_000
_STRETCH: Final = 256  # records looked at in one step
_MESSAGES: Final = 32  # delivered in one step, about


class Source(Protocol):
    """Where followings read: the feed."""

    hub: Hub
    turns: Turns
    published: int

    def after(self, seq: int, limit: int) -> Sequence[Committed] | None:
        """Published records after `seq`, none at the head, None where they must be fetched first."""

    def fetch(self, seq: int, then: Callable[[], None]) -> None:
        """Bring the record after `seq` into memory, then call."""


class Outlet:
    """Where a client's messages go: closed while its socket takes no more, in which time nothing is queued.

    `deliver` gets each event with its number among the following's messages of that record; `overrun` is called, at
    most once per following, when a live follower has more than `most_unsent` messages to come.
    """

    def __init__(
        self, deliver: Callable[[Event, int], None], overrun: Callable[[], None], most_unsent: int = MOST_UNSENT
    ) -> None:
        self.deliver = deliver
        self.overrun = overrun
        self.most_unsent = most_unsent
        self.is_open = True
        self._waiting: dict[Callable[[], None], None] = {}

    def close(self) -> None:
        """Take no more for now."""
        self.is_open = False

    def open(self) -> None:
        """Take messages again, first those that were missed."""
        self.is_open = True
        waiting, self._waiting = self._waiting, {}
        for resume in waiting:
            resume()

    def wait(self, resume: Callable[[], None]) -> None:
        """Call `resume` when the outlet opens."""
        self._waiting[resume] = None


class Following:
    """A place in the journal that moves forward as fast as the outlet takes the messages of some topics.

    Messages are ordered by record, in a record by the topics' names, in a topic by part. They are numbered in that
    order, from 0 for each record, those that the grants hide included.
    """

    def __init__(
        self,
        source: Source,
        grants: Sequence[Grant],
        since: Cursor,
        outlet: Outlet,
    ) -> None:
        ordered = sorted(grants, key=lambda grant: grant.topic.name)
        self._source = source
        self._topics = tuple(grant.topic for grant in ordered)
        self._accounts = {topic.id for topic in self._topics}
        self._only_accounts = all(topic.kind == "accounts" for topic in self._topics)
        self._only = {grant.topic.name: grant.only_account for grant in ordered if grant.only_account is not None}
        self._outlet = outlet
        self._cursor = since
        self._subscriptions: list[Subscription] = []
        self._behind = True
        self._missed = 0
        self._cancelled = False
        self._record = -1  # the record being published, and the number of its last message for us
        self._number = -1

    @property
    def seq(self) -> int:
        """Everything after this record will be delivered, or has been."""
        return self._cursor.complete if self._behind else max(self._cursor.complete, self._source.published)

    @property
    def place(self) -> str:
        """Where a client that has seen nothing new yet is to resume."""
        if self._behind and 0 <= self._cursor.part < WHOLE:
            return f"{self._cursor.seq}:{self._cursor.part}"
        return str(self.seq)

    def begin(self) -> None:
        """Start delivering."""
        if self._cursor.complete >= self._source.published:
            self._go_live()
        else:
            self._again()

    def cancel(self) -> None:
        """Deliver nothing more."""
        self._cancelled = True
        for subscription in self._subscriptions:
            subscription.cancel()

    def _live(self, event: Event) -> None:
        seq = event.seq
        if seq == self._record:
            self._number += 1
        else:
            self._record, self._number = seq, 0
        number = self._number
        if self._only and self._hidden(event):
            return
        if self._behind:
            if not self._cursor.covers(seq, number):
                self._miss()
        elif not self._outlet.is_open:
            if not self._cursor.covers(seq, number):
                self._cursor = Cursor(seq, number - 1)  # live so far: all before this one is done
                self._behind = True
                self._outlet.wait(self._again)
                self._miss()
        elif seq > self._cursor.seq or not self._cursor.covers(seq, number):
            self._outlet.deliver(event, number)

    def _miss(self) -> None:
        self._missed += 1
        if self._missed > self._outlet.most_unsent:
            self.cancel()
            self._outlet.overrun()

    def _hidden(self, event: Event) -> bool:
        only = self._only.get(event.topic)
        return only is not None and only != event.account_id

    def _again(self) -> None:
        self._source.turns.add(self._step)

    def _step(self) -> None:
        """Replay a short stretch, as far as the outlet allows, and come back; or find nothing more to replay."""
        if self._cancelled:
            return
        if not self._outlet.is_open:
            self._outlet.wait(self._again)
            return
        seq = self._cursor.complete
        records = self._source.after(seq, _STRETCH)
        if records is None:
            self._source.fetch(seq, self._again)
        elif records:
            self._replay(records)
            self._again()
        else:
            self._go_live()

    def _replay(self, records: Sequence[Committed]) -> None:
        outlet = self._outlet
        delivered = 0
        for committed in records:
            # Whoever resumes one account looks at everybody's records: those of others must cost next to nothing.
            if self._only_accounts and not self._concerns(committed.record):
                continue
            seq = committed.seq
            for number, event in enumerate(events_of(committed, self._topics)):
                if self._cursor.covers(seq, number) or self._hidden(event):
                    continue
                if not outlet.is_open:
                    return
                self._cursor = Cursor(seq, number)
                self._missed = max(self._missed - 1, 0)
                outlet.deliver(event, number)
                if self._cancelled:
                    return
                delivered += 1
            self._cursor = Cursor(seq, WHOLE)
            if delivered >= _MESSAGES:
                return
        self._cursor = Cursor(records[-1].seq, WHOLE)

    def _concerns(self, record: Record) -> bool:
        accounts = self._accounts
        for entry in record.entries:
            if entry.account in accounts:
                return True
        return any(change.account in accounts for change in record.changes) if record.changes else False

    def _go_live(self) -> None:
        # Nothing is published between finding the end and this line, so no event falls in between.
        self._behind = False
        self._missed = 0
        if not self._subscriptions:
            hub = self._source.hub
            self._subscriptions = [hub.subscribe(topic.name, self._live) for topic in self._topics]

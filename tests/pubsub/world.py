"""A small world to publish from: a journal in memory, accounts and their owners, tokens, and a follower's ear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ledger.domain.accounts import Owner, world_id
from ledger.domain.errors import Refused
from ledger.domain.events import Committed
from ledger.domain.journal import FORM, Change, Entry, Record
from ledger.domain.policy import Caller
from ledger.pubsub.access import Context
from ledger.pubsub.event import Event
from ledger.pubsub.feed import Feed
from ledger.pubsub.following import Following, Outlet
from ledger.pubsub.hub import Hub
from ledger.pubsub.sockets import Sockets
from ledger.pubsub.topics import Grant, read_topic

ASSET = "USD/2"
WORLD = world_id(ASSET)


def identity(kind: str, number: int) -> str:
    """A made-up id."""
    return str(UUID(f"{'acc0' if kind == 'account' else '05e2'}{number:028x}"))


ALICE, BOB, WALLET = "alice", "bob", "wallet"
USERS = {ALICE: identity("user", 1), BOB: identity("user", 2)}
# Alice has two accounts, Bob one; the wallet is nobody's.
ACCOUNTS = {
    "alice1": Owner(identity("account", 1), USERS[ALICE], ASSET, False),
    "alice2": Owner(identity("account", 2), USERS[ALICE], ASSET, False),
    "bob": Owner(identity("account", 3), USERS[BOB], ASSET, False),
    WALLET: Owner(identity("account", 4), None, ASSET, False),
}
OWNERS = {owner.account_id: owner for owner in ACCOUNTS.values()} | {WORLD: Owner(WORLD, None, ASSET, True)}
TOPICS = ("balance_updated", f"users:{USERS[ALICE]}", f"accounts:{ACCOUNTS['alice1'].account_id}")


def account(name: str) -> str:
    """The id of an account."""
    return ACCOUNTS[name].account_id


def record(seq: int, *names: str, changes: Sequence[str] = (), owners: dict[str, Owner] = OWNERS) -> Committed:
    """A record that credits these accounts from the world, and changes those."""
    ids = [owners[name].account_id if name in owners else account(name) for name in names]
    entries = []
    for step, account_id in enumerate(ids):
        for target, amount in ((WORLD, -100), (account_id, 100)):
            entries.append(
                Entry(
                    account=target,
                    amount=amount,
                    balance=seq * amount,
                    held=0,
                    available=seq * amount,
                    version=seq * 1000 + step,
                )
            )
    changed = tuple(
        Change(account=account(name), status="ACTIVE", credit_limit=0, balance=seq, held=1, available=seq, version=seq)
        for name in changes
    )
    posted = Record(
        v=FORM,
        seq=seq,
        id=str(UUID(int=seq << 16)),
        kind="credit",
        posted_at="2026-01-01T00:00:00.000000Z",
        entries=tuple(entries),
        changes=changed,
    )
    named = {
        account_id: owners[account_id] for account_id in [e.account for e in entries] + [c.account for c in changed]
    }
    return Committed(posted, named)


class Journal:
    """Committed records, read like the database: reads may fail, and may take their time."""

    def __init__(self) -> None:
        self.records: list[Committed] = []
        self.failures = 0
        self.slow = False
        self.reads = 0
        self._waiting: list[Deferred[None]] = []

    def commit(self, *names: str, changes: Sequence[str] = ()) -> Committed:
        """Commit one record."""
        committed = record(len(self.records) + 1, *names, changes=changes)
        self.records.append(committed)
        return committed

    def release(self) -> None:
        """Let all reads end that are under way, and be quick from now on."""
        self.slow = False
        waiting, self._waiting = self._waiting, []
        for read in waiting:
            read.callback(None)

    async def head(self) -> int:
        """The number of the last record."""
        head = len(self.records)
        await self._travel()
        return head

    async def after(self, seq: int, limit: int) -> list[Committed]:
        """Records after `seq`."""
        self.reads += 1
        found = self.records[seq : seq + limit]
        await self._travel()
        return found

    async def _travel(self) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("the database is away")
        if self.slow:
            read: Deferred[None] = Deferred()
            self._waiting.append(read)
            await read


class Tokens:
    """Who may come in."""

    def __init__(self) -> None:
        self.callers = {
            f"token-{name}": Caller("account", owner.account_id, owner.user_id) for name, owner in ACCOUNTS.items()
        }
        for role in ("admin", "support"):
            self.callers[f"token-{role}"] = Caller("user", user_id=identity("user", 10), role=role)
        for session in ("first", "second"):  # two logins of one user, or the tokens before and after a refresh
            self.callers[f"token-{session}"] = Caller("user", user_id=USERS[ALICE], role="user", session_id=session)
        self.callers["token-" + "x" * 700] = self.callers["token-admin"]  # as long as an e-mail address may make it
        self.watches: list[tuple[str, Callable[[], None]]] = []
        self.away = False
        self.pending: Deferred[None] | None = None
        self.waiting = 0

    async def authenticate(self, token: str) -> Caller:
        """The bearer of a token."""
        if self.pending is not None:
            self.waiting += 1
            await self.pending
        if self.away:
            raise Refused("service_unavailable")
        if token not in self.callers:
            raise Refused("invalid_token")
        return self.callers[token]

    def watch(self, token: str, revoked: Callable[[], None]) -> Callable[[], None]:
        """Tell when it is revoked."""
        watch = (token, revoked)
        self.watches.append(watch)
        return lambda: self.watches.remove(watch)

    def revoke(self, token: str) -> None:
        """End a token."""
        del self.callers[token]
        for watched, revoked in list(self.watches):
            if watched == token:
                revoked()


class Owners:
    """The owners of accounts."""

    def __init__(self, owners: dict[str, Owner] = OWNERS) -> None:
        self.owners = owners

    async def owner(self, account_id: str) -> Owner | None:
        """The owner of an account."""
        return self.owners.get(account_id)


class World:
    """A feed over a journal, and everything that real-time clients are served from."""

    def __init__(self, clock: Any = None, *, ring: int = 10_000, preload: int = 2_000) -> None:
        self.clock = Clock() if clock is None else clock
        self.journal = Journal()
        self.hub = Hub()
        self.feed = Feed(self.journal, self.hub, self.clock, ring=ring, preload=preload)
        self.tokens = Tokens()
        self.sockets = Sockets(self.clock)
        self.context = Context(self.feed, self.tokens, Owners(), self.sockets, self.clock)

    def start(self) -> None:
        """Start the feed."""
        done(self.feed.start())

    def commit(self, *names: str, changes: Sequence[str] = ()) -> None:
        """Commit a record as the writer does, which hands it to the feed."""
        self.feed.committed([self.journal.commit(*names, changes=changes)])

    def settle(self, seconds: float = 1.0) -> None:
        """Let happen what is due."""
        for _ in range(20):
            self.clock.advance(seconds / 20)


class Ear:
    """A follower that notes what it hears, and whose outlet closes when told to."""

    def __init__(self, world: World, *topics: str, most_unsent: int = 10_000, only: str | None = None) -> None:
        self.world = world
        self.grants = [Grant(read_topic(topic), only) for topic in topics]
        self.heard: list[tuple[str, int, int]] = []
        self.ids: list[tuple[int, int]] = []
        self.accounts: list[str] = []
        self.overruns = 0
        self.capacity = -1  # deliveries until the outlet closes; never when negative
        self.outlet = Outlet(self._hear, self._overrun, most_unsent)
        self.following: Following | None = None

    def follow(self, since: object = None) -> Ear:
        """Begin."""
        self.following = done(self.world.feed.follow(self.grants, since, self.outlet))
        self.following.begin()
        return self

    def _hear(self, event: Event, number: int) -> None:
        assert self.outlet.is_open
        assert event.seq <= self.world.feed.published
        self.heard.append((event.topic, event.seq, event.part))
        self.ids.append((event.seq, number))
        self.accounts.append(event.account_id)
        self.capacity -= 1
        if self.capacity == 0:
            self.outlet.close()

    def _overrun(self) -> None:
        self.overruns += 1


def expected(records: Sequence[Committed], *topics: str) -> list[tuple[str, int, int]]:
    """What a follower of these topics hears of these records, written down as plainly as can be."""
    messages = []
    for committed in records:
        items: list[Entry | Change] = [*committed.record.entries, *committed.record.changes]
        for topic in sorted(topics):
            kind, _, wanted = topic.partition(":")
            part = 0
            for item in items:
                owner = committed.owners[item.account]
                subject = {"accounts": item.account, "users": owner.user_id}.get(kind, wanted)
                if not owner.is_system and subject == wanted:
                    messages.append((topic, committed.seq, part))
                    part += 1
    return messages


def done(work: Any) -> Any:
    """The result of something asynchronous that has one already."""
    results: list[Any] = []
    failures: list[BaseException] = []
    Deferred.fromCoroutine(work).addCallbacks(results.append, lambda failure: failures.append(failure.value))
    if failures:
        raise failures[0]
    assert results, "not done yet"
    return results[0]

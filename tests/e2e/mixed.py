"""A load of every kind of record, which remembers what it asked for and what it was told."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.internet.error import ConnectError

from ledger.domain.accounts import world_id
from tests.e2e.books import ASSET, Books, Customer
from tests.e2e.client import BROKEN, HANGS_AFTER, Api
from tests.e2e.server import pause, until

reactor: Any = _reactor

# What a load like this one may be refused for.
REFUSALS = {"insufficient_funds", "already_processed", "account_frozen", "period_closed", "duplicate_transaction"}


@dataclass
class Act:
    """One request, and what its client knows of it."""

    path: str
    body: Any
    token: str
    method: str = "POST"
    key: str | None = field(default_factory=lambda: uuid4().hex)
    known: str = "unknown"  # or: done, refused
    data: Any = None
    was_replayed: bool = False

    @property
    def keys(self) -> set[str]:
        """The keys of what was done."""
        if self.known != "done" or self.key is None:
            return set()
        if not self.path.endswith("/batch"):
            return {self.key}
        items = zip(self.body["transfers"], self.data, strict=True)
        return {item["idempotency_key"] for item, told in items if told["status"] != "refused"}

    @property
    def said(self) -> str:
        """What was answered, every byte of it that a replay repeats."""
        told = self.data
        if self.path.endswith("/batch"):
            told = [one.get("transfer") for one in told]
        return json.dumps(told)

    async def attempt(self, api: Api) -> None:
        """Ask for it (again), and note the answer."""
        began = reactor.seconds()
        try:
            reply = await api.ask(self.method, self.path, self.body, self.token, self.key)
        except (ConnectError, *BROKEN):
            self.known = "unknown"
            assert reactor.seconds() < began + HANGS_AFTER, "no answer, and no end either"
            return
        if reply.status < 300:
            self.known, self.data, self.was_replayed = "done", reply.data, reply.is_replay
        elif reply.status == 503:
            self.known = "unknown"
        else:
            assert reply.reason in REFUSALS, (self, reply.json)
            self.known = "refused"


class MixedLoad:
    """Clients that do all that can be done with accounts and their money, without pause."""

    def __init__(self, api: Api, customers: Sequence[Customer], admin: str, clients: int = 16) -> None:
        self._api = api
        self._customers = customers
        self._admin = admin
        self._clients = clients
        self._going = True
        self._running: Deferred[Any] | None = None
        self._holds: list[tuple[str, str]] = []  # each with the token of its account
        self._transfers: list[str] = []
        self.acts: list[Act] = []

    def start(self) -> MixedLoad:
        """Begin."""
        self._running = gatherResults([ensureDeferred(self._client(number)) for number in range(self._clients)])
        return self

    async def stop(self) -> None:
        """Begin nothing more, and wait for all that is under way."""
        self._going = False
        assert self._running is not None
        await self._running

    @property
    def counts(self) -> Counter[str]:
        """How many acts there are of each kind of knowledge."""
        return Counter(act.known for act in self.acts)

    async def more(self, count: int) -> None:
        """Return when that many more have been done."""
        wanted = self.counts["done"] + count
        await until(lambda: self.counts["done"] >= wanted, 60, lambda: f"the load came to a halt: {self.counts}")

    async def settle(self, books: Books, api: Api) -> None:
        """Ask for everything with a key again: what is in the journal is told as it was, and there once; no more is."""
        before = set(books.keys())
        keyed = [act for act in self.acts if act.key is not None and act.known != "refused"]
        for act in keyed:
            assert act.keys <= before, act
        waiting = iter(keyed)

        async def again() -> None:
            for act in waiting:
                was_there = act.key in before
                was_done, said, kept = act.known == "done", act.said if act.known == "done" else "", act.keys
                await act.attempt(api)
                while act.known == "unknown":
                    await pause(0.05)
                    await act.attempt(api)
                if act.path.endswith("/batch"):
                    assert kept <= act.keys, act
                elif was_done or was_there:
                    assert act.known == "done", act
                    assert act.was_replayed, act
                    assert not was_done or act.said == said, act

        await gatherResults([ensureDeferred(again()) for _ in range(16)])
        keys = set(books.keys()) - {None}
        assert keys == set().union(*(act.keys for act in self.acts))

    async def _client(self, number: int) -> None:
        choice = random.Random(number)
        while self._going:
            act = self._next(choice)
            self.acts.append(act)
            await act.attempt(self._api)
            if act.known == "unknown":
                await pause(0.05)
            elif act.known == "done":
                self._learn(act)

    def _learn(self, act: Act) -> None:
        if act.path == "/api/holds":
            self._holds.append((act.data["id"], act.token))
        elif act.path == "/api/transfers":
            self._transfers.append(act.data["id"])

    def _next(self, choice: random.Random) -> Act:
        one, two = choice.sample(self._customers, 2)
        kinds = ["move", "legs", "bring", "hold", "hold", "end", "end", "back", "batch", "whole", "past", "govern"]
        kind = choice.choice(kinds)
        if kind == "move":
            expect = choice.choice([None, {"account_id": one.account_id, "available_at_least": "1.00"}])
            return Act("/api/transfers", {**self._leg(one, two, choice), "expect": expect}, one.token)
        if kind == "legs":
            legs = [self._any_leg(choice) for _ in range(choice.randint(2, 5))]
            return Act("/api/transfers", {"legs": legs, "metadata": {"n": choice.random()}}, self._admin)
        if kind == "bring":
            return Act("/credit", {"user_id": one.user_id, "amount": "25.00"}, one.token)
        if kind == "hold":
            time = choice.choice([None, 1, 1, 60])
            body = {"account_id": one.account_id, "amount": "1.50", "expires_in_seconds": time}
            return Act("/api/holds", body, one.token)
        if kind == "end" and self._holds:
            hold, token = choice.choice(self._holds[-30:])
            if choice.random() < 0.3:
                return Act(f"/api/holds/{hold}/void", None, token)
            return Act(f"/api/holds/{hold}/capture", choice.choice([{}, {"amount": "0.50"}]), token)
        if kind == "back" and self._transfers:
            transfer = choice.choice(self._transfers[-30:])
            return Act(f"/api/transfers/{transfer}/reverse", {}, self._admin)
        if kind in ("batch", "whole"):
            return self._batch(choice, is_whole=kind == "whole")
        if kind == "past":
            then = datetime.now(UTC) - timedelta(minutes=choice.choice([1, 5]))
            if choice.random() < 0.3:
                return Act("/api/periods/close", {"until": (then - timedelta(minutes=2)).isoformat()}, self._admin)
            return Act("/api/transfers", {**self._leg(one, two, choice), "effective_at": then.isoformat()}, self._admin)
        if choice.random() < 0.5:
            return Act("/api/accounts", {"account_type": "SAVINGS", "user_id": one.user_id}, self._admin)
        status = choice.choice(["FROZEN", "ACTIVE", "ACTIVE"])
        path = f"/api/accounts/{self._customers[0].account_id}"
        return Act(path, {"status": status, "name": status.lower()}, self._admin, "PATCH", key=None)

    def _batch(self, choice: random.Random, *, is_whole: bool) -> Act:
        items: list[Any] = []
        for _ in range(choice.randint(2, 12)):
            item = self._any_leg(choice)
            if choice.random() < 0.5:
                item["from"] = world_id(ASSET)
            items.append({"idempotency_key": uuid4().hex, **item})
        return Act("/api/transfers/batch", {"transfers": items, "atomic": is_whole}, self._admin)

    def _any_leg(self, choice: random.Random) -> dict[str, Any]:
        one, two = choice.sample(self._customers, 2)
        return self._leg(one, two, choice)

    def _leg(self, one: Customer, two: Customer, choice: random.Random) -> dict[str, Any]:
        return {"from": one.account_id, "to": two.account_id, "amount": f"{choice.randint(1, 300) / 100:.2f}"}

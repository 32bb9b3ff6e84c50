"""Payments in memory: the real service and the real rules over tables that are dicts."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from ledger.domain.account_commands import AccountView, account_view
from ledger.domain.errors import Refused
from ledger.domain.jobs import Job
from ledger.domain.payment_commands import ALIKE, PAYMENTS, SPENT, Kept
from ledger.domain.payments import Nature, Payment, PaymentRules, Standing, Twin
from ledger.services.payments import Payments
from ledger.store.job_desk import Queued
from ledger.store.payments import AccountsHeld, Order, PaymentFilter
from tests.resources.backend import INSTANT, MemoryBackend, Settings
from tests.resources.harness import Reply, Server

UNKNOWN = "01900000-0000-7000-8000-ffffffffffff"


class MemoryStore:
    """Payments as a book in memory knows them."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend
        self.made: dict[str, Payment] = {}
        self.processing: set[str] = set()
        self.asked: list[tuple[str, PaymentFilter, Order, int, int]] = []
        backend.book.facts = {PAYMENTS: {}, SPENT: {}, ALIKE: {}}

    async def add(self, payment_id: str, nature: Nature) -> Payment:
        """Make a payment."""
        given = msgspec.structs.asdict(nature)
        self.made[payment_id] = Payment(id=payment_id, inserted_at=INSTANT, updated_at=INSTANT, **given)
        self._backend.book.facts[PAYMENTS][payment_id] = Kept(payment_id, "PENDING", None)
        return self.made[payment_id]

    async def was_added(self, payment_id: str) -> bool:
        """Whether it is there."""
        return payment_id in self.made

    async def find(self, payment_id: str) -> Payment | None:
        """Return a payment with the status that the book has brought it to."""
        made = self.made.get(payment_id)
        if made is None:
            return None
        kept: Kept = self._backend.book.facts[PAYMENTS][payment_id]
        status: Any = "PROCESSING" if payment_id in self.processing else kept.status
        posted_at = INSTANT if kept.status == "COMPLETED" else None
        return msgspec.structs.replace(made, status=status, transfer_id=kept.transfer_id, posted_at=posted_at)

    async def page(
        self, user_id: str, wanted: PaymentFilter, order: Order, limit: int, offset: int
    ) -> tuple[list[Payment], int]:
        """Return all of a user's, newest first, and note what was asked."""
        self.asked.append((user_id, wanted, order, limit, offset))
        mine = [one for one in reversed(self.made.values()) if one.user_id == user_id]
        return mine[offset : offset + limit], len(mine)

    async def standing(self, nature: Nature, payment_id: str | None = None) -> Standing | None:
        """Return what the book has come to."""
        book = self._backend.book
        account = book.accounts.get(nature.account_id)
        if account is None:
            return None
        alike = (nature.user_id, nature.amount, nature.direction, nature.description)
        twin = None
        for one in self.made.values():
            same = (one.user_id, one.amount, one.direction, one.description) == alike
            if same and one.id != payment_id and book.facts[PAYMENTS][one.id].status == "COMPLETED":
                twin = Twin(payment_id or "", one.id, book.instant)
        spent = book.facts[SPENT].get(nature.account_id)
        return Standing(account, spent.days.get(book.instant[:10], 0) if spent else 0, twin, book.instant)

    async def accounts_held(self, user_id: str) -> AccountsHeld | None:
        """Count a user's accounts."""
        mine = [account for account in self._backend.book.accounts.values() if account.user_id == user_id]
        if not mine:
            return None
        held = AccountsHeld({}, {})
        for account in mine:
            held.statuses[account.status] = held.statuses.get(account.status, 0) + 1
            held.balances[account.asset] = held.balances.get(account.asset, 0) + account.balance
        return held


class MemoryDesk:
    """Jobs that are queued and never run."""

    def __init__(self) -> None:
        self.queued: dict[str, tuple[Job, dict[str, Any]]] = {}

    async def enqueue(self, worker: str, args: Mapping[str, Any], **how: Any) -> Queued:
        """Queue a job, unless there is one with its key."""
        key = how["unique_key"]
        is_new = key not in self.queued
        if is_new:
            job_id, state = (
                f"01900000-0000-7000-8009-{len(self.queued):012x}",
                "scheduled" if how["delay"] else "available",
            )
            job = Job(job_id, "payments", worker, dict(args), state, how["priority"], 0, 4, INSTANT, None, None, [])  # type: ignore[arg-type]
            self.queued[key] = (job, how)
        return Queued(self.queued[key][0], is_new)

    async def newest_of(self, unique_key: str) -> Job | None:
        """The job with a key."""
        found = self.queued.get(unique_key)
        return None if found is None else found[0]


class MemoryAccounts:
    """Accounts as they are told."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend

    async def read(self, account_id: str) -> AccountView:
        """Read one."""
        if account_id not in self._backend.book.accounts:
            raise Refused("account_not_found")
        return account_view(self._backend.book.accounts[account_id], None, INSTANT)


class House:
    """A server with a user who has 5,000.00 in an account, somebody else, support and an admin."""

    def __init__(self, adapter: str = "plain", rules: PaymentRules | None = None, **settings: Any) -> None:
        kind, _, slowly = adapter.partition(", ")
        self.backend = MemoryBackend(Settings(**settings), slowly=bool(slowly))
        self.store, self.desk = MemoryStore(self.backend), MemoryDesk()
        self.backend.payments = Payments(
            self.store,
            PaymentRules() if rules is None else rules,
            "USD",
            self.backend.submit,
            self.desk,
            self.backend.new_id,
            None,
        )
        self.backend.accounts = MemoryAccounts(self.backend)
        self.server = Server(self.backend, plain=kind == "plain")
        self.user_id, self.account = self.server.user_id, self.server.account.account_id
        self.jwt = self.backend.log_in("user", self.user_id)
        stranger = self.backend.new_id()
        strange, self.strange_token = self.backend.open_account(stranger)
        self.strange, self.strange_id = strange.account_id, stranger
        self.strange_jwt = self.backend.log_in("user", stranger)
        self.support = self.backend.log_in("support")
        self.admin = self.backend.admin_token
        self.state.balance = 500_000

    @property
    def state(self) -> Any:
        """The account in the book."""
        return self.backend.book.accounts[self.account]

    def ask(
        self, method: str, path: str, body: object = None, token: str | None = None, key: str | None = None
    ) -> Reply:
        """Ask as the user, unless another token is given."""
        headers = {"Idempotency-Key": key}
        return self.server.ask(method, f"/api/payments{path}", body, headers, token=token or self.jwt)

    def form(self, **more: Any) -> dict[str, Any]:
        """What a client asks for; None leaves a field out."""
        given = {
            "amount": "100.50",
            "direction": "DEBIT",
            "payment_type": "PAYMENT",
            "description": "Coffee shop payment",
            "user_bank_account_id": self.account,
        }
        return {name: value for name, value in {**given, **more}.items() if value is not None}

    def create(self, token: str | None = None, **more: Any) -> Reply:
        """Make a payment."""
        return self.ask("POST", "", self.form(**more), token)

    def make(self, **more: Any) -> str:
        """Make one, and return its id."""
        reply = self.create(**more)
        assert reply.status == 201, reply.body
        payment_id: str = reply.data["id"]
        return payment_id

    def validate(self, token: str | None = None, **more: Any) -> Reply:
        """Check one."""
        return self.ask("POST", "/validate", self.form(**more), token)

    def process(self, payment_id: str, token: str | None = None, key: str | None = None) -> Reply:
        """Process one."""
        return self.ask("POST", f"/{payment_id}/process", None, token, key)

    def cancel(self, payment_id: str, token: str | None = None) -> Reply:
        """Cancel one."""
        return self.ask("POST", f"/{payment_id}/cancel", None, token)

    def schedule(self, payment_id: str, token: str | None = None, **how: object) -> Reply:
        """Queue one."""
        return self.ask("POST", f"/{payment_id}/schedule", how, token)


def rules(limit: str = "10000", daily: str = "1000", window: int = 300) -> PaymentRules:
    """Rules for CHECKING accounts."""
    return PaymentRules(Decimal(limit), {"CHECKING": Decimal(daily)}, window)

"""Payments: made, read, judged and scheduled; the writer ends them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ledger.domain.commands import Command, Replayed, Sealed
from ledger.domain.errors import Refused
from ledger.domain.jobs import ORDINARY, Job
from ledger.domain.money import asset_named, asset_of, format_amount
from ledger.domain.payment_commands import CancelPayment, FailPayment, ProcessPayment, ended_already, key_of
from ledger.domain.payments import (
    Nature,
    Payment,
    PaymentRules,
    PaymentTold,
    Standing,
    is_duplicate,
    payment_told,
    require_processable,
    require_within_limit,
)
from ledger.services.settling import is_in_doubt, settled
from ledger.store.job_desk import Queued
from ledger.store.payments import NEWEST_FIRST, AccountsHeld, Order, PaymentFilter

log = Logger()

WORKER: Final = "payment"  # the name of the worker that processes payments
UNIQUE_FOR: Final = 60.0
RECENT: Final = 10


class Store(Protocol):
    """Where payments are kept."""

    async def add(self, payment_id: str, nature: Nature) -> Payment: ...
    async def was_added(self, payment_id: str) -> bool | None: ...
    async def find(self, payment_id: str) -> Payment | None: ...
    async def page(
        self, user_id: str, wanted: PaymentFilter, order: Order, limit: int, offset: int
    ) -> tuple[list[Payment], int]: ...
    async def standing(self, nature: Nature, payment_id: str | None = None) -> Standing | None: ...
    async def accounts_held(self, user_id: str) -> AccountsHeld | None: ...


class Desk(Protocol):
    """Where jobs are queued."""

    async def enqueue(self, worker: str, args: Mapping[str, Any], **how: Any) -> Queued: ...
    async def newest_of(self, unique_key: str) -> Job | None: ...


class FinancialHealth(msgspec.Struct, frozen=True):
    """How a user does: accounts, and what they hold; `total_balance` is in `currency`, `balances` tells them all."""

    user_id: str
    currency: str
    total_balance: str
    balances: dict[str, str]
    total_accounts: int
    active_accounts: int
    frozen_accounts: int
    suspended_accounts: int
    is_healthy: bool
    can_make_payments: bool


class PaymentStats(msgspec.Struct, frozen=True):
    """How a user does, and the newest payments."""

    financial_health: FinancialHealth
    recent_payments: list[PaymentTold]


class PaymentStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a payment stands: whether it would be processed if that were asked now, and its last job."""

    payment: PaymentTold
    can_process: bool
    is_duplicate: bool
    job: Job | None = None


class Payments:
    """What can be done with payments; who may do it is decided elsewhere."""

    def __init__(
        self,
        store: Store,
        rules: PaymentRules,
        currency: str,
        submit: Callable[[Command], Deferred[Sealed | Replayed]],
        desk: Desk,
        new_id: Callable[[], str],
        reactor: Any,
    ) -> None:
        """`currency` is the one that totals are told in."""
        self._store = store
        self._rules = rules
        self._currency = currency
        self._submit = submit
        self._desk = desk
        self._new_id = new_id
        self._reactor = reactor

    async def create(self, nature: Nature) -> Payment:
        """Make a payment, pending, or refuse one whose account is not active or that is above the limit."""
        standing = await self._standing(nature)
        standing.account.require_active()
        require_within_limit(self._rules, nature)
        payment_id = self._new_id()
        try:
            return await self._store.add(payment_id, nature)
        except Refused as refused:
            if not is_in_doubt(refused):
                raise
            log.warn("The connection died in the commit of payment {payment_id}", payment_id=payment_id)
            was_added, find = partial(self._store.was_added, payment_id), partial(self._store.find, payment_id)
            return await settled(was_added, find, self._reactor)

    async def find(self, payment_id: str) -> Payment:
        """Return a payment, or refuse with `payment_not_found`."""
        payment = await self._store.find(payment_id)
        if payment is None:
            raise Refused("payment_not_found")
        return payment

    async def page(
        self, user_id: str, wanted: PaymentFilter, order: Order, limit: int, offset: int
    ) -> tuple[list[Payment], int]:
        """Return a stretch of a user's payments, and how many there are in all."""
        return await self._store.page(user_id, wanted, order or NEWEST_FIRST, limit, offset)

    async def verdict(self, nature: Nature) -> Refused | None:
        """Return the first rule that a payment would break if it were made and processed now; nothing is written."""
        return self._judged(nature, await self._standing(nature))

    async def process(self, payment: Payment, scope: str | None = None, key: str | None = None) -> tuple[bytes, bool]:
        """Post a payment, and return the answer and whether it is that of an earlier request with this key.

        Where the client gave no key, the payment's own stands in its place, and a second request is refused.
        """
        command = ProcessPayment(
            id=self._new_id(),
            scope=payment.user_id if key is None else scope,
            key=key_of(payment.id) if key is None else key,
            description=payment.description,
            payment=payment,
            rules=self._rules,
        )
        outcome = await self._submit(command)
        is_replay = isinstance(outcome, Replayed)
        if is_replay and key is None:
            raise ended_already(payment.id, "COMPLETED", outcome.record.id)
        return command.answer(outcome.record), is_replay

    async def cancel(self, payment: Payment) -> bytes:
        """End a pending payment that is not wanted any more."""
        command = CancelPayment(id=self._new_id(), description=payment.description, payment=payment)
        outcome = await self._submit(command)
        return command.answer(outcome.record)

    async def fail(self, payment: Payment, reason: str) -> None:
        """End a pending payment that cannot be processed."""
        await self._submit(
            FailPayment(id=self._new_id(), description=payment.description, payment=payment, reason=reason)
        )

    async def status(self, payment: Payment) -> PaymentStatus:
        """Tell where a payment stands."""
        standing = await self._standing(payment, payment.id)
        return PaymentStatus(
            payment=payment_told(payment),
            can_process=payment.status == "PENDING" and self._judged(payment, standing) is None,
            is_duplicate=is_duplicate(self._rules, standing.twin, standing.instant),
            job=await self._desk.newest_of(key_of(payment.id)),
        )

    async def schedule(self, payment: Payment, priority: int | None, delay: float) -> Job:
        """Queue a pending payment, unless it was within the last minute; returns the job."""
        if payment.status not in ("PENDING", "PROCESSING"):
            raise ended_already(payment.id, payment.status, payment.transfer_id)
        queued = await self._desk.enqueue(
            WORKER,
            {"payment_id": payment.id},
            priority=ORDINARY if priority is None else priority,
            delay=delay,
            unique_key=key_of(payment.id),
            unique_for=UNIQUE_FOR,
        )
        return queued.job

    async def stats(self, user_id: str) -> PaymentStats:
        """Tell how a user does, or refuse with `user_not_found`."""
        held = await self._store.accounts_held(user_id)
        if held is None:
            raise Refused("user_not_found")
        recent, _ = await self._store.page(user_id, PaymentFilter(), NEWEST_FIRST, RECENT, 0)
        return PaymentStats(self._health(user_id, held), [payment_told(payment) for payment in recent])

    def _judged(self, nature: Nature, standing: Standing) -> Refused | None:
        try:
            require_processable(self._rules, nature, standing)
        except Refused as refused:
            return refused
        return None

    async def _standing(self, nature: Nature, payment_id: str | None = None) -> Standing:
        standing = await self._store.standing(nature, payment_id)
        if standing is None:
            raise Refused("account_not_found")
        return standing

    def _health(self, user_id: str, held: AccountsHeld) -> FinancialHealth:
        own = asset_of(self._currency)
        statuses, balances = held.statuses, held.balances
        active = statuses.get("ACTIVE", 0)
        is_in_credit = any(amount > 0 for amount in balances.values()) and min(balances.values()) >= 0
        assets = {name: asset_named(name) for name in sorted(balances)}
        return FinancialHealth(
            user_id=user_id,
            currency=own.code,
            total_balance=format_amount(balances.get(own.name, 0), own.scale),
            balances={asset.code: format_amount(balances[name], asset.scale) for name, asset in assets.items()},
            total_accounts=sum(statuses.values()),
            active_accounts=active,
            frozen_accounts=statuses.get("FROZEN", 0),
            suspended_accounts=statuses.get("SUSPENDED", 0),
            is_healthy=active > 0 and is_in_credit,
            can_make_payments=active > 0,
        )

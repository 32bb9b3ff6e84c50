"""Payments over a real database: users who pay, and processes that run their jobs."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ledger.domain.accounts import world_id
from ledger.domain.cash import Credit
from ledger.domain.commands import Sealed
from ledger.domain.payments import Nature, Payment, PaymentRules
from ledger.services.ids import new_id
from ledger.services.job_desk import JobDesk
from ledger.services.jobs import Jobs
from ledger.services.listener import Listener
from ledger.services.outbound import Breakers
from ledger.services.payment_worker import PaymentWorker
from ledger.services.payments import Payments
from ledger.services.workers import Workers
from ledger.store.jobs import CHANNEL
from ledger.store.payments import PaymentStore
from ledger.store.pool import Pool
from tests.postgres.house import House, reactor

PLENTY = 10**8


class Till:
    """The payments of a house; its user has an account of each type that is asked for, with money in it."""

    def __init__(self, house: House, rules: PaymentRules) -> None:
        self.house = house
        self.store = PaymentStore(house.pool)
        self.workers = Workers()
        self.desk = JobDesk(house.pool, self.workers, [], Breakers(reactor, random.random), new_id, reactor)
        self.payments = Payments(
            self.store, rules, "USD", lambda command: house.writer.submit(command), self.desk, new_id, reactor
        )
        self.workers.add(PaymentWorker(self.payments))
        self.user_id = self.user()
        self.account_id = ""

    def user(self) -> str:
        """Put a user in."""
        user_id = new_id()
        self.house.sql(
            "INSERT INTO users (id, email, full_name, password_hash) VALUES (%s, %s, 'Somebody', '!')",
            *(user_id, f"{user_id}@example.com"),
        )
        return user_id

    async def account(
        self, balance: int = PLENTY, user_id: str | None = None, account_type: str = "CHECKING", asset: str = "USD/2"
    ) -> str:
        """Open an account with something in it."""
        account_id = new_id()
        self.house.sql(
            "INSERT INTO accounts (id, asset, type) VALUES (%s, %s, 'WORLD') ON CONFLICT (id) DO NOTHING",
            *(world_id(asset), asset),
        )
        self.house.sql(
            "INSERT INTO accounts (id, user_id, asset, type) VALUES (%s, %s, %s, %s)",
            *(account_id, user_id or self.user_id, asset, account_type),
        )
        if balance:
            credit = Credit(id=new_id(), account_id=account_id, user_id=self.user_id, asset=asset, amount=balance)
            (outcome,) = await self.house.submit(credit)
            assert isinstance(outcome, Sealed)
        return account_id

    def nature(self, amount: int = 1_000, description: str | None = None, **more: Any) -> Nature:
        """A payment of 10.00 out of the account, that is like no other unless it is told to be."""
        given: dict[str, Any] = {
            "user_id": self.user_id,
            "account_id": self.account_id,
            "asset": "USD/2",
            "amount": amount,
            "direction": "DEBIT",
            "payment_type": "PAYMENT",
            "description": description or new_id(),
        }
        return Nature(**{**given, **more})

    async def make(self, amount: int = 1_000, description: str | None = None, **more: Any) -> Payment:
        """Make it."""
        return await self.payments.create(self.nature(amount, description, **more))

    async def schedule(self, payment: Payment, **how: Any) -> str:
        """Queue a job for a payment; returns the job's id."""
        job = await self.payments.schedule(payment, how.get("priority"), how.get("delay", 0.0))
        return job.id

    def posted(self) -> dict[str, int]:
        """How many records there are that moved money for each payment."""
        return dict(
            self.house.sql(
                "SELECT body::json #>> '{metadata,payment}', count(*) FROM journal WHERE kind = 'payment' GROUP BY 1"
            )
        )

    def statuses(self) -> dict[str, str]:
        """What is kept of each payment."""
        return dict(self.house.sql("SELECT id::text, status FROM payments"))

    def balance(self, account_id: str | None = None) -> int:
        """What is in an account."""
        ((balance,),) = self.house.sql("SELECT balance FROM accounts WHERE id = %s", account_id or self.account_id)
        return int(balance)

    def jobs(self) -> list[str]:
        """The states of all jobs."""
        return [state for (state,) in self.house.sql("SELECT state FROM jobs ORDER BY id")]

    @asynccontextmanager
    async def process(self, *workers: Any, lease: float = 30.0, patience: float = 5.0) -> AsyncIterator[Jobs]:
        """One process that runs jobs for the length of the block."""
        pool = Pool(reactor, self.house.url, 2)
        known = Workers(*workers) if workers else self.workers
        jobs = Jobs(pool, known, {"payments": 2}, reactor, random.random, lease=lease, patience=patience)
        listener = Listener(self.house.url, reactor)
        listener.on(CHANNEL, jobs.heard)
        listener.tell(jobs)
        pool.open()
        await listener.start()
        await jobs.start()
        try:
            yield jobs
        finally:
            await jobs.stop()
            listener.stop()
            pool.close()


async def till_of(house: House, rules: PaymentRules | None = None, balance: int = PLENTY) -> Till:
    """The payments of a house, with one account."""
    till = Till(house, PaymentRules() if rules is None else rules)
    till.account_id = await till.account(balance)
    return till

"""Payment jobs killed at every point: always exactly one posted transfer, or none and a reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from ledger.domain.book import Book
from ledger.domain.commands import Command, Sealed
from ledger.domain.errors import Refused
from ledger.domain.jobs import Cancel
from ledger.domain.payment_commands import FailPayment
from ledger.domain.payments import Payment
from ledger.services.payment_worker import PaymentWorker
from ledger.store.jobs import JobStore
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, pause, until
from tests.postgres.payers import PLENTY, Till, till_of
from tests.postgres.test_faults import _IN_COMMIT, make_commits_wait, session, waits_in_commit

SHORT = 0.3  # seconds of a lease that is soon lost


class Dying(PaymentWorker):
    """A worker whose process goes no further from some point on: nothing more is heard of it."""

    def __init__(self, till: Till, dies: str) -> None:
        super().__init__(till.payments)
        self.dies = dies
        self.dead = 0
        self._gate: Deferred[None] = Deferred()

    async def run(self, args: Mapping[str, Any]) -> None:
        """Die before it has begun, or with all of it done."""
        if self.dies == "before it begins":
            await self._die()
        await super().run(args)
        if self.dies == "after the commit":
            await self._die()

    async def gave_up(self, args: Mapping[str, Any], refused: Refused) -> None:
        """Die before the payment fails, or after that."""
        if self.dies == "before it fails":
            await self._die()
        await super().gave_up(args, refused)
        await self._die()

    async def _die(self) -> None:
        self.dead += 1
        await self._gate

    def bury(self) -> None:
        """Let go what still waits in it; nothing comes of that any more."""
        self._gate.errback(Refused("timeout"))


async def check_posted_once(till: Till, payment: Payment) -> None:
    """Check that the payment is completed, by one record, and that all is well."""
    assert till.statuses()[payment.id] == "COMPLETED"
    assert till.posted() == {payment.id: 1}
    assert till.balance() == PLENTY - payment.amount
    assert till.house.sql("SELECT count(*) FROM journal WHERE kind LIKE 'payment%'") == [(1,)]
    await till.house.check_clean()


async def check_failed(till: Till, payment: Payment, reason: str) -> None:
    """Check that nothing was posted, and that the payment says why."""
    now = await till.payments.find(payment.id)
    assert (now.status, now.failure_reason, till.posted()) == ("FAILED", reason, {})
    assert till.house.sql("SELECT kind FROM journal WHERE kind LIKE 'payment%'") == [("payment_failure",)]
    await till.house.check_clean()


@on_reactor
async def test_killed_before_the_claim(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        payment = await till.make()
        await till.schedule(payment)
        assert till.jobs() == ["available"]
        async with till.process():
            await until(lambda: till.jobs() == ["completed"])
        await check_posted_once(till, payment)


@pytest.mark.parametrize("dies", ["before it begins", "after the commit"])
@on_reactor
async def test_killed_after_the_claim(database_url: str, database_server: DatabaseServer, dies: str) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        payment, doomed = await till.make(), Dying(till, dies)
        await till.schedule(payment)
        async with till.process(doomed, patience=0.05):
            await until(lambda: doomed.dead)
            shown = await till.payments.find(payment.id)
            assert shown.status == ("PROCESSING" if dies == "before it begins" else "COMPLETED")
        # What is left of the process is a lease that nobody renews.
        house.sql("UPDATE jobs SET state = 'executing', completed_at = NULL, leased_until = now() - interval '1 s'")
        async with till.process():
            await until(lambda: till.jobs() == ["completed"])
        await check_posted_once(till, payment)
        doomed.bury()


@on_reactor
async def test_a_claim_that_was_never_heard_of_again(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        payment = await till.make()
        await till.schedule(payment)
        (claimed,) = await JobStore(house.pool, ["payment"], lease=SHORT).claim("payments", 1)
        assert claimed.args == {"payment_id": payment.id}
        assert (await till.payments.find(payment.id)).status == "PROCESSING"
        async with till.process():
            await until(lambda: till.jobs() == ["completed"])
        await check_posted_once(till, payment)


@on_reactor
async def test_killed_in_the_transaction(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        payment = await till.make()
        append = house.store.append

        async def killed(book: Book, batch: Sequence[Sealed], refused: Sequence[Command] = ()) -> None:
            monkeypatch.setattr(house.store, "append", append)
            house.kill(house.backend_of_writer())
            await append(book, batch, refused)

        monkeypatch.setattr(house.store, "append", killed)
        job_id = await till.schedule(payment)
        async with till.process():
            await until(lambda: till.jobs() == ["completed"])
        reasons = [error["reason"] for error in (await till.desk.find(job_id)).errors]
        assert reasons == ["service_unavailable"]
        await check_posted_once(till, payment)


@on_reactor
async def test_killed_in_the_commit_which_is_undone(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        payment = await till.make()
        make_commits_wait(house)
        with session(database_url) as other:
            other.execute("SELECT pg_advisory_xact_lock(%s)", (_IN_COMMIT,))
            job_id = await till.schedule(payment)
            async with till.process():
                await until(lambda: waits_in_commit(house))
                house.kill(house.backend_of_writer())
                other.connection.rollback()
                await until(lambda: till.jobs() == ["completed"])
        reasons = [error["reason"] for error in (await till.desk.find(job_id)).errors]
        assert reasons == ["service_unavailable"]
        await check_posted_once(till, payment)


@on_reactor
async def test_cut_off_in_the_commit_which_goes_through(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        payment = await till.make()
        make_commits_wait(house)
        with session(database_url) as other:
            other.execute("SELECT pg_advisory_xact_lock(%s)", (_IN_COMMIT,))
            job_id = await till.schedule(payment)
            async with till.process():
                await until(lambda: waits_in_commit(house))
                house.store.session.close()
                for _ in range(10):
                    await pause()
                assert till.jobs() == ["executing"]
                other.connection.rollback()
                await until(lambda: till.jobs() == ["completed"])
        assert (await till.desk.find(job_id)).errors == []
        await check_posted_once(till, payment)


@on_reactor
async def test_the_worker_is_left_behind_in_the_commit(database_url: str, database_server: DatabaseServer) -> None:
    """Its time is up while the commit waits; the next attempt is told that it was done."""
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        payment = await till.make()
        make_commits_wait(house)
        with session(database_url) as other:
            other.execute("SELECT pg_advisory_xact_lock(%s)", (_IN_COMMIT,))
            await till.payments.schedule(payment, None, 0)
            house.sql("UPDATE jobs SET timeout = 0.2")
            async with till.process():
                await until(lambda: till.jobs() == ["retryable"])
                other.connection.rollback()
                await until(lambda: till.jobs() == ["completed"])
        await check_posted_once(till, payment)


@on_reactor
async def test_a_business_rule_fails_it_at_once(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house, balance=999)
        payment = await till.make()
        assert isinstance(await till.payments.verdict(payment), Refused)
        job_id = await till.schedule(payment)
        async with till.process():
            await until(lambda: till.jobs() == ["dead"])
        job = await till.desk.find(job_id)
        assert [(error["attempt"], error["reason"]) for error in job.errors] == [(1, "insufficient_funds")]
        await check_failed(till, payment, "insufficient_funds")
        # Once more, by an admin: it has ended, and the job ends quietly.
        await till.desk.retry(job_id)
        async with till.process():
            await until(lambda: till.jobs() == ["cancelled"])
        await check_failed(till, payment, "insufficient_funds")


@pytest.mark.parametrize("dies", ["before it fails", "after it fails"])
@on_reactor
async def test_killed_while_it_is_given_up(database_url: str, database_server: DatabaseServer, dies: str) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house, balance=999)
        payment, doomed = await till.make(), Dying(till, dies)
        await till.schedule(payment)
        async with till.process(doomed, patience=0.05):
            await until(lambda: doomed.dead)
        # There is enough by now, but the end of the job is decided.
        await till.account(0)
        await till.payments.process(await till.make(500, direction="CREDIT"))
        async with till.process():
            await until(lambda: till.jobs() == ["dead"])
        now = await till.payments.find(payment.id)
        assert (now.status, now.failure_reason) == ("FAILED", "insufficient_funds")
        assert payment.id not in till.posted()
        assert house.sql("SELECT count(*) FROM journal WHERE kind = 'payment_failure'") == [(1,)]
        await house.check_clean()
        doomed.bury()


@on_reactor
async def test_it_is_given_up_when_somebody_has_processed_it(
    database_url: str, database_server: DatabaseServer
) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        payment = await till.make()
        await till.payments.process(payment)
        worker = PaymentWorker(till.payments)
        await worker.gave_up({"payment_id": payment.id}, Refused("timeout"))
        await worker.run({"payment_id": payment.id})
        await check_posted_once(till, payment)
        gone = {"payment_id": "01900000-0000-7000-8000-ffffffffffff"}
        await worker.gave_up(gone, Refused("payment_not_found"))
        with pytest.raises(Refused, match="does not exist"):
            await worker.run(gone)


@on_reactor
async def test_a_cancelled_payment_ends_its_job_quietly(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        payment = await till.make()
        job_id = await till.schedule(payment)
        await till.payments.cancel(payment)
        async with till.process():
            await until(lambda: till.jobs() == ["cancelled"])
        assert [error["reason"] for error in (await till.desk.find(job_id)).errors] == ["cancelled"]
        assert (till.posted(), till.statuses()) == ({}, {payment.id: "CANCELLED"})
        await house.check_clean()


@on_reactor
async def test_cancelled_between_the_look_and_the_post(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        payment = await till.make()
        process = till.payments.process

        async def overtaken(one: Payment) -> tuple[bytes, bool]:
            await till.payments.cancel(one)
            return await process(one)

        monkeypatch.setattr(till.payments, "process", overtaken)
        with pytest.raises(Cancel, match="CANCELLED"):
            await PaymentWorker(till.payments).run({"payment_id": payment.id})
        assert till.posted() == {}


@on_reactor
async def test_the_database_is_away_until_all_attempts_are_used_up(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        payment = await till.make()
        submit = till.payments._submit

        def refusing(command: Command) -> Any:
            if isinstance(command, FailPayment):
                return submit(command)
            failed: Deferred[Any] = Deferred()
            failed.errback(Refused("service_unavailable", outcome="not_done"))
            return failed

        monkeypatch.setattr(till.payments, "_submit", refusing)
        job_id = await till.schedule(payment)
        async with till.process():
            for attempt in (1, 2, 3):
                await until(lambda: till.jobs() == ["retryable"])
                assert (await till.desk.find(job_id)).attempt == attempt
                assert till.statuses()[payment.id] == "PENDING"
                await till.desk.retry(job_id)
                await until(lambda: till.jobs() != ["available"])
            await until(lambda: till.jobs() == ["dead"])
        await check_failed(till, payment, "service_unavailable")


@on_reactor
async def test_many_at_once_over_three_processes(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        made = [await till.make(100 + n % 7, direction="CREDIT") for n in range(60)]
        for payment in made:
            await till.schedule(payment)
        async with till.process(lease=SHORT), till.process(), till.process():
            house.sql(
                "UPDATE jobs SET state = 'available', leased_until = NULL, fence = fence + 1 WHERE state = 'executing'"
            )
            await until(lambda: set(till.jobs()) == {"completed"}, 60)
        assert till.posted() == {payment.id: 1 for payment in made}
        assert set(till.statuses().values()) == {"COMPLETED"}
        assert till.balance() == PLENTY + sum(payment.amount for payment in made)
        await house.check_clean()

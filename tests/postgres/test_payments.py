"""Payments over a real database: each is ended once, whoever is at it at the same time, and the rules hold exactly."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Any

import psycopg2
import pytest
from twisted.internet.defer import Deferred, gatherResults

from ledger.domain.errors import Refused
from ledger.domain.payment_commands import SPENT
from ledger.domain.payments import Payment, PaymentRules
from ledger.services.ids import new_id
from ledger.services.payments import Payments
from ledger.store.facts import SOURCES
from ledger.store.jobs import JobStore
from ledger.store.journal import JournalWriter
from ledger.store.payments import NEWEST_FIRST, PaymentFilter
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, reactor, refusal_of, until
from tests.postgres.payers import PLENTY, Till, till_of
from tests.postgres.test_jobs_speed import most_rows

UNKNOWN = "01900000-0000-7000-8000-ffffffffffff"


async def reason_of(work: Awaitable[Any]) -> str:
    """Why it was refused, or that it was done."""
    try:
        await work
    except Refused as refused:
        return refused.reason
    return "done"


async def together(work: Iterable[Awaitable[Any]]) -> list[str]:
    """What becomes of things that are asked for at once."""
    return list(await gatherResults([Deferred.fromCoroutine(reason_of(one)) for one in work]))


@on_reactor
async def test_a_payment_from_made_to_completed(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house, balance=5_000)
        made = await till.make(1_250, "coffee")
        assert (made.status, made.posted_at, made.transfer_id) == ("PENDING", None, None)
        assert made.inserted_at == made.updated_at
        assert till.balance() == 5_000
        assert await till.payments.find(made.id) == made
        told, is_replay = await till.payments.process(made)
        assert not is_replay
        now = await till.payments.find(made.id)
        assert (now.status, now.posted_at) == ("COMPLETED", now.updated_at)
        for text in (made.id, now.transfer_id, now.posted_at, '"12.50"', '"COMPLETED"'):
            assert str(text).encode() in told
        assert till.balance() == 3_750
        ((key, scope, kind),) = house.sql("SELECT key, scope::text, kind FROM journal WHERE id = %s", now.transfer_id)
        assert (key, scope, kind) == (f"payment:{made.id}", till.user_id, "payment")
        await house.check_clean()


@on_reactor
async def test_two_processes_at_once_one_wins(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        second = house.new_writer(JournalWriter(reactor, house.url))
        await second.start()
        try:
            other = Payments(till.store, PaymentRules(), "USD", second.submit, till.desk, new_id, reactor)
            for _ in range(10):
                payment = await till.make()
                outcomes = await together(
                    [payments.process(payment) for payments in (till.payments, other, till.payments, other)]
                )
                assert sorted(outcomes) == ["already_processed"] * 3 + ["done"]
        finally:
            await second.stop()
        assert set(till.posted().values()) == {1}
        assert till.balance() == PLENTY - 10_000
        await house.check_clean()


@on_reactor
async def test_a_client_with_a_key_is_told_the_same_again(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        one, two = await till.make(), await till.make()
        told, is_replay = await till.payments.process(one, till.user_id, "my key")
        assert not is_replay
        assert await till.payments.process(one, till.user_id, "my key") == (told, True)
        refused = await refusal_of(till.payments.process(two, till.user_id, "my key"))
        assert (refused.reason, set(refused.details)) == ("duplicate_transaction", {"transfer_id"})
        for key in (None, "other"):
            refused = await refusal_of(till.payments.process(one, till.user_id, key))
            assert (refused.reason, refused.details["status"]) == ("already_processed", "COMPLETED")
        assert await reason_of(till.payments.process(two)) == "done"
        assert set(till.posted().values()) == {1}


@on_reactor
async def test_the_daily_limit_under_fifty_at_once(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server, batch=7) as house:
        till = await till_of(house)
        second = house.new_writer(JournalWriter(reactor, house.url))
        await second.start()
        try:
            other = Payments(till.store, PaymentRules(), "USD", second.submit, till.desk, new_id, reactor)
            made = [await till.make(9_000) for _ in range(50)]
            doors = (till.payments, other)
            outcomes = await together([doors[n % 2].process(payment) for n, payment in enumerate(made)])
        finally:
            await second.stop()
        assert sorted(outcomes) == ["daily_limit_exceeded"] * 39 + ["done"] * 11
        assert till.balance() == PLENTY - 99_000
        assert await reason_of(till.payments.process(await till.make(1_000))) == "done"
        assert await reason_of(till.payments.process(await till.make(1))) == "daily_limit_exceeded"
        # Credits are held to no daily limit, and another account has a day of its own.
        assert await reason_of(till.payments.process(await till.make(5, direction="CREDIT"))) == "done"
        savings = await till.account(account_type="SAVINGS")
        assert await reason_of(till.payments.process(await till.make(50_000, account_id=savings))) == "done"
        assert await reason_of(till.payments.process(await till.make(1, account_id=savings))) == "daily_limit_exceeded"
        await house.check_clean()


def put_completed(
    till: Till, posted_at: str, amount: int, description: str = "old", paid_in_day: int | None = None
) -> None:
    """Put a payment in that was completed at an instant, as the database would say it."""
    till.house.sql(
        f"""INSERT INTO payments (id, user_id, account_id, amount, direction, payment_type, description, status,
                                  posted_at, transfer_id, seq, paid_in_day)
            SELECT gen_random_uuid(), %s, %s, %s, 'DEBIT', 'PAYMENT', %s, 'COMPLETED', {posted_at},
                   gen_random_uuid(), (SELECT count(*) - 100 FROM payments), %s""",
        *(till.user_id, till.account_id, amount, description, paid_in_day or amount),
    )


@on_reactor
async def test_what_was_paid_yesterday_does_not_count(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        today = "date_trunc('day', now(), 'UTC')"
        put_completed(till, f"{today} - interval '1 microsecond'", 100_000)
        put_completed(till, today, 40_000)
        put_completed(till, "now()", 20_000, paid_in_day=60_000)
        for amount, expected in ((40_001, "daily_limit_exceeded"), (40_000, "done"), (1, "daily_limit_exceeded")):
            payment = await till.make(amount)
            verdict = await till.payments.verdict(payment)
            assert (verdict.reason if verdict else "done") == expected
            assert await reason_of(till.payments.process(payment)) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(290, "duplicate_transaction"), (301, "done")])
@on_reactor
async def test_duplicates_by_what_is_kept(
    database_url: str, database_server: DatabaseServer, seconds: int, expected: str
) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        put_completed(till, f"now() - interval '{seconds} s'", 700, "tea")
        put_completed(till, "now() - interval '1000 s'", 700, "tea")
        put_completed(till, "now()", 701, "tea")
        payment = await till.make(700, "tea")
        status = await till.payments.status(payment)
        assert status.is_duplicate is (expected != "done")
        assert status.can_process is (expected == "done")
        assert await reason_of(till.payments.process(payment)) == expected
        if expected == "done":
            assert not (await till.payments.status(await till.payments.find(payment.id))).is_duplicate  # never itself
            assert (await till.payments.status(await till.make(700, "tea"))).is_duplicate


@on_reactor
async def test_duplicates_in_one_batch(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        made = [await till.make(300, "lunch \N{SNOWMAN} 'and', \"more\" {}") for _ in range(8)]
        heads = len(house.kept())
        assert sorted(await together(map(till.payments.process, made))) == ["done"] + ["duplicate_transaction"] * 7
        assert len(house.kept()) == heads + 1
        assert sorted(till.statuses().values()) == ["COMPLETED"] + ["PENDING"] * 7


@on_reactor
async def test_cancelling_against_processing(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        for n in range(10):
            payment = await till.make()
            work = [till.payments.process(payment), till.payments.cancel(payment)]
            outcomes = await together(work if n % 2 else reversed(work))
            assert sorted(outcomes) == ["already_processed", "done"]
        statuses = list(till.statuses().values())
        assert sorted(statuses) == ["CANCELLED"] * statuses.count("CANCELLED") + ["COMPLETED"] * len(till.posted())
        assert till.balance() == PLENTY - 1_000 * len(till.posted())
        await house.check_clean()


@on_reactor
async def test_what_ends_a_payment_ends_it_for_good(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        cancelled, failed, waiting = [await till.make() for _ in range(3)]
        await till.payments.cancel(cancelled)
        await till.payments.fail(failed, "account_frozen")
        assert (await till.payments.find(failed.id)).failure_reason == "account_frozen"
        for payment, status in ((cancelled, "CANCELLED"), (failed, "FAILED")):
            for work in (till.payments.process(payment), till.payments.cancel(payment)):
                refused = await refusal_of(work)
                assert (refused.reason, refused.details["status"]) == ("already_processed", status)
            refused = await refusal_of(till.payments.schedule(await till.payments.find(payment.id), None, 0))
            assert refused.reason == "already_processed"
        for statement in (
            f"UPDATE payments SET status = 'COMPLETED' WHERE id = '{failed.id}'",
            f"UPDATE payments SET amount = 1 WHERE id = '{waiting.id}'",
            f"UPDATE payments SET status = 'COMPLETED' WHERE id = '{waiting.id}'",
            f"DELETE FROM payments WHERE id = '{waiting.id}'",
            "TRUNCATE payments",
        ):
            with pytest.raises(psycopg2.IntegrityError):
                house.sql(statement)
        assert await refusal_of(till.payments.find(UNKNOWN))
        await house.check_clean()


@on_reactor
async def test_what_cannot_be_made(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        assert (await refusal_of(till.make(account_id=UNKNOWN))).reason == "account_not_found"
        assert (await refusal_of(till.make(1_000_001))).reason == "amount_exceeds_limit"
        assert (await refusal_of(till.make(10**30))).reason == "amount_exceeds_limit"
        house.sql("UPDATE accounts SET status = 'SUSPENDED' WHERE id = %s", till.account_id)
        assert (await refusal_of(till.make())).reason == "account_suspended"
        assert till.statuses() == {}


@on_reactor
async def test_a_payment_whose_commit_was_not_answered_is_there_once(
    database_url: str, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        add = till.store.add

        async def doubtful(payment_id: str, nature: Any) -> Payment:
            if nature.description == "made":
                await add(payment_id, nature)
            raise Refused("service_unavailable", outcome="unknown")

        monkeypatch.setattr(till.store, "add", doubtful)
        made = await till.make(700, "made")
        assert till.statuses() == {made.id: "PENDING"}
        refused = await refusal_of(till.make(700, "lost"))
        assert (refused.reason, refused.details["outcome"]) == ("service_unavailable", "not_done")


async def told_of(till: Till, wanted: PaymentFilter, limit: int = 100, offset: int = 0) -> tuple[list[str], int]:
    """The descriptions of a page, and the total."""
    found, total = await till.payments.page(till.user_id, wanted, NEWEST_FIRST, limit, offset)
    return [payment.description for payment in found], total


@on_reactor
async def test_lists_by_filter_and_page(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        other = till.user()
        await till.make(user_id=other, account_id=await till.account(0, other))
        types = ("TRANSFER", "PAYMENT", "DEPOSIT", "WITHDRAWAL")
        made = [
            await till.make(100 + n, str(n), direction="CREDIT" if n % 2 else "DEBIT", payment_type=types[n % 4])
            for n in range(9)
        ]
        await till.payments.process(made[0])
        await till.payments.cancel(made[1])
        await till.payments.fail(made[2], "timeout")
        await till.schedule(made[3])
        await JobStore(house.pool, ["payment"]).claim("payments", 1)
        assert await told_of(till, PaymentFilter()) == ([str(n) for n in range(8, -1, -1)], 9)
        assert await told_of(till, PaymentFilter(), 4, 4) == (["4", "3", "2", "1"], 9)
        assert await told_of(till, PaymentFilter(), 4, 2**70) == ([], 9)
        assert await told_of(till, PaymentFilter(direction="CREDIT")) == (["7", "5", "3", "1"], 4)
        assert await told_of(till, PaymentFilter(payment_type="DEPOSIT")) == (["6", "2"], 2)
        statuses = {"COMPLETED": "0", "CANCELLED": "1", "FAILED": "2", "PROCESSING": "3"}
        for status, number in statuses.items():
            assert await told_of(till, PaymentFilter(status=status)) == ([number], 1)
            assert (await till.payments.find(made[int(number)].id)).status == status
        assert await told_of(till, PaymentFilter(status="PENDING")) == (["8", "7", "6", "5", "4"], 5)
        ((moment,),) = house.sql("SELECT inserted_at FROM payments WHERE id = %s", made[5].id)
        assert (await told_of(till, PaymentFilter(since=moment)))[0] == ["8", "7", "6", "5"]
        assert (await told_of(till, PaymentFilter(before=moment)))[1] == 5
        for order in ([("amount", True)], [("status", False), ("amount", True)], [("posted_at", True)]):
            found, total = await till.payments.page(till.user_id, PaymentFilter(), order, 100, 0)
            assert (len(found), total) == (9, 9)
            assert found[0].description == {"amount": "8", "status": "1"}.get(order[0][0], found[0].description)
        # A lease that has run out holds nothing.
        house.sql("UPDATE jobs SET leased_until = now() - interval '1 s'")
        assert (await till.payments.find(made[3].id)).status == "PENDING"


@on_reactor
async def test_stats_sum_up(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house, balance=0)
        health = (await till.payments.stats(till.user_id)).financial_health
        assert (health.total_balance, health.is_healthy, health.can_make_payments) == ("0.00", False, True)
        assert (await refusal_of(till.payments.stats(UNKNOWN))).reason == "user_not_found"
        nobody = await till.payments.stats(till.user())
        assert (nobody.financial_health.total_accounts, nobody.financial_health.can_make_payments) == (0, False)
        frozen, gone = await till.account(100), await till.account(0)
        await till.account(7_500, asset="EUR/2")
        house.sql("UPDATE accounts SET status = 'FROZEN' WHERE id = %s", frozen)
        house.sql("UPDATE accounts SET status = 'CLOSED' WHERE id = %s", gone)
        for n in range(12):
            await till.make(100, str(n))
        stats = await till.payments.stats(till.user_id)
        health = stats.financial_health
        assert (health.currency, health.total_balance) == ("USD", "1.00")
        assert health.balances == {"EUR": "75.00", "USD": "1.00"}
        assert (health.total_accounts, health.active_accounts, health.frozen_accounts) == (4, 2, 1)
        assert (health.suspended_accounts, health.is_healthy, health.can_make_payments) == (0, True, True)
        assert [payment.description for payment in stats.recent_payments] == [str(n) for n in range(11, 1, -1)]


@on_reactor
async def test_a_job_is_unique_for_a_minute(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        payment = await till.make()
        jobs = await gatherResults(
            [Deferred.fromCoroutine(till.schedule(payment, priority=n % 10, delay=60)) for n in range(12)]
        )
        assert len(set(jobs)) == 1
        status = await till.payments.status(payment)
        assert status.job is not None
        assert (status.job.id, status.job.state, status.job.args) == (jobs[0], "scheduled", {"payment_id": payment.id})
        house.sql("UPDATE jobs SET inserted_at = inserted_at - interval '61 s'")
        assert await till.schedule(payment) not in jobs
        async with till.process():
            await until(lambda: sorted(till.jobs()) == ["completed", "scheduled"])
        assert (await till.payments.find(payment.id)).status == "COMPLETED"
        # The other one finds it done.
        await till.desk.retry(jobs[0])
        async with till.process():
            await until(lambda: till.jobs() == ["completed", "completed"])
        assert till.posted() == {payment.id: 1}


@on_reactor
async def test_facts_and_lists_are_read_by_index(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        house.sql(
            """INSERT INTO payments (id, user_id, account_id, amount, direction, payment_type, description, status,
                                     posted_at, transfer_id, seq, inserted_at, paid_in_day)
               SELECT gen_random_uuid(), md5((n % 500)::text)::uuid, md5((n % 500)::text)::uuid, 1 + n % 90, 'DEBIT',
                      'PAYMENT', 'rent', 'COMPLETED', now() - make_interval(mins => n), gen_random_uuid(), n,
                      now() - make_interval(mins => n), 10 ^ 20
               FROM generate_series(1, 60000) AS n; ANALYZE payments"""
        )
        plans: list[str] = []
        query = house.pool.query

        async def explained(sql: str, parameters: Any = ()) -> Any:
            plans.append("\n".join(line for (line,) in await query(f"EXPLAIN {sql}", parameters)))
            return await query(sql, parameters)

        house.pool.query = explained  # type: ignore[method-assign]
        await till.payments.page(till.user_id, PaymentFilter(), NEWEST_FIRST, 20, 0)
        await till.payments.page(till.user_id, PaymentFilter(status="PENDING", direction="DEBIT"), NEWEST_FIRST, 20, 0)
        await till.payments.verdict(till.nature())
        assert len(plans) == 3
        for plan in plans:
            assert "Seq Scan on payments" not in plan, plan
            assert " payments_of_user on payments" in plan or " payments_alike on payments" in plan, plan
        del house.pool.query
        # What was paid in a day is known from one row, however many there are.
        ((busy,),) = house.sql("SELECT account_id FROM payments GROUP BY 1 HAVING count(*) = 120 LIMIT 1")
        spent = SOURCES[SPENT].sql.replace("%(keys)s", "%s")
        ((plan,),) = house.sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {spent}", f"{{{busy}}}")
        assert most_rows(plan[0]["Plan"]) == 1
        before = house.sql("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'payments'")
        for payment in [await till.make() for _ in range(3)]:
            await till.payments.process(payment)
        house.sql("SELECT pg_stat_force_next_flush()")
        await house.writer.stop()
        assert house.sql("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'payments'") == before
        await house.writer.start()

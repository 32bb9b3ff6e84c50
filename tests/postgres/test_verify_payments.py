"""The audit of payments: whatever anybody changes in their rows, or in the records that ended them, is named."""

from __future__ import annotations

import pytest

from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor
from tests.postgres.payers import Till, till_of


def tamperings(ids: list[str], stranger: str) -> list[tuple[str, str]]:
    """What is done to the rows, and the row to be named."""
    completed, cancelled, failed, pending, more = ids
    of = {name: f"WHERE id = '{name}'" for name in ids}
    unpaid = "paid_in_day = NULL"
    others = "user_id, account_id, amount, direction, payment_type, description, status, seq"
    columns = {
        "user_id": f"'{stranger}'",
        "account_id": f"'{stranger}'",
        "amount": "amount + 1",
        "direction": f"'CREDIT', {unpaid}",
        "payment_type": "'DEPOSIT'",
        "description": "'other'",
        "inserted_at": "inserted_at - interval '1 microsecond'",
        "updated_at": "updated_at + interval '1 microsecond'",
        "seq": "seq + 1",
    }
    ended = (completed, cancelled, failed)
    return [
        *(
            (f"UPDATE payments SET {column} = {value} {of[one]}", f"payments {one}")
            for one in ended
            for column, value in columns.items()
        ),
        *((f"DELETE FROM payments {of[one]}", f"payments {one}") for one in ended),
        *(
            (
                f"UPDATE payments SET status = 'PENDING', posted_at = NULL, transfer_id = NULL, failure_reason = NULL,"
                f" seq = NULL, {unpaid} {of[one]}",
                f"payments {one}",
            )
            for one in ended
        ),
        (f"UPDATE payments SET posted_at = posted_at + interval '1 s' {of[completed]}", f"payments {completed}"),
        (f"UPDATE payments SET paid_in_day = paid_in_day + 1 {of[completed]}", f"payments {completed}"),
        (f"UPDATE payments SET paid_in_day = 30 {of[more]}", f"payments {more}"),
        (f"UPDATE payments SET transfer_id = id {of[completed]}", f"payments {completed}"),
        (f"UPDATE payments SET failure_reason = 'timeout' {of[failed]}", f"payments {failed}"),
        (f"UPDATE payments SET status = 'FAILED', failure_reason = 'timeout' {of[cancelled]}", f"payments {cancelled}"),
        (f"UPDATE payments SET status = 'CANCELLED', seq = 1 {of[pending]}", f"payments {pending}"),
        (f"UPDATE payments SET user_id = '{stranger}' {of[pending]}", f"payments {pending}"),
        (f"UPDATE payments SET account_id = '{stranger}' {of[pending]}", f"payments {pending}"),
        (
            f"INSERT INTO payments (id, {others}) SELECT '{stranger}', {others} FROM payments {of[cancelled]}",
            f"payments {stranger}",
        ),
    ]


async def ended_of(till: Till) -> list[str]:
    """One payment for each way to end, one that is pending, and one more that is completed that day."""
    completed, cancelled, failed, pending = [await till.make(100 + n, f"number {n}") for n in range(4)]
    await till.payments.process(completed)
    await till.payments.process(await till.make(70, "in", direction="CREDIT"), till.user_id, "key")
    await till.payments.cancel(cancelled)
    await till.payments.fail(failed, "account_frozen")
    more = await till.make(30, "more")
    await till.payments.process(more)
    return [completed.id, cancelled.id, failed.id, pending.id, more.id]


@on_reactor
async def test_whoever_tampers_is_found_out(database_url: str, database_server: DatabaseServer) -> None:
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        ids, stranger = await ended_of(till), till.user()
        await house.check_clean()
        house.sql("CREATE TABLE kept_payments AS TABLE payments")
        wrong = {}
        for statement, row in tamperings(ids, stranger):
            house.sql(f"SET session_replication_role = replica; {statement}")
            verdict = await house.verdict()
            named = None if verdict.first_failure is None else verdict.first_failure.row
            if verdict.ok or named != row:
                wrong[statement] = (row, verdict.first_failure)
            house.sql(
                """SET session_replication_role = replica; DELETE FROM payments;
                   INSERT INTO payments SELECT * FROM kept_payments"""
            )
        assert wrong == {}
        await house.check_clean()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"direction":"DEBIT"', '"direction":"CREDIT"'),
        ('"amount":100', '"amount":101'),
        ('"payment":', '"paymant":'),
    ],
)
@on_reactor
async def test_a_record_that_says_otherwise_is_named(
    database_url: str, database_server: DatabaseServer, old: str, new: str
) -> None:
    """Sealed anew, so that nothing but what it says is wrong."""
    async with House(database_url, database_server) as house:
        till = await till_of(house)
        payment = await till.make(100, "number 0")
        await till.payments.process(payment)
        ((seq,),) = house.sql("SELECT seq FROM journal WHERE kind = 'payment'")
        house.sql(
            """SET session_replication_role = replica;
               UPDATE journal AS j SET body = replace(j.body, %s, %s),
                      hash = sha256((SELECT p.hash FROM journal AS p WHERE p.seq = j.seq - 1)
                                    || convert_to(replace(j.body, %s, %s), 'UTF8'))
               WHERE j.seq = %s""",
            *(old, new, old, new, seq),
        )
        verdict = await house.verdict()
        assert verdict.first_failure is not None
        assert verdict.first_failure.row in (f"journal {seq}", f"payments {payment.id}")

"""The audit service: what becomes of events until they are written, and when they cannot be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ledger.domain.errors import unavailable
from ledger.domain.secret import Secret
from ledger.services import audit as module
from ledger.services.audit import Audit, AuditEvent, Event
from ledger.store.postgres import StatementFailed
from tests.services.fakes import Log

USER = "01900000-0000-7000-8000-00000000000a"


class FakePool:
    """A database that keeps what is written, is away when told so, and does not like some rows."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.sizes: list[int] = []
        self.old = 0
        self.away = False
        self.dislikes = ""
        self.hangs: Deferred[None] | None = None

    async def query(self, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Take rows, or delete old ones."""
        if self.hangs is not None:
            await self.hangs
        if self.away:
            raise unavailable()
        if "DELETE" in sql:
            gone = min(self.old, parameters[1])
            self.old -= gone
            return [(gone,)]
        rows = json.loads(parameters[0])
        if self.dislikes and any(row["reason"] == self.dislikes for row in rows):
            raise StatementFailed("22P02", "no")
        self.sizes.append(len(rows))
        self.rows.update((row["id"], row) for row in rows)
        return []


class House:
    """An audit service that runs, with a clock and a database of its own."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = 1_780_000_000.0
        self.pool = FakePool()
        numbers = count()
        pool: Any = self.pool
        self.audit = Audit(pool, self.clock, lambda: f"01900000-0000-7000-8000-{next(numbers):012x}")
        self.run(self.audit.start())

    def run(self, work: Any) -> None:
        """Have something done that need not wait."""
        done = Deferred.fromCoroutine(work)
        assert done.called
        done.addErrback(lambda failure: failure.raiseException())

    def fail(self, reason: str = "invalid_token", address: str = "192.0.2.1", **more: Any) -> None:
        """An authentication fails."""
        self.audit.record(AuditEvent("authentication_failed", reason, address=address, **more))

    def act(self, **details: Any) -> None:
        """An admin acts."""
        self.audit.record(AuditEvent("admin_action", None, "PUT /x", "user", USER, "192.0.2.9", "c", details))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What has been written, in order of making."""
        return [row for _, row in sorted(self.pool.rows.items())]

    def counts(self) -> list[int]:
        """How often each was seen."""
        return [row["count"] for row in self.rows]


@pytest.fixture
def house() -> House:
    return House()


def test_an_event_is_written_within_a_second(house: House) -> None:
    event = AuditEvent(
        "authorization_failed", "forbidden", "GET /x", "user", USER, "192.0.2.1", "abc", {"target": "x", "n": 1}
    )
    house.audit.record(event)
    assert house.rows == []
    house.clock.advance(1)
    assert house.rows == [
        {
            "id": "01900000-0000-7000-8000-000000000000",
            "at": 1_780_000_000.0,
            "until": 1_780_000_000.0,
            "event": "authorization_failed",
            "reason": "forbidden",
            "endpoint": "GET /x",
            "actor_kind": "user",
            "actor_id": USER,
            "address": "192.0.2.1",
            "correlation_id": "abc",
            "count": 1,
            "details": {"target": "x", "n": 1},
        }
    ]


def test_repeated_failures_of_one_client_are_one_row_a_minute(house: House) -> None:
    for second in range(150):
        house.fail(correlation_id=f"c{second}")
        house.fail("token_expired")
        house.fail(address="192.0.2.2")
        house.clock.advance(1)
    mine = [row for row in house.rows if (row["reason"], row["address"]) == ("invalid_token", "192.0.2.1")]
    assert [row["count"] for row in mine] == [60, 60, 30]
    assert [row["correlation_id"] for row in mine] == ["c0", "c60", "c120"]
    assert [row["until"] - row["at"] for row in mine] == [59, 59, 29]
    assert sorted(house.counts()) == [30, 30, 30, 60, 60, 60, 60, 60, 60]


def test_a_client_with_a_whole_network_is_one_client(house: House) -> None:
    for number in range(5):
        house.fail(address=f"2001:db8::{number + 1:x}")
    house.fail(address="2001:db8:0:1::1")
    house.clock.advance(1)
    assert [(row["address"], row["count"]) for row in house.rows] == [("2001:db8::1", 5), ("2001:db8:0:1::1", 1)]


def test_a_row_that_was_written_is_written_again_only_when_it_has_changed(house: House) -> None:
    house.fail()
    house.clock.advance(1)
    house.clock.advance(1)
    house.fail()
    house.clock.advance(1)
    assert house.pool.sizes == [1, 1]
    assert house.counts() == [2]


def test_what_admins_do_is_never_put_together(house: House) -> None:
    for _ in range(5):
        house.act(role="admin")
    house.clock.advance(1)
    assert house.counts() == [1] * 5
    assert house.pool.sizes == [5]


def test_a_flood_from_everywhere_shares_rows(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DISTINCT", 10)
    for number in range(50):
        house.fail(address=f"192.0.2.{number}", correlation_id=str(number), actor_id=USER)
        house.fail("token_expired", address=f"192.0.2.{number}")
    house.act()
    house.fail(address="192.0.2.0", actor_id=USER)
    house.clock.advance(1)
    own = [row for row in house.rows if row["address"] is not None and row["event"] != "admin_action"]
    shared = [row for row in house.rows if row["address"] is None]
    assert [row["count"] for row in own] == [2] + [1] * 9
    assert [(row["reason"], row["count"], row["actor_id"]) for row in shared] == [
        ("invalid_token", 45, None),
        ("token_expired", 45, None),
    ]
    assert shared[0]["correlation_id"] == "5"
    assert len(house.rows) == 13
    house.clock.advance(59)
    house.fail(address="198.51.100.1")
    house.clock.advance(1)
    assert house.rows[-1]["address"] == "198.51.100.1"


def test_nothing_is_lost_while_the_database_is_away(house: House) -> None:
    house.pool.away = True
    house.fail()
    house.act()
    for _ in range(5):
        house.clock.advance(1)
        house.fail()
    assert house.rows == []
    house.pool.away = False
    house.clock.advance(1)
    assert sorted(house.counts()) == [1, 6]
    assert house.audit.dropped == 0


def test_what_is_kept_meanwhile_is_bounded_and_the_rest_counted(
    house: House, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", 20)
    house.pool.away = True
    for number in range(50):
        house.fail(address=f"192.0.2.{number}")
    house.fail(address="192.0.2.3")
    for _ in range(25):
        house.act()
    assert house.audit.dropped == 35
    assert [event["log_format"] for event in log.events] == [
        "The audit log cannot be written: from here on, rows are dropped"
    ]
    house.pool.away = False
    house.clock.advance(1)
    assert len(house.rows) == 40
    assert sum(house.counts()) == 41
    house.clock.advance(1)
    assert [event.get("dropped") for event in log.events] == [None, 35]


def test_a_row_that_the_database_does_not_take_harms_no_other(house: House, log: Log) -> None:
    house.pool.dislikes = "odd"
    for number in range(9):
        house.fail("odd" if number == 4 else "invalid_token", address=f"192.0.2.{number}")
    house.clock.advance(1)
    house.clock.advance(1)
    assert len(house.rows) == 8
    assert house.audit.dropped == 1
    assert log.tracebacks(StatementFailed) == 1


def test_writing_goes_in_batches_and_never_twice_at_once(house: House) -> None:
    house.pool.hangs = Deferred()
    for _ in range(1_100):
        house.act()
    house.fail()
    house.clock.pump([1.0] * 5)
    house.fail()
    hangs, house.pool.hangs = house.pool.hangs, None
    hangs.callback(None)
    assert house.pool.sizes == [500, 500, 100, 1]
    assert house.counts()[-1] == 2
    house.fail()
    house.clock.advance(1)
    assert house.counts()[-1] == 3


def test_counts_that_come_while_a_row_is_being_written_are_not_lost(house: House) -> None:
    house.fail()
    house.pool.hangs = Deferred()
    house.clock.advance(1)
    house.fail()
    hangs, house.pool.hangs = house.pool.hangs, None
    hangs.callback(None)
    house.clock.advance(1)
    assert house.counts() == [2]


def test_stop_writes_what_is_left(house: House) -> None:
    house.fail()
    house.act()
    house.run(house.audit.stop())
    assert house.counts() == [1, 1]
    assert house.clock.getDelayedCalls() == []


def test_stop_says_what_could_not_be_written(house: House, log: Log) -> None:
    house.pool.away = True
    house.act()
    house.run(house.audit.stop())
    assert [event["left"] for event in log.events] == [1]


def test_stop_does_not_wait_for_a_silent_database(house: House, log: Log) -> None:
    house.pool.hangs = Deferred()
    house.clock.advance(0)  # it clears
    house.act()
    house.fail()
    house.clock.advance(1)
    house.act()
    stopped = Deferred.fromCoroutine(house.audit.stop())
    house.clock.advance(1.9)
    assert not stopped.called
    house.clock.advance(0.1)
    assert stopped.called
    assert [event["left"] for event in log.events] == [3]
    house.pool.old = 5_000
    hangs, house.pool.hangs = house.pool.hangs, None
    hangs.callback(None)
    assert house.clock.getDelayedCalls() == []
    assert house.pool.old == 4_000


def test_what_is_too_old_goes_every_hour_in_slices(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLICE", 10)
    house.pool.old = 25
    house.clock.advance(0)
    assert house.pool.old == 0
    house.pool.old = 5
    house.clock.advance(3599)
    assert house.pool.old == 5
    house.clock.advance(1)
    assert house.pool.old == 0


def test_an_absent_database_keeps_old_rows_without_noise(house: House, log: Log) -> None:
    house.pool.away = True
    house.clock.advance(0)
    assert [event["reason"] for event in log.events] == ["service_unavailable"]


def test_details_hold_no_secrets_and_little_else(house: House) -> None:
    odd: dict[str, Any] = {
        "email": "a@x",
        "password": "hunter2-horse",
        "new_password": "hunter2-horse",
        "token": "hunter2-horse",
        "header": "Bearer hunter2-horse",
        "secretive": Secret("hunter2-horse"),
        "wrapped": Secret("hunter2-horse"),
        "fields": ["role", "status", Secret("hunter2-horse"), {"a": "hunter2-horse"}],
        "deep": {"a": "hunter2-horse"},
        "long": "x" * 10_000,
        "nul": "a\0b\ud800",
        "none": None,
        "yes": True,
    }
    house.act(**odd)
    house.act(**{f"n{number}": number for number in range(100)})
    house.clock.advance(1)
    told = house.rows[0]["details"]
    assert "hunter2" not in json.dumps(house.rows)
    assert told == {
        "email": "a@x",
        "header": "Bearer ***",
        "fields": ["role", "status"],
        "long": "x" * 255,
        "nul": "ab?",
        "yes": True,
    }
    assert len(house.rows[1]["details"]) == 16


def test_recording_never_raises(house: House, log: Log) -> None:
    broken: Any = "no mapping"
    house.audit.record(AuditEvent("admin_action", details=broken))
    assert house.audit.dropped == 1
    assert log.tracebacks(AttributeError) == 1
    event: Event = "rate_limited"
    house.audit.record(AuditEvent(event, actor_id="no uuid", correlation_id="q\0" + "x" * 500))
    house.clock.advance(1)
    assert house.rows[0]["actor_id"] is None
    assert house.rows[0]["correlation_id"] == "q" + "x" * 254


def test_a_clock_that_is_set_back_begins_a_new_row(house: House) -> None:
    house.fail()
    house.clock.rightNow -= 3600
    house.fail()
    house.clock.advance(3601)
    assert house.counts() == [1, 1]

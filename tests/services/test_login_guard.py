"""The guard before logins: failures and tries under way, by e-mail address and by client."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from ledger.domain.errors import Refused
from ledger.services import login_guard
from ledger.services.login_guard import PER_CLIENT, PER_EMAIL, LoginGuard


class Door:
    """A guard, with a clock of its own."""

    def __init__(self, enabled: bool = True) -> None:
        self.clock = Clock()
        self.clock.rightNow = 1_780_000_000.5
        self.guard = LoginGuard(self.clock.seconds, enabled)

    def wait(self, email: str, address: str, known: bool = False) -> int:
        """Begin a try; how long one is told to wait, 0 where it may be tried."""
        try:
            self.guard.check(email, address, known)
        except Refused as refused:
            return int(refused.details["retry_after"]) if refused.reason == "rate_limit_exceeded" else -1
        return 0

    def fail(self, email: str, address: str, known: bool = False) -> int:
        """Try, and fail where it may be tried."""
        wait = self.wait(email, address, known)
        if not wait:
            self.guard.failed(email, address)
        return wait


def test_an_address_that_is_guessed_at_from_everywhere_is_closed_for_a_minute() -> None:
    door = Door()
    assert [door.fail("a@x", f"192.0.2.{n}") for n in range(PER_EMAIL)] == [0] * PER_EMAIL
    assert door.wait("a@x", "192.0.2.99") == 60
    assert door.wait("A@X", "192.0.2.99") == 60
    assert door.wait("b@x", "192.0.2.99") == 0
    for _ in range(59):
        door.clock.advance(1)
        assert door.wait("a@x", "192.0.2.99") > 0  # refused tries do not prolong it
    door.clock.advance(1)
    assert door.wait("a@x", "192.0.2.99") == 0


def test_nobody_is_locked_out_by_the_guesses_of_others() -> None:
    door = Door()
    for n in range(PER_EMAIL):
        door.fail("a@x", f"192.0.2.{n}")
    assert door.wait("a@x", "198.51.100.1", known=True) == 0
    assert door.wait("a@x", "198.51.100.1", known=False) > 0


def test_one_client_cannot_try_many_addresses() -> None:
    door = Door()
    for n in range(PER_CLIENT):
        assert door.fail(f"{n}@x", f"2001:db8::{n}") == 0
    assert door.wait("other@x", "2001:db8::ffff") == 60
    assert door.wait("other@x", "2001:db8::ffff", known=True) == 60
    assert door.wait("other@x", "2001:db8:0:1::1") == 0


def test_fifty_at_once_do_not_slip_through() -> None:
    door = Door()
    waits = [door.wait("a@x", f"192.0.2.{n}") for n in range(50)]
    assert waits == [0] * PER_EMAIL + [1] * 40
    for n in range(PER_EMAIL):
        door.guard.failed("a@x", f"192.0.2.{n}")
    assert door.wait("a@x", "192.0.2.99") == 60


def test_success_does_not_count() -> None:
    door = Door()
    for _ in range(100):
        assert door.wait("a@x", "192.0.2.1") == 0
        door.guard.succeeded("a@x", "192.0.2.1")
    assert door.guard.held == (0, 0)


def test_a_success_between_them_does_not_forgive_failures() -> None:
    door = Door()
    for _ in range(PER_EMAIL - 1):
        door.fail("a@x", "192.0.2.1")
    assert door.wait("a@x", "192.0.2.1") == 0
    door.guard.succeeded("a@x", "192.0.2.1")
    assert door.fail("a@x", "192.0.2.1") == 0
    assert door.fail("a@x", "192.0.2.1") == 60


def test_a_failure_counts_from_when_it_failed() -> None:
    door = Door()
    for _ in range(PER_EMAIL):
        door.wait("a@x", "192.0.2.1")
        door.clock.advance(3)
        door.guard.failed("a@x", "192.0.2.1")
    assert door.wait("a@x", "192.0.2.1") == 60 - 27
    door.clock.advance(33)
    assert door.wait("a@x", "192.0.2.1") == 0


def test_a_try_whose_end_is_never_told_counts_for_a_minute() -> None:
    door = Door()
    for _ in range(PER_EMAIL):
        door.wait("a@x", "192.0.2.1")
    assert door.wait("a@x", "192.0.2.1") == 1
    door.clock.advance(60)
    assert door.wait("a@x", "192.0.2.1") == 0
    door.guard.failed("a@x", "192.0.2.1")
    door.guard.succeeded("a@x", "192.0.2.1")
    assert [door.fail("a@x", "192.0.2.1") for _ in range(PER_EMAIL)] == [0] * (PER_EMAIL - 1) + [60]


def test_failures_past_the_limit_from_known_places_keep_it_closed_no_longer_than_they_count() -> None:
    door = Door()
    for n in range(2 * PER_EMAIL):
        assert door.fail("a@x", "192.0.2.1", known=True) == 0
        door.clock.advance(1)
        assert n < PER_EMAIL or door.wait("a@x", "192.0.2.2") == 60 - PER_EMAIL
    door.clock.advance(60 - PER_EMAIL)
    assert door.wait("a@x", "192.0.2.2") == 0


def test_turned_off_it_lets_all_pass() -> None:
    door = Door(enabled=False)
    assert [door.fail("a@x", "192.0.2.1") for _ in range(100)] == [0] * 100
    door.guard.succeeded("a@x", "192.0.2.1")
    assert door.guard.held == (0, 0)


def test_nobody_waits_because_the_clock_was_set_back() -> None:
    door = Door()
    for _ in range(PER_EMAIL):
        door.fail("a@x", "192.0.2.1")
    door.clock.rightNow -= 3600
    assert door.wait("a@x", "192.0.2.1") == 0


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_guard, "MOST", 20)
    door = Door()
    for n in range(100):
        door.fail(f"{n}@x", f"192.0.2.{n}")
        door.clock.advance(0.01)
    assert door.guard.held == (20, 20)
    door.clock.advance(60)
    for n in range(10):
        door.fail(f"{n}@y", f"198.51.100.{n}")
    assert door.guard.held == (10, 10)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a@x", "b@x"]),
            st.sampled_from(["192.0.2.1", "192.0.2.2"]),
            st.booleans(),
            st.floats(0, 8),
        ),
        max_size=120,
    )
)
def test_never_more_failures_in_a_minute_than_allowed(steps: list[tuple[str, str, bool, float]]) -> None:
    door = Door()
    failures: list[tuple[float, str, str]] = []
    for email, address, right, pause in steps:
        door.clock.advance(pause)
        now = door.clock.seconds()
        recent = [one for one in failures if one[0] > now - 60]
        by_email = sum(one[1] == email for one in recent)
        by_client = sum(one[2] == address for one in recent)
        wait = door.wait(email, address)
        assert (wait > 0) == (by_email >= PER_EMAIL or by_client >= PER_CLIENT)
        if not wait:
            if right:
                door.guard.succeeded(email, address)
            else:
                door.guard.failed(email, address)
                failures.append((now, email, address))

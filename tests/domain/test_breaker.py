"""The circuit breaker: every transition, and what late results may not change."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ledger.domain.breaker import FAILURES, PAUSE, Breaker


def broken(now: float = 0.0) -> Breaker:
    """One that has just opened."""
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker = breaker.failed(breaker.era, now)
    return breaker


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker = breaker.failed(breaker.era, 0.0)
    assert breaker.position(0.0) == "closed"
    breaker = breaker.succeeded(breaker.era)
    for _ in range(FAILURES - 1):
        breaker = breaker.failed(breaker.era, 0.0)
    assert breaker.admit(0.0) is breaker
    assert breaker.failed(breaker.era, 0.0).position(0.0) == "open"


def test_while_it_is_open_nobody_is_let_through() -> None:
    breaker = broken(100.0)
    assert breaker.admit(100.0) is None
    assert breaker.admit(100.0 + PAUSE - 0.01) is None
    assert (breaker.wait(100.0), breaker.wait(120.0), breaker.wait(140.0)) == (PAUSE, 10.0, 0.0)


def test_then_one_trial_decides() -> None:
    breaker = broken()
    assert breaker.position(PAUSE) == "half_open"
    trial = breaker.admit(PAUSE)
    assert trial is not None
    assert trial.position(PAUSE) == "half_open"
    assert trial.admit(PAUSE + 100) is None  # one
    closed = trial.succeeded(trial.era)
    assert (closed.position(PAUSE), closed.failures) == ("closed", 0)
    opened = trial.failed(trial.era, PAUSE + 1)
    assert opened.admit(PAUSE + 1 + PAUSE - 0.01) is None
    assert opened.admit(PAUSE + 1 + PAUSE) is not None


def test_what_began_before_it_opened_changes_nothing_any_more() -> None:
    early = Breaker()
    breaker = broken()
    assert breaker.succeeded(early.era) is breaker
    assert breaker.failed(early.era, 29.0) is breaker
    trial = breaker.admit(PAUSE)
    assert trial is not None
    assert trial.succeeded(early.era) is trial
    assert trial.failed(breaker.era, PAUSE) is trial


class AnyOrder(RuleBasedStateMachine):
    """Calls begin and end in any order; whoever was let through last in the present era decides."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker()
        self.now = 0.0
        self.eras: list[int] = []

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    @rule()
    def begin(self) -> None:
        """Ask to be let through."""
        position = self.breaker.position(self.now)
        admitted = self.breaker.admit(self.now)
        assert (admitted is None) == (position == "open" or self.breaker.on_trial)
        if admitted is not None:
            self.breaker = admitted
            self.eras.append(admitted.era)

    @precondition(lambda self: self.eras)
    @rule(data=st.data(), well=st.booleans())
    def end(self, data: st.DataObject, well: bool) -> None:
        """Tell a result."""
        era = self.eras.pop(data.draw(st.integers(0, len(self.eras) - 1)))
        self.breaker = self.breaker.succeeded(era) if well else self.breaker.failed(era, self.now)

    @invariant()
    def it_is_never_stuck(self) -> None:
        """Whoever waits long enough is let through, unless a trial is under way."""
        if self.breaker.on_trial:
            assert self.breaker.era in self.eras
        else:
            assert self.breaker.admit(self.now + PAUSE) is not None


TestAnyOrder = AnyOrder.TestCase

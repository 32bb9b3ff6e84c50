"""The supervisor: what happens when children die, alone, together, again and again, and while being stopped."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ledger.domain.errors import ConfigurationError
from ledger.services.child import ChildStatus
from ledger.services.supervisor import RestartPolicy, Supervisor
from tests.services.fakes import FakeChild, Log, refuse, stubborn

pytestmark = pytest.mark.usefixtures("log")


class Tree:
    """database; writer on database; http on writer; passwords alone."""

    def __init__(self, policy: RestartPolicy = RestartPolicy()) -> None:  # noqa: B008
        self.clock = Clock()
        self.notes: list[str] = []
        self.escalated: list[tuple[str, str]] = []
        self.all_up = 0
        self.supervisor = Supervisor(self.clock, lambda: 0.5, self.escalate, policy)
        self.database = FakeChild("database", self.notes)
        self.passwords = FakeChild("passwords", self.notes)
        self.writer = FakeChild("writer", self.notes, "database")
        self.http = FakeChild("http", self.notes, "writer")
        self.children = (self.database, self.passwords, self.writer, self.http)
        for child in self.children:
            self.supervisor.add(child)

    def escalate(self, child: str, failure: Failure) -> None:
        self.escalated.append((child, failure.getErrorMessage()))

    def up(self) -> Tree:
        self.supervisor.start(self.count_all_up)
        self.notes.clear()
        return self

    def count_all_up(self) -> None:
        self.all_up += 1

    def status(self, child: FakeChild) -> ChildStatus:
        return next(status for status in self.supervisor.status() if status.name == child.name)

    def states(self) -> list[str]:
        return [status.state for status in self.supervisor.status()]

    def pass_time(self, seconds: float) -> None:
        """Let time pass in small steps, as a reactor does."""
        end = self.clock.seconds() + seconds
        self.clock.advance(0)
        while (due := self.next_call()) is not None and due <= end:
            self.clock.advance(max(0.0, due - self.clock.seconds()))
        self.clock.advance(max(0.0, end - self.clock.seconds()))

    def next_call(self) -> float | None:
        calls: list[Any] = list(self.clock.getDelayedCalls())
        return min((call.getTime() for call in calls), default=None)

    def stop(self) -> Deferred[None]:
        stopped = Deferred.fromCoroutine(self.supervisor.stop())
        self.pass_time(0)
        return stopped


@pytest.fixture
def tree() -> Tree:
    return Tree().up()


def test_a_failed_child_is_restarted_alone(tree: Tree, log: Log) -> None:
    tree.clock.advance(5)
    tree.passwords.die("out of threads")
    assert tree.notes == []  # not from within the child's own call
    assert tree.status(tree.passwords) == ChildStatus("passwords", "failed", 0, "OSError: out of threads", 5.0)
    tree.clock.advance(0)
    assert tree.notes == ["-passwords", ".passwords"]
    assert tree.status(tree.passwords).state == "backing_off"
    tree.clock.advance(0.14)
    assert tree.notes == ["-passwords", ".passwords"]
    tree.clock.advance(0.02)
    assert tree.notes == ["-passwords", ".passwords", "+passwords", "passwords"]
    restarted = tree.status(tree.passwords)
    assert (restarted.state, restarted.restarts) == ("running", 1)
    assert restarted.since == pytest.approx(5.16)
    tree.supervisor.start(tree.count_all_up)
    assert tree.all_up == 1
    assert log.tracebacks(OSError) == 1
    assert tree.clock.getDelayedCalls() == []


def test_those_that_lean_on_it_follow(tree: Tree) -> None:
    tree.database.die()
    tree.pass_time(0)
    assert tree.notes == ["-http", ".http", "-writer", ".writer", "-database", ".database"]
    assert tree.states() == ["backing_off", "running", "stopped", "stopped"]
    tree.notes.clear()
    tree.http.die("a late report of the life before")
    tree.pass_time(0.2)
    assert tree.notes == ["+database", "database", "+writer", "writer", "+http", "http"]
    assert [status.restarts for status in tree.supervisor.status()] == [1, 0, 1, 1]
    assert tree.status(tree.http).last_failure is None


def test_each_step_of_a_restart_is_awaited(tree: Tree) -> None:
    down: Deferred[None] = Deferred()
    ready: Deferred[None] = Deferred()
    tree.http.before_stopped = lambda: down
    tree.database.before_ready = lambda: ready
    tree.database.die()
    tree.pass_time(5)
    assert tree.notes == ["-http"]
    down.callback(None)
    assert tree.notes == ["-http", ".http", "-writer", ".writer", "-database", ".database"]
    tree.notes.clear()
    tree.pass_time(5)
    assert tree.notes == ["+database"]
    assert tree.states() == ["starting", "running", "stopped", "stopped"]
    ready.callback(None)
    assert tree.notes == ["+database", "database", "+writer", "writer", "+http", "http"]


def test_a_second_report_and_a_report_of_nobody_are_harmless(tree: Tree) -> None:
    stray = FakeChild("stray", tree.notes)
    stray.die()
    tree.writer.die("first")
    tree.writer.die("second")
    tree.pass_time(0)
    tree.writer.die("while it backs off")
    assert tree.status(tree.writer).last_failure == "OSError: first"
    tree.pass_time(1)
    assert tree.status(tree.writer).restarts == 1
    assert tree.states() == ["running"] * 4


def test_a_stop_that_raises_or_hangs_does_not_prevent_the_restart(tree: Tree, log: Log) -> None:
    tree.http.before_stopped = refuse(ValueError("no"))
    tree.writer.before_stopped = Deferred
    tree.writer.die()
    tree.pass_time(11)
    assert tree.notes == ["-http", "-writer", "+writer", "writer", "+http", "http"]
    assert log.tracebacks(ValueError) == 1
    assert [event["child"] for event in log.events if "overrun" in event] == ["writer"]


def test_two_failures_at_once(tree: Tree) -> None:
    tree.http.die("because of the database")
    tree.passwords.die("by chance")
    tree.database.die("the cause")
    tree.pass_time(0)
    assert tree.notes == ["-http", ".http", "-writer", ".writer", "-database", ".database", "-passwords", ".passwords"]
    tree.pass_time(1)
    assert tree.states() == ["running"] * 4
    assert [status.restarts for status in tree.supervisor.status()] == [1, 1, 1, 1]
    assert tree.status(tree.http).last_failure == "OSError: because of the database"


def test_a_failure_during_a_restart_is_not_lost(tree: Tree) -> None:
    ready: Deferred[None] = Deferred()
    tree.database.before_ready = lambda: ready
    tree.database.die()
    tree.pass_time(1)
    tree.passwords.die()
    tree.pass_time(0)
    assert tree.states() == ["starting", "failed", "stopped", "stopped"]
    ready.callback(None)
    tree.pass_time(1)
    assert tree.states() == ["running"] * 4
    assert [status.restarts for status in tree.supervisor.status()] == [1, 1, 1, 1]


def test_a_start_is_given_up_when_what_it_leans_on_dies(tree: Tree, log: Log) -> None:
    tree.writer.before_ready = Deferred
    tree.writer.die()
    tree.pass_time(1)
    assert tree.states() == ["running", "running", "starting", "stopped"]
    tree.notes.clear()
    tree.writer.before_ready = lambda: None
    tree.database.die()
    tree.pass_time(0)
    assert tree.notes == ["-writer", ".writer", "-database", ".database"]
    tree.pass_time(1)
    assert tree.states() == ["running"] * 4
    assert tree.status(tree.writer).last_failure == "OSError: gone"
    assert log.tracebacks(Exception) == 2


def test_a_start_that_resists_is_left_behind(tree: Tree) -> None:
    start, tree.writer.start = tree.writer.start, stubborn  # type: ignore[method-assign]
    tree.writer.die()
    tree.pass_time(1)
    tree.database.die()
    tree.writer.start = start  # type: ignore[method-assign]
    tree.pass_time(100)
    assert tree.states() == ["running"] * 4


def test_a_start_that_never_returns_counts_as_failed(tree: Tree) -> None:
    tree.writer.start_deadline = 2.0
    tree.writer.before_ready = Deferred
    tree.writer.die()
    tree.pass_time(2.3)
    status = tree.status(tree.writer)
    assert (status.state, status.last_failure) == ("backing_off", "writer was not ready within 2 s")
    tree.writer.before_ready = lambda: None
    tree.pass_time(1)
    assert tree.states() == ["running"] * 4
    assert tree.status(tree.writer).restarts == 2


def test_the_pause_doubles_up_to_a_bound_and_is_spread() -> None:
    policy = RestartPolicy()
    assert [policy.delay(n, 0.0) for n in (1, 2, 3, 6, 7, 10_000)] == [0.1, 0.2, 0.4, 3.2, 5.0, 5.0]
    assert [policy.delay(n, 1.0) for n in (1, 2, 7)] == [0.2, 0.4, 10.0]


def test_the_pause_is_short_again_after_a_good_while(tree: Tree, log: Log) -> None:
    for _ in range(3):
        tree.writer.die()
        tree.pass_time(2)
    tree.pass_time(10)
    tree.writer.die()
    tree.pass_time(0)
    assert [event["pause"] for event in log.events if "pause" in event] == pytest.approx([0.15, 0.3, 0.6, 0.15])


def test_too_many_restarts_escalate(tree: Tree) -> None:
    for _ in range(5):
        tree.writer.die()
        tree.pass_time(10)
        assert tree.escalated == []
    tree.notes.clear()
    tree.writer.die("once too often")
    tree.pass_time(100)
    assert tree.escalated == [("writer", "once too often")]
    assert tree.notes == []
    assert tree.status(tree.writer).state == "failed"
    assert tree.stop().called
    assert tree.notes == ["-http", ".http", "-writer", ".writer", "-passwords", ".passwords", "-database", ".database"]
    assert tree.states() == ["stopped", "stopped", "failed", "stopped"]


def test_restarts_far_apart_never_escalate(tree: Tree) -> None:
    for _ in range(50):
        tree.writer.die()
        tree.pass_time(13)
    assert tree.escalated == []
    assert tree.status(tree.writer).restarts == 50


def test_starts_that_fail_slowly_escalate_all_the_same(tree: Tree) -> None:
    tree.writer.before_ready = Deferred
    tree.writer.die()
    tree.pass_time(60 * 5 + 20)
    assert tree.escalated == [("writer", "writer was not ready within 60 s")]
    assert tree.status(tree.writer).restarts == 5


def test_a_configuration_error_is_logged_without_traceback(tree: Tree, log: Log) -> None:
    tree.writer.before_ready = refuse(ConfigurationError("wrong version\nand more"))
    tree.writer.die()
    tree.pass_time(0.2)
    assert [event["reason"] for event in log.events if "reason" in event] == ["wrong version"]
    assert log.tracebacks(ConfigurationError) == 0


def test_last_failure_is_short(tree: Tree) -> None:
    tree.writer.die("x" * 1000 + "\nsecond line")
    assert tree.status(tree.writer).last_failure == "OSError: " + "x" * 191
    tree.http.die("")
    assert tree.status(tree.http).last_failure == "OSError: no message"


def test_a_stop_during_a_backoff(tree: Tree) -> None:
    tree.database.die()
    tree.pass_time(0)
    tree.notes.clear()
    assert tree.stop().called
    assert tree.clock.getDelayedCalls() == []
    tree.pass_time(1000)
    assert tree.notes == ["-passwords", ".passwords"]
    assert tree.states() == ["stopped"] * 4


def test_a_stop_in_the_middle_of_a_restart(tree: Tree) -> None:
    tree.writer.before_ready = Deferred
    tree.writer.die()
    tree.pass_time(1)
    tree.notes.clear()
    assert tree.stop().called
    assert tree.notes == ["-writer", ".writer", "-passwords", ".passwords", "-database", ".database"]
    tree.pass_time(1000)
    assert tree.states() == ["stopped"] * 4


def test_a_stop_in_the_middle_of_taking_down_goes_on_from_the_top() -> None:
    tree = Tree()
    tree.supervisor.add(FakeChild("loner", tree.notes))
    tree.supervisor.add(FakeChild("top", tree.notes, "http"))
    tree.up()
    down: Deferred[None] = Deferred()
    tree.http.before_stopped = lambda: down
    tree.database.die()
    tree.pass_time(0)
    assert tree.notes == ["-top", ".top", "-http"]
    stopped = tree.stop()
    down.callback(None)
    assert stopped.called
    assert tree.notes[3:7] == [".http", "-loner", ".loner", "-writer"]


def test_a_stop_in_the_middle_of_taking_down(tree: Tree) -> None:
    down: Deferred[None] = Deferred()
    tree.writer.before_stopped = lambda: down
    tree.database.die()
    tree.pass_time(0)
    stopped = tree.stop()
    assert tree.notes == ["-http", ".http", "-writer"]
    assert not stopped.called
    down.callback(None)
    assert stopped.called
    assert tree.notes[3:] == [".writer", "-passwords", ".passwords", "-database", ".database"]
    assert tree.states() == ["stopped"] * 4


def test_a_death_while_stopping_restarts_nothing(tree: Tree) -> None:
    down: Deferred[None] = Deferred()
    tree.http.before_stopped = lambda: down
    stopped = tree.stop()
    tree.writer.die()
    tree.http.die()
    down.callback(None)
    tree.pass_time(1000)
    assert stopped.called
    assert tree.states() == ["stopped"] * 4
    assert "+writer" not in tree.notes


def test_a_start_that_is_no_coroutine_escalates_instead_of_going_silent() -> None:
    tree = Tree()
    tree.passwords.start = lambda: None  # type: ignore[assignment, method-assign, return-value]
    tree.up()
    assert [name for name, _ in tree.escalated] == ["supervisor"]
    assert tree.stop().called
    assert tree.states() == ["stopped"] * 4


_step = st.one_of(
    st.tuples(st.just("die"), st.integers(0, 3)),
    st.tuples(st.just("start fails"), st.integers(0, 3)),
    st.tuples(st.just("start hangs"), st.integers(0, 3)),
    st.tuples(st.just("start works"), st.integers(0, 3)),
    st.tuples(st.just("stop hangs"), st.integers(0, 3)),
    st.tuples(st.just("stop works"), st.integers(0, 3)),
    st.tuples(st.just("time"), st.sampled_from([0, 1, 7, 30, 100])),
)


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(_step, max_size=25), stop_early=st.booleans())
def test_any_order_of_events_ends_well(steps: list[tuple[str, int]], stop_early: bool) -> None:
    tree = Tree(RestartPolicy(restarts=1000)).up()
    alive: set[str] = {child.name for child in tree.children}

    def check() -> None:
        for note in tree.notes:
            name = note.lstrip("+-.")
            child = next(child for child in tree.children if child.name == name)
            above = {other.name for other in tree.children if name in other.leans_on}
            if note[0] == "+":
                assert name not in alive, "started twice"
                assert alive.issuperset(child.leans_on), "started on nothing"
                alive.add(name)
            elif note[0] == "-":
                assert name in alive, "stopped twice"
                assert not alive & above, "stopped below others"
                alive.discard(name)
        tree.notes.clear()

    for action, target in steps:
        if action == "time":
            tree.pass_time(target)
        elif action == "die":
            tree.children[target].die()
        elif action == "start fails":
            tree.children[target].before_ready = refuse(OSError("no"))
        elif action == "start hangs":
            tree.children[target].before_ready = Deferred
        elif action == "start works":
            tree.children[target].before_ready = lambda: None
        elif action == "stop hangs":
            tree.children[target].before_stopped = Deferred
        else:
            tree.children[target].before_stopped = lambda: None
        check()
    if not stop_early:
        for child in tree.children:
            child.before_ready = lambda: None
        tree.pass_time(1000)
        check()
        assert tree.states() == ["running"] * 4
    stopped = tree.stop()
    tree.pass_time(1000)
    check()
    assert stopped.called
    assert alive == set()
    assert tree.states() == ["stopped"] * 4
    assert tree.clock.getDelayedCalls() == []
    assert tree.escalated == []

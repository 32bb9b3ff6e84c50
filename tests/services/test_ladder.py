"""The ladder: ordered start and stop, deadlines, and what ends the process."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogLevel

from ledger.domain.errors import ConfigurationError
from ledger.services.ladder import Ladder
from tests.services.fakes import FakeChild, FakeReactor, Log, refuse, stubborn


def put(child: Any, parent: Any) -> None:
    """Make `child` a part of `parent` the way Twisted does it."""
    child.setServiceParent(parent)


class TestLadder:
    """A ladder of three on a fake reactor: c leans on b leans on a."""

    @pytest.fixture(autouse=True)
    def ladder_of_three(self, log: Log) -> None:
        self.log = log
        self.reactor = FakeReactor()
        self.notes: list[str] = []
        self.codes: list[int] = []
        self.ladder = Ladder(self.reactor, lambda: 0.0, self.codes.append)
        self.a = FakeChild("a", self.notes)
        self.b = FakeChild("b", self.notes, "a")
        self.c = FakeChild("c", self.notes, "b", "no-such-child")
        for child in (self.a, self.b, self.c):
            put(child, self.ladder)

    def climb(self) -> None:
        self.ladder.startService()
        self.reactor.run()

    def states(self) -> dict[str, str]:
        return {status.name: status.state for status in self.ladder.status()}

    def stop(self) -> Deferred[None]:
        stopped = self.ladder.stopService()
        self.reactor.advance(0)
        return stopped

    def criticals(self) -> list[dict[str, Any]]:
        return [event for event in self.log.events if event["log_level"] is LogLevel.critical and "what" in event]

    def test_nothing_starts_before_the_reactor_runs(self) -> None:
        self.ladder.startService()
        assert self.notes == []
        assert self.states() == {"a": "stopped", "b": "stopped", "c": "stopped"}
        self.reactor.run()
        assert self.notes == ["+a", "a", "+b", "b", "+c", "c"]

    def test_starts_at_once_on_a_reactor_that_runs(self) -> None:
        self.reactor.run()
        self.ladder.startService()
        assert self.states() == {"a": "running", "b": "running", "c": "running"}

    def test_each_start_is_awaited(self) -> None:
        ready: Deferred[None] = Deferred()
        self.a.before_ready = lambda: ready
        told: list[str] = []
        self.ladder.on_started(lambda: told.append("up"))
        self.climb()
        assert self.notes == ["+a"]
        assert self.states() == {"a": "starting", "b": "stopped", "c": "stopped"}
        assert not self.a.running
        assert told == []
        ready.callback(None)
        assert self.notes == ["+a", "a", "+b", "b", "+c", "c"]
        assert self.a.running
        assert told == ["up"]
        self.ladder.on_started(lambda: told.append("late"))
        assert told == ["up", "late"]

    def test_a_callback_that_raises_harms_nobody(self) -> None:
        told: list[str] = []
        self.ladder.on_started(lambda: 1 // 0)  # type: ignore[arg-type]
        self.ladder.on_started(lambda: told.append("up"))
        self.climb()
        assert told == ["up"]
        assert self.states() == {"a": "running", "b": "running", "c": "running"}
        assert self.log.tracebacks(ZeroDivisionError) == 1

    def test_stops_top_first_each_awaited(self) -> None:
        self.climb()
        self.notes.clear()
        gone: Deferred[None] = Deferred()
        self.b.before_stopped = lambda: gone
        stopped = self.stop()
        assert self.notes == ["-c", ".c", "-b"]
        assert not stopped.called
        assert self.states() == {"a": "running", "b": "stopping", "c": "stopped"}
        assert self.ladder.stopService().called is False
        gone.callback(None)
        assert self.notes == ["-c", ".c", "-b", ".b", "-a", ".a"]
        assert stopped.called
        assert self.ladder.stopService().called
        assert not self.a.running
        assert self.codes == []
        self.reactor.advance(100)
        assert self.reactor.getDelayedCalls() == []
        assert self.notes[-1] == ".a"

    def test_a_stop_that_overruns_or_raises_is_left_behind(self) -> None:
        self.climb()
        self.notes.clear()
        self.c.stop_deadline = 3.0
        self.c.before_stopped = Deferred
        self.b.before_stopped = refuse(OSError("no"))
        stopped = self.stop()
        self.reactor.advance(2.9)
        assert self.notes == ["-c"]
        self.reactor.advance(0.2)
        assert self.notes == ["-c", "-b", "-a", ".a"]
        assert stopped.called
        assert self.log.tracebacks(OSError) == 1
        assert [str(e["overrun"]) for e in self.log.events if "overrun" in e] == ["c did not stop within 3 s"]

    def test_a_failed_start_stops_what_is_up_and_ends_the_process(self) -> None:
        self.b.before_ready = refuse(OSError("port taken"))
        self.climb()
        self.reactor.advance(0)
        self.reactor.advance(0)
        assert self.notes == ["+a", "a", "+b", "-b", ".b", "-a", ".a"]
        assert self.codes == [1]
        assert self.states() == {"a": "stopped", "b": "failed", "c": "stopped"}
        assert self.ladder.status()[1].last_failure == "OSError: port taken"
        assert [(e["child"], e["what"]) for e in self.criticals()] == [("b", "cannot start")]
        assert self.log.tracebacks(OSError) == 1
        self.reactor.advance(100)
        assert self.codes == [1]

    def test_a_stop_that_comes_before_the_escalation_is_just_a_stop(self) -> None:
        self.b.before_ready = refuse(OSError("port taken"))
        self.climb()
        assert self.stop().called
        self.reactor.advance(100)
        assert self.codes == []
        assert self.notes[-1] == ".a"

    def test_a_configuration_error_is_one_line_without_traceback(self) -> None:
        self.c.before_ready = refuse(ConfigurationError("--listen: no such thing"))
        self.climb()
        self.reactor.advance(0)
        self.reactor.advance(0)
        assert self.codes == [1]
        assert [e["reason"] for e in self.criticals()] == ["--listen: no such thing"]
        assert self.log.tracebacks(Exception) == 0

    def test_a_start_that_never_returns_is_cancelled_at_its_deadline(self) -> None:
        cancelled: list[Exception] = []
        hang: Deferred[None] = Deferred(lambda _: cancelled.append(CancelledError()))
        self.b.before_ready = lambda: hang
        self.b.start_deadline = 5.0
        self.climb()
        self.reactor.advance(4.9)
        assert (self.codes, cancelled) == ([], [])
        self.reactor.pump([0.2, 0, 0])
        assert (self.codes, len(cancelled)) == ([1], 1)
        assert self.ladder.status()[1].last_failure == "b was not ready within 5 s"
        assert self.notes == ["+a", "a", "+b", "-b", ".b", "-a", ".a"]

    def test_a_start_that_resists_cancelling_is_left_behind(self) -> None:
        self.b.start = stubborn  # type: ignore[method-assign]
        self.climb()
        self.reactor.pump([60, 0, 10, 0, 0])
        assert self.codes == [1]
        assert self.notes == ["+a", "a", "-b", ".b", "-a", ".a"]

    def test_dying_while_starting_is_a_failed_start(self) -> None:
        def die_and_hang() -> Deferred[None]:
            self.b.die("at birth")
            return Deferred()

        self.b.before_ready = die_and_hang
        self.climb()
        self.reactor.pump([0, 0, 0])
        assert self.codes == [1]
        assert self.ladder.status()[1].last_failure == "OSError: at birth"
        assert self.log.tracebacks(OSError) == 1

    def test_dying_while_starting_fails_the_start_even_if_it_returns(self) -> None:
        self.b.before_ready = lambda: self.b.die("at birth")
        self.climb()
        self.reactor.pump([0, 0, 0])
        assert self.codes == [1]

    def test_the_first_climb_waits_for_every_rung_below(self) -> None:
        ready: Deferred[None] = Deferred()
        loner = FakeChild("loner", self.notes)
        loner.before_ready = lambda: ready
        top = FakeChild("top", self.notes)
        self.ladder.addService(loner)
        self.ladder.addService(top)
        self.climb()
        self.a.die()
        ready.callback(None)
        self.reactor.pump([0])
        assert self.notes[6:] == ["+loner", "loner", "-c", ".c", "-b", ".b", "-a", ".a"]
        self.reactor.pump([0.2])
        assert self.notes[14:] == ["+a", "a", "+b", "b", "+c", "c", "+top", "top"]

    def test_a_death_below_during_the_first_climb_is_repaired_in_order(self) -> None:
        waiting: list[Deferred[None]] = []

        def wait() -> Deferred[None]:
            waiting.append(Deferred())
            return waiting[-1]

        self.b.before_ready = wait
        self.climb()
        self.a.die()
        self.reactor.pump([0, 0.2])
        assert self.notes == ["+a", "a", "+b", "-b", ".b", "-a", ".a", "+a", "a", "+b"]
        waiting[-1].callback(None)
        assert self.states() == {"a": "running", "b": "running", "c": "running"}
        assert [status.restarts for status in self.ladder.status()] == [1, 0, 0]
        assert self.codes == []
        assert self.log.tracebacks(OSError) == 1

    def test_a_stop_in_the_middle_of_a_start(self) -> None:
        self.b.before_ready = Deferred
        self.climb()
        stopped = self.stop()
        assert stopped.called
        assert self.notes == ["+a", "a", "+b", "-b", ".b", "-a", ".a"]
        self.reactor.advance(1000)
        assert self.notes[-1] == ".a"
        assert self.codes == []
        assert self.log.tracebacks(Exception) == 0

    def test_a_stop_before_the_reactor_runs(self) -> None:
        self.ladder.startService()
        assert self.ladder.stopService().called
        self.reactor.run()
        assert self.notes == []
        assert self.reactor.getDelayedCalls() == []

    def test_a_stop_called_from_the_started_callback(self) -> None:
        stopped: list[Deferred[None]] = []
        self.ladder.on_started(lambda: stopped.append(self.ladder.stopService()))
        self.climb()
        self.reactor.advance(0)
        assert stopped[0].called
        assert self.notes[-2:] == ["-a", ".a"]

    def test_is_climbed_once(self) -> None:
        self.climb()
        self.ladder.startService()
        assert self.notes == ["+a", "a", "+b", "b", "+c", "c"]
        self.stop()
        self.ladder.startService()
        assert self.notes[-1] == ".a"

    def test_five_hundred_rungs_that_are_ready_at_once(self) -> None:
        ladder = Ladder(self.reactor, lambda: 0.0, self.codes.append)
        for number in range(500):
            put(FakeChild(f"n{number}", self.notes, f"n{number - 1}"), ladder)
        self.reactor.run()
        ladder.startService()
        assert {status.state for status in ladder.status()} == {"running"}
        stopped = ladder.stopService()
        self.reactor.advance(0)
        assert stopped.called
        assert {status.state for status in ladder.status()} == {"stopped"}

    def test_only_children_in_order_and_before_the_start(self) -> None:
        with pytest.raises(TypeError):
            put(Service(), self.ladder)
        with pytest.raises(RuntimeError):
            self.ladder.removeService(self.a)
        ladder = Ladder(self.reactor, lambda: 0.0, self.codes.append)
        put(FakeChild("x", self.notes, "y"), ladder)
        with pytest.raises(ValueError):
            put(FakeChild("y", self.notes), ladder)
        with pytest.raises(RuntimeError):
            put(FakeChild("x", self.notes), ladder)
        self.climb()
        with pytest.raises(RuntimeError):
            put(FakeChild("late", self.notes), self.ladder)

    def test_is_a_service_tree_to_twisted(self) -> None:
        assert IService.providedBy(self.a)
        top: Any = MultiService()  # type: ignore[no-untyped-call]
        put(self.ladder, top)
        assert list(self.ladder) == [self.a, self.b, self.c]
        top.privilegedStartService()
        top.startService()
        self.reactor.run()
        assert self.states()["c"] == "running"
        stopped = top.stopService()
        self.reactor.advance(0)
        assert stopped.called
        assert self.notes[-1] == ".a"

"""The writer over a store that fails on demand: everyone is answered once, and what they are told is true."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ledger.domain.book import Book
from ledger.domain.commands import Command, Leg, Replayed, Sealed
from ledger.domain.errors import ConfigurationError, Refused
from ledger.domain.events import Committed
from ledger.services.lanes import Lanes
from ledger.services.writer import Writer
from ledger.store.memory import MemoryJournal
from ledger.store.postgres import ConnectionLost, StatementFailed
from tests.cleanliness import LoggedErrors
from tests.domain.kinds import Broken, Transfer
from tests.strategies import Cast, Step, examples

KEPT = ConnectionLost("the answer to the COMMIT was lost")
POISON = StatementFailed("23514", "a constraint")
BUSY = StatementFailed("55P03", "lock timeout")


class Unreliable(MemoryJournal):
    """A journal in memory whose operations fail as planned, and whose connection must be opened again when lost."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, ())
        self.plan: dict[str, deque[Exception | Deferred[None] | None]] = {}
        self.poison: set[str] = set()
        self.down = False
        self.connected = False
        self.commits: list[int] = []
        self.ahead: list[list[str]] = []
        self.read: list[int] = []
        self.parts: list[int] = []
        self.opened = 0

    def fails(self, operation: str, *how: Exception | Deferred[None] | None) -> None:
        """Plan what becomes of the next calls of an operation."""
        self.plan.setdefault(operation, deque()).extend(how)

    async def _step(self, operation: str) -> None:
        if not self.connected:
            raise ConnectionLost("closed")
        planned = self.plan.get(operation)
        how = planned.popleft() if planned else None
        if isinstance(how, Deferred):
            await how
        elif how is not None:
            self.connected = self.connected and not isinstance(how, ConnectionLost)
            raise how

    async def open(self) -> None:
        self.opened += 1
        if self.down:
            raise ConnectionLost("no server")
        planned = self.plan.get("open")
        how = planned.popleft() if planned else None
        if isinstance(how, Exception):
            raise how
        self.connected = True

    def close(self) -> None:
        self.connected = False

    def look_ahead(self, commands: Sequence[Command]) -> Book | None:
        self.ahead.append([command.id for command in commands])
        return None

    async def read_facts(self, commands: Sequence[Command]) -> Book:
        await self._step("read_facts")
        self.read.append(len(commands))
        return await super().read_facts(commands)

    async def append_part(self, book: Book, batch: Sequence[Sealed]) -> None:
        self.parts.append(len(batch))
        await super().append_part(book, batch)

    async def append(self, book: Book, batch: Sequence[Sealed], refused: Sequence[Command] = ()) -> None:
        if self.poison & {sealed.record.id for sealed in batch}:
            raise POISON
        kept = self.plan.get("append", deque([None]))
        if kept and kept[0] is KEPT:
            await super().append(book, batch, refused)
        await self._step("append")
        await super().append(book, batch, refused)
        self.commits.append(len(batch))

    async def roll_back(self) -> None:
        await self._step("roll_back")
        await super().roll_back()

    async def kept(self, ids: Iterable[str]) -> set[str]:
        await self._step("kept")
        return await super().kept(ids)


class Desk:
    """A writer, its store, and all that anybody was told."""

    def __init__(self, started: bool = True, **settings: Any) -> None:
        self.clock = Clock()
        self.cast = Cast.new()
        self.store = Unreliable(self.clock)
        for account in self.cast.everyone:
            self.store.open_account(account)
        self.published: list[Committed] = []
        self.writer = Writer(self.store, self.clock, self.committed, **settings)
        self.deaths: list[Failure] = []
        self.writer.watched_by(self.deaths.append)
        self.told: dict[str, list[Any]] = {}
        if started:
            self.start()

    def committed(self, batch: Sequence[Committed]) -> None:
        """Note what was published."""
        self.published += batch

    def start(self) -> None:
        """Start the writer."""
        ensureDeferred(self.writer.start())
        assert self.store.connected

    def credit(self, who: int = 0, amount: int = 100, key: str | None = None, kind: str = "credit") -> Command:
        """Make a command."""
        return self.cast.command(Step(kind, who, 0, None, amount, key, 0, None))

    def send(self, *commands: Command) -> None:
        """Submit commands and note what they are told."""
        for command in commands:
            told = self.told.setdefault(command.id, [])
            self.writer.submit(command).addBoth(_keep, told)

    def turn(self, seconds: float = 0.0) -> None:
        """Let that much time pass, in small steps."""
        self.clock.pump([0.05] * max(1, round(seconds / 0.05)) if seconds else [0] * 5)

    def outcome(self, command: Command) -> str:
        """What a command was told, which must have been one thing."""
        (outcome,) = self.told[command.id]
        if isinstance(outcome, Sealed):
            assert outcome.record.id == command.id
            return "posted"
        if isinstance(outcome, Replayed):
            return "replayed"
        assert isinstance(outcome, Exception)
        if isinstance(outcome, Refused):
            return str(outcome.details.get("outcome", outcome.reason))
        return type(outcome).__name__

    def outcomes(self, commands: Iterable[Command]) -> list[str]:
        """What some were told; checks that it is true."""
        told = []
        kept = Counter(sealed.record.id for sealed in self.store.sealed)
        assert set(kept.values()) <= {1}
        for command in commands:
            outcome = self.outcome(command)
            if outcome != "unknown":
                assert kept[command.id] == (outcome == "posted")
            told.append(outcome)
        return told


def _keep(outcome: Any, told: list[Any]) -> None:
    told.append(outcome.value if isinstance(outcome, Failure) else outcome)


def posted(many: int) -> list[str]:
    """So many that were posted."""
    return ["posted"] * many


def test_what_arrives_in_one_turn_is_one_batch() -> None:
    desk = Desk()
    commands = [desk.credit(who) for who in (0, 1, 2, 3) * 5]
    desk.send(*commands)
    assert not any(desk.told.values())
    desk.turn()
    assert desk.outcomes(commands) == posted(20)
    assert desk.store.commits == [20]
    assert [one.record.seq for one in desk.published] == list(range(1, 21))
    assert desk.writer.depth == 0


def test_what_arrives_meanwhile_is_the_next_batch() -> None:
    desk = Desk()
    slow: Deferred[None] = Deferred()
    desk.store.fails("append", slow)
    first, *rest = [desk.credit() for _ in range(30)]
    desk.send(first)
    desk.turn()
    desk.send(*rest)
    desk.turn()
    assert desk.writer.depth == 29
    assert not any(desk.told.values())
    slow.callback(None)
    desk.turn()
    assert desk.store.commits == [1, 29]
    assert desk.outcomes([first, *rest]) == posted(30)


def test_nobody_is_told_before_the_commit_and_nothing_published() -> None:
    desk = Desk()
    slow: Deferred[None] = Deferred()
    desk.store.fails("append", slow)
    first, twin = (desk.credit(key="k") for _ in range(2))
    poor = desk.credit(who=1, kind="debit")
    desk.send(first, twin, poor)
    desk.turn()
    assert not any(desk.told.values())
    assert desk.published == []
    slow.callback(None)
    desk.turn()
    assert desk.outcomes([first, twin, poor]) == ["posted", "replayed", "insufficient_funds"]


def test_five_thousand_wait_and_are_answered_without_recursion() -> None:
    desk = Desk(lanes=Lanes(per_lane=5_000), batch=7)
    commands = [desk.credit(amount=1) for _ in range(5_000)]
    desk.send(*commands)
    desk.turn()
    assert desk.outcomes(commands) == posted(5_000)
    assert max(desk.store.commits) == 7
    account = desk.store.accounts[desk.cast.accounts[0].id]
    assert (account.balance, account.version) == (5_000, 5_000)


def test_only_refusals_leave_nothing_to_commit() -> None:
    desk = Desk()
    command = desk.credit(kind="debit")
    desk.send(command)
    desk.turn()
    assert desk.outcomes([command]) == ["insufficient_funds"]
    assert desk.store.commits == []


@pytest.mark.parametrize("operation", ["read_facts", "roll_back"])
def test_a_connection_lost_before_the_commit_is_made_good(operation: str) -> None:
    desk = Desk()
    desk.store.fails(operation, ConnectionLost("gone"))
    commands = [desk.credit(kind="debit" if operation == "roll_back" else "credit") for _ in range(10)]
    desk.send(*commands)
    desk.turn()
    expected = "insufficient_funds" if operation == "roll_back" else "posted"
    assert desk.outcomes(commands) == [expected] * 10
    assert desk.store.opened == 2


def test_a_batch_is_tried_twice_and_no_more() -> None:
    desk = Desk()
    desk.store.fails("read_facts", *[ConnectionLost("gone")] * 2)
    first = desk.credit()
    desk.send(first)
    desk.turn()
    assert desk.outcomes([first]) == ["not_done"]
    second = desk.credit()
    desk.send(second)
    desk.turn()
    assert desk.outcomes([second]) == ["posted"]


@pytest.mark.parametrize(("lost", "outcome"), [(KEPT, "posted"), (ConnectionLost("before"), "not_done")])
def test_a_connection_lost_in_the_commit_is_asked_after(lost: ConnectionLost, outcome: str) -> None:
    desk = Desk()
    desk.store.fails("append", lost)
    commands = [desk.credit(who) for who in (0, 1, 2)]
    poor = desk.credit(who=3, kind="debit")
    desk.send(*commands, poor)
    desk.turn()
    assert desk.outcomes(commands) == [outcome] * 3
    assert desk.outcome(poor) == ("insufficient_funds" if lost is KEPT else "not_done")
    assert len(desk.published) == (3 if lost is KEPT else 0)
    later = desk.credit()
    desk.send(later)
    desk.turn()
    assert desk.outcomes([later]) == ["posted"]


@pytest.mark.parametrize("lost", [KEPT, ConnectionLost("before")])
def test_what_cannot_be_found_out_in_time_is_unknown_at_once(lost: ConnectionLost) -> None:
    desk = Desk()
    desk.store.fails("append", lost)
    commands = [desk.credit(key="k"), desk.credit()]
    desk.send(*commands)
    desk.store.down = True
    desk.turn(29)
    assert not any(desk.told.values())
    refused = desk.credit()
    desk.send(refused)
    desk.turn(0.5)
    assert desk.outcomes([refused]) == ["not_done"]
    desk.turn(5)
    assert desk.outcomes(commands) == ["unknown", "unknown"]  # though the database is still away
    desk.store.down = False
    desk.turn(5)
    again = desk.credit(key="k")
    desk.send(again)
    desk.turn()
    assert desk.outcome(again) == ("replayed" if lost is KEPT else "posted")


def test_settling_goes_on_when_asking_fails() -> None:
    desk = Desk()
    desk.store.fails("append", KEPT)
    desk.store.fails("kept", BUSY, ConnectionLost("again"), BUSY)
    desk.store.fails("open", ConfigurationError("--database: a standby"))
    command = desk.credit()
    desk.send(command)
    desk.turn(5)
    assert desk.outcomes([command]) == ["posted"]


@pytest.mark.parametrize("where", [0, 1, 49, 50, 99])
def test_a_poison_stands_alone(where: int) -> None:
    desk = Desk()
    commands = [desk.credit(who % 4) for who in range(100)]
    desk.store.poison = {commands[where].id}
    desk.send(*commands)
    desk.turn()
    told = desk.outcomes(commands)
    assert told[where] == "database_error"
    assert told.count("posted") == 99
    assert len(desk.published) == 99
    assert [sealed.record.seq for sealed in desk.store.sealed] == list(range(1, 100))


def test_two_poisons_and_one_that_reads_badly() -> None:
    desk = Desk()
    commands = [desk.credit() for _ in range(100)]
    desk.store.poison = {commands[3].id, commands[4].id}
    desk.store.fails("read_facts", POISON, POISON)
    desk.send(*commands)
    desk.turn()
    assert desk.outcomes(commands).count("posted") == 98


def test_order_within_an_account_survives_the_halving() -> None:
    desk = Desk()
    commands = [desk.credit(amount=1) for _ in range(50)] + [desk.credit(amount=50, kind="debit")]
    bad = desk.credit(who=1)
    desk.store.poison = {bad.id}
    desk.send(*commands, bad)
    desk.turn()
    assert desk.outcomes(commands) == posted(51)


@pytest.mark.parametrize("operation", ["read_facts", "append"])
def test_what_will_pass_is_not_done_and_not_the_fault_of_anyone(operation: str) -> None:
    desk = Desk()
    desk.store.fails(operation, BUSY)
    commands = [desk.credit() for _ in range(20)]
    desk.send(*commands)
    desk.turn()
    assert desk.outcomes(commands) == ["not_done"] * 20
    later = desk.credit()
    desk.send(later)
    desk.turn()
    assert desk.outcomes([later]) == ["posted"]


def test_an_outage_in_the_midst_of_halving_is_told_at_once() -> None:
    desk = Desk()
    commands = [desk.credit() for _ in range(64)]
    desk.store.poison = {commands[0].id}
    # 64, 32, 16 hold the poison; then the connection goes.
    desk.store.fails("read_facts", None, None, None, ConnectionLost("gone"))
    desk.store.fails("open", *[ConnectionLost("no server")] * 50)
    desk.send(*commands)
    desk.turn()
    assert desk.outcomes(commands) == ["not_done"] * 64


def test_while_the_database_is_away_everyone_is_told_at_once_and_then_it_is_back() -> None:
    desk = Desk()
    desk.store.down = True
    desk.store.connected = False
    first, second = desk.credit(), desk.credit()
    desk.send(first)
    desk.turn()
    assert desk.outcomes([first]) == ["not_done"]
    desk.send(second)
    assert desk.outcomes([second]) == ["not_done"]  # not even a turn later
    desk.turn(60)
    assert 15 < desk.store.opened < 40  # it goes on trying, ever less often
    desk.store.down = False
    desk.turn(4)
    third = desk.credit()
    desk.send(third)
    desk.turn()
    assert desk.outcomes([third]) == ["posted"]
    assert desk.deaths == []


def test_a_stop_finishes_what_is_queued() -> None:
    desk = Desk(batch=10)
    slow: Deferred[None] = Deferred()
    desk.store.fails("append", slow)
    commands = [desk.credit() for _ in range(95)]
    desk.send(*commands)
    desk.turn()
    stopped = ensureDeferred(desk.writer.stop())
    late = desk.credit()
    desk.send(late)
    assert desk.outcomes([late]) == ["not_done"]
    desk.turn()
    assert not stopped.called
    slow.callback(None)
    desk.turn()
    assert stopped.called
    assert desk.outcomes(commands) == posted(95)
    assert not desk.store.connected
    assert desk.clock.getDelayedCalls() == []


def test_a_stop_with_nothing_to_do() -> None:
    desk = Desk()
    stopped = ensureDeferred(desk.writer.stop())
    desk.turn()
    assert stopped.called
    assert not desk.store.connected


def test_a_stop_before_any_start() -> None:
    desk = Desk(started=False)
    command = desk.credit()
    desk.send(command)
    assert desk.outcomes([command]) == ["not_done"]
    assert ensureDeferred(desk.writer.stop()).called


def test_a_start_that_fails_can_be_made_again() -> None:
    desk = Desk(started=False)
    desk.store.down = True
    failures: list[Failure] = []
    ensureDeferred(desk.writer.start()).addErrback(failures.append)
    assert isinstance(failures[0].value, ConnectionLost)
    assert ensureDeferred(desk.writer.stop()).called
    desk.store.down = False
    desk.start()
    command = desk.credit()
    desk.send(command)
    desk.turn()
    assert desk.outcomes([command]) == ["posted"]


def test_a_stop_while_the_database_is_away() -> None:
    desk = Desk()
    desk.store.down = True
    desk.store.connected = False
    command = desk.credit()
    desk.send(command)
    desk.turn(1)
    stopped = ensureDeferred(desk.writer.stop())
    desk.turn(7)
    assert stopped.called
    assert desk.outcomes([command]) == ["not_done"]
    assert desk.clock.getDelayedCalls() == []


@pytest.mark.parametrize("back", [True, False])
def test_a_stop_while_a_commit_is_in_doubt(back: bool) -> None:
    desk = Desk(batch=2)
    desk.store.fails("append", KEPT)
    commands = [desk.credit() for _ in range(6)]
    desk.send(*commands)
    desk.store.down = True
    desk.turn(1)
    stopped = ensureDeferred(desk.writer.stop())
    desk.turn(5)
    assert not stopped.called
    desk.store.down = not back
    desk.turn(35)
    assert stopped.called
    assert desk.outcomes(commands) == ["posted" if back else "unknown"] * 2 + ["not_done"] * 4


def test_a_writer_starts_again_after_a_stop() -> None:
    desk = Desk()
    ensureDeferred(desk.writer.stop())
    desk.turn()
    desk.start()
    command = desk.credit()
    desk.send(command)
    desk.turn()
    assert desk.outcomes([command]) == ["posted"]


def test_whoever_takes_the_committed_may_fail(logged_errors: LoggedErrors, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(started=False)

    def burst(_: object) -> None:
        raise RuntimeError("the feed is broken")

    monkeypatch.setattr(desk.writer, "_committed", burst)
    desk.start()
    commands = [desk.credit() for _ in range(3)]
    desk.send(*commands)
    desk.turn()
    assert desk.outcomes(commands) == posted(3)
    assert len(logged_errors(RuntimeError)) == 1
    assert desk.deaths == []


def test_a_rule_that_breaks_fails_its_own_command_only(logged_errors: LoggedErrors) -> None:
    desk = Desk()
    rich, poor = desk.cast.everyone[-2].id, desk.cast.accounts[0].id
    broken = Broken(id=desk.cast.unknown, account_id=rich, target=poor)
    commands = [desk.credit() for _ in range(10)]
    desk.send(*commands[:5], broken, *commands[5:])
    desk.turn()
    assert desk.outcomes(commands) == posted(10)
    assert desk.outcomes([broken]) == ["ZeroDivisionError"]
    assert desk.store.commits == [10]
    assert len(logged_errors(ZeroDivisionError)) == 1


class Lost(Transfer, frozen=True, kw_only=True):
    """Cannot say what it needs."""

    def needs(self) -> Any:
        """Break."""
        raise LookupError("what do I need?")


class Nowhere(Transfer, frozen=True, kw_only=True):
    """Cannot say where it queues."""

    @property
    def lane(self) -> str:
        """Break."""
        raise LookupError("where do I stand?")


def test_a_kind_that_breaks_before_it_is_decided(logged_errors: LoggedErrors) -> None:
    desk = Desk()
    commands = [desk.credit() for _ in range(10)]
    legs = (Leg(desk.cast.accounts[0].id, desk.cast.accounts[1].id, 1),)
    lost, nowhere = Lost(id=desk.cast.unknown, legs=legs), Nowhere(id=desk.cast.scopes[0], legs=legs)
    desk.send(*commands[:5], lost, nowhere, *commands[5:])
    desk.turn()
    assert desk.outcomes(commands) == posted(10)
    assert desk.outcomes([lost, nowhere]) == ["LookupError", "LookupError"]
    assert len(logged_errors(LookupError)) == 1
    assert desk.deaths == []


def test_a_store_that_breaks_in_the_commit_is_never_said_not_to_have_done_it() -> None:
    desk = Desk(batch=5)
    desk.store.fails("append", RuntimeError("who knows"))
    commands = [desk.credit() for _ in range(12)]
    desk.send(*commands)
    desk.turn()
    assert desk.outcomes(commands) == ["unknown"] * 5 + ["not_done"] * 7
    assert [failure.type for failure in desk.deaths] == [RuntimeError]
    late = desk.credit()
    desk.send(late)
    assert desk.outcomes([late]) == ["not_done"]
    assert ensureDeferred(desk.writer.stop()).called
    desk.start()
    again = desk.credit()
    desk.send(again)
    desk.turn()
    assert desk.outcomes([again]) == ["posted"]


def test_a_full_lane_refuses_and_harms_no_other() -> None:
    desk = Desk(lanes=Lanes(per_lane=3, in_all=5))
    hot = [desk.credit(0) for _ in range(5)]
    cold = [desk.credit(1) for _ in range(3)]
    desk.send(*hot)
    assert desk.outcomes(hot[3:]) == ["not_done"] * 2
    desk.send(*cold)
    assert desk.outcomes(cold[2:]) == ["not_done"]
    desk.turn()
    assert desk.outcomes(hot[:3] + cold[:2]) == posted(5)


faults = st.sampled_from(
    ["read", "read", "roll_back", "kept", "lost", "busy", "poison", "kept_lost", "down", "up", "up", "open", "turn"]
)
STEP = st.one_of(faults, st.integers(1, 12))


@given(st.lists(STEP, max_size=40))
@examples(150)
def test_whatever_fails_everyone_is_told_one_true_thing(program: list[str | int]) -> None:
    desk = Desk(batch=8)
    store, sent = desk.store, list[Command]()
    for step in program:
        if isinstance(step, int):
            commands = [desk.credit(number % 3, key=f"{len(sent) + number}") for number in range(step)]
            sent += commands
            desk.send(*commands)
        elif step == "poison" and sent:
            store.poison.add(sent[-1].id)
        elif step in ("down", "up"):
            store.down = step == "down"
        else:
            operation, how = {
                "read": ("read_facts", ConnectionLost("r")),
                "roll_back": ("roll_back", ConnectionLost("b")),
                "kept": ("append", KEPT),
                "lost": ("append", ConnectionLost("a")),
                "busy": ("read_facts", BUSY),
                "kept_lost": ("kept", ConnectionLost("k")),
                "open": ("open", ConnectionLost("o")),
            }.get(step, ("none", None))
            store.fails(operation, how)
            desk.turn(0.2)
    store.down = False
    desk.turn(40)
    store.plan.clear()
    desk.turn(5)
    outcomes = desk.outcomes(sent)
    assert set(outcomes) <= {"posted", "not_done", "unknown", "database_error"}
    assert [sealed.record.seq for sealed in store.sealed] == list(range(1, len(store.sealed) + 1))
    later = [desk.credit() for _ in range(3)]
    desk.send(*later)
    desk.turn()
    assert desk.outcomes(later) == posted(3)
    assert desk.deaths == []
    stopped = ensureDeferred(desk.writer.stop())
    desk.turn()
    assert stopped.called
    assert desk.clock.getDelayedCalls() == []


def test_a_full_batch_is_taken_while_the_one_before_is_kept() -> None:
    desk = Desk(batch=2)
    append: Deferred[None] = Deferred()
    desk.store.fails("append", append)
    commands = [desk.credit() for _ in range(5)]
    desk.send(*commands)
    desk.turn()
    assert desk.store.ahead == [[command.id for command in some] for some in (commands[:2], commands[2:4])]
    append.callback(None)
    desk.turn()
    assert desk.outcomes(commands) == ["posted"] * 5
    assert desk.store.commits == [2, 2, 1]


@pytest.mark.parametrize(("lost", "outcome"), [(KEPT, "posted"), (ConnectionLost("before"), "not_done")])
def test_what_was_taken_early_is_refused_with_what_waits(lost: ConnectionLost, outcome: str) -> None:
    desk = Desk(batch=2)
    desk.store.fails("append", lost)
    commands = [desk.credit() for _ in range(5)]
    desk.send(*commands)
    desk.turn(1)
    assert desk.outcomes(commands) == [outcome, outcome, "not_done", "not_done", "not_done"]


def test_what_was_taken_early_comes_after_the_halves_of_what_broke() -> None:
    desk = Desk(batch=2)
    commands = [desk.credit() for _ in range(4)]
    desk.store.poison = {commands[1].id}
    desk.send(*commands)
    desk.turn()
    assert desk.outcomes(commands) == ["posted", "database_error", "posted", "posted"]
    assert [one.record.id for one in desk.published] == [commands[0].id, commands[2].id, commands[3].id]

"""Answers: each once, each on its own, and the reactor turns between them."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock

from ledger.domain.commands import Replayed
from ledger.domain.errors import Refused
from ledger.domain.journal import Record
from ledger.services.replies import Replies, Waiting
from tests.cleanliness import LoggedErrors
from tests.strategies import Cast, Step

RECORD = Record(v=1, seq=1, id="x", kind="credit", posted_at="now")


def keep(outcome: Any, told: list[Any], number: int) -> None:
    """Note what one was told."""
    told.append((number, getattr(outcome, "value", outcome)))


def turn(clock: Clock) -> None:
    """One turn of a reactor: what is due at its beginning, and not what that brings."""
    due: list[Any] = list(clock.calls)
    clock.calls.clear()
    for call in due:
        call.func(*call.args, **call.kw)


def waiting_ones(many: int) -> tuple[list[Waiting], list[Any]]:
    """Some who wait, and what they were told, in order."""
    cast, told = Cast.new(), list[Any]()
    ones = [Waiting(cast.command(Step("credit", 0, 0, None, 1, None, 0, None))) for _ in range(many)]
    for number, one in enumerate(ones):
        one.answer.addBoth(keep, told, number)
    return ones, told


def test_nobody_is_answered_before_the_next_turn() -> None:
    clock = Clock()
    replies = Replies(clock)
    (one,), told = waiting_ones(1)
    replies.give([(one, [Replayed(RECORD)])])
    assert told == []
    clock.advance(0)
    assert told == [(0, Replayed(RECORD))]
    assert clock.getDelayedCalls() == []


def test_a_flood_is_answered_in_slices_and_in_order() -> None:
    clock = Clock()
    replies = Replies(clock)
    ones, told = waiting_ones(1_000)
    replies.give((one, [Replayed(RECORD)]) for one in ones)
    turns = 0
    while clock.getDelayedCalls():
        before = len(told)
        turn(clock)
        assert len(told) - before <= 32
        turns += 1
    assert [number for number, _ in told] == list(range(1_000))
    assert turns > 30


def test_the_first_outcome_stands() -> None:
    clock = Clock()
    replies = Replies(clock)
    ones, told = waiting_ones(2)
    refused = Refused("forbidden")
    replies.give([(ones[0], [refused]), (ones[0], [Replayed(RECORD)])])
    replies.give([(ones[0], [Replayed(RECORD)]), (ones[1], [Replayed(RECORD)])])
    clock.pump([0] * 5)
    replies.give([(ones[0], [Replayed(RECORD)])])
    clock.pump([0] * 5)
    assert told == [(0, refused), (1, Replayed(RECORD))]


def test_one_who_raises_harms_nobody(logged_errors: LoggedErrors) -> None:
    clock = Clock()
    replies = Replies(clock)
    ones, told = waiting_ones(3)

    def burst(_: Any) -> None:
        raise RuntimeError("the client has gone")

    ones[1].answer.addCallback(burst)
    replies.give((one, [Replayed(RECORD)]) for one in ones)
    clock.pump([0] * 5)
    assert [number for number, _ in told] == [0, 1, 2]
    del ones
    assert len(logged_errors(RuntimeError)) == 1


def test_one_whose_answer_cannot_be_given_harms_nobody(logged_errors: LoggedErrors) -> None:
    clock = Clock()
    replies = Replies(clock)
    ones, told = waiting_ones(3)
    ones[1].answer.callback(Replayed(RECORD))
    replies.give((one, [Replayed(RECORD)]) for one in ones)
    clock.pump([0] * 5)
    assert sorted(number for number, _ in told) == [0, 1, 2]
    assert len(logged_errors()) == 1


def test_one_who_gave_up_harms_nobody() -> None:
    clock = Clock()
    replies = Replies(clock)
    ones, told = waiting_ones(2)
    ones[0].answer.cancel()
    replies.give((one, [Replayed(RECORD)]) for one in ones)
    clock.pump([0] * 5)
    assert told[1:] == [(1, Replayed(RECORD))]


def test_what_broke_is_logged_and_what_was_refused_is_not(logged_errors: LoggedErrors) -> None:
    clock = Clock()
    replies = Replies(clock)
    ones, told = waiting_ones(2)
    replies.give([(ones[0], [Refused("forbidden")]), (ones[1], [ZeroDivisionError("rule")])])
    clock.pump([0] * 5)
    assert [type(outcome) for _, outcome in told] == [Refused, ZeroDivisionError]
    assert len(logged_errors(ZeroDivisionError)) == 1


def test_quiet_comes_when_everyone_is_answered() -> None:
    clock = Clock()
    replies = Replies(clock)
    ones, told = waiting_ones(100)
    assert ensureDeferred(replies.quiet()).called
    replies.give((one, [Replayed(RECORD)]) for one in ones)
    when: list[int] = []
    for _ in range(2):  # whoever asks
        quiet: Deferred[None] = ensureDeferred(replies.quiet())
        quiet.addCallback(lambda _: when.append(len(told)))
    clock.pump([0] * 10)
    assert when == [100, 100]


def test_answers_may_bring_more_answers() -> None:
    clock = Clock()
    replies = Replies(clock)
    ones, told = waiting_ones(50)

    def next_one(outcome: Any, number: int) -> Any:
        replies.give([(ones[number + 1], [Replayed(RECORD)])])
        return outcome

    for number in range(49):
        ones[number].answer.addCallback(next_one, number)
    replies.give([(ones[0], [Replayed(RECORD)])])
    clock.pump([0] * 60)
    assert [number for number, _ in told] == list(range(50))
    assert clock.getDelayedCalls() == []

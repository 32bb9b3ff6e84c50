"""Bundles through the writer: in their order, beside the lanes, whole or not, and every outcome told."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from ledger.domain.accounts import world_id
from ledger.domain.commands import Answered, Command, Leg, Replayed, Sealed
from ledger.domain.errors import Refused
from ledger.services.batch import Batch
from ledger.services.bundles import Bundle, Bundles
from ledger.services.intake import Intake
from ledger.services.lanes import LaneFull
from ledger.services.replies import Waiting
from ledger.store.postgres import ConnectionLost
from tests.cleanliness import LoggedErrors
from tests.domain.kinds import Broken, Transfer
from tests.services.test_replies import turn
from tests.services.test_writer import BUSY, KEPT, Desk


def told(desk: Desk, commands: list[Command], **how: bool) -> list[Any]:
    """Submit a bundle and return where its outcomes will be."""
    heard: list[Any] = []
    desk.writer.submit_bundle(commands, **how).addBoth(heard.append)
    return heard


def words(outcomes: list[Any]) -> list[str]:
    """Outcomes in words."""
    return [
        "posted"
        if isinstance(one, Sealed)
        else "replayed"
        if isinstance(one, Replayed)
        else getattr(one, "reason", "?")
        for one in outcomes
    ]


def chain(desk: Desk) -> list[Command]:
    """Commands of which each needs what the one before did."""
    return [desk.credit(0), desk.credit(0, kind="debit"), desk.credit(0, kind="debit"), desk.credit(0)]


def test_a_bundle_is_decided_in_its_order_whatever_lanes_its_accounts_have() -> None:
    desk = Desk()
    heard = told(desk, chain(desk))
    desk.turn()
    assert [words(outcomes) for outcomes in heard] == [["posted", "posted", "insufficient_funds", "posted"]]


def test_of_those_that_are_answered_nothing_is_left_but_their_answers() -> None:
    desk = Desk()
    commands = [desk.credit(0, key="k"), *chain(desk)[1:]]
    first, rest = told(desk, commands[:1]), told(desk, commands, is_answered=True)
    desk.turn()
    ((sealed,),), ((replayed, *others),) = first, rest
    assert replayed == Answered(commands[0].answer(sealed.record), is_replay=True)
    assert [isinstance(one, Answered) and not one.is_replay for one in others] == [True, False, True]
    assert words(others)[1] == "insufficient_funds"
    records = [kept.record for kept in desk.store.sealed]
    assert [one.answer for one in (replayed, others[0], others[2])] == [
        command.answer(record) for command, record in zip(commands[:2] + commands[3:], records, strict=True)
    ]


def test_a_whole_stands_or_falls_together() -> None:
    desk = Desk()
    falling, standing = told(desk, chain(desk), is_whole=True), told(desk, chain(desk)[:2], is_whole=True)
    desk.turn()
    assert [words(outcomes) for outcomes in falling] == [["insufficient_funds"] * 4]
    assert [words(outcomes) for outcomes in standing] == [["posted"] * 2]
    assert len(desk.store.sealed) == 2


def test_a_large_whole_lets_others_turn() -> None:
    desk = Desk()
    heard = told(desk, [desk.credit() for _ in range(1_000)], is_whole=True)
    turns = 0
    while not heard:
        turn(desk.clock)
        turns += 1
    assert turns > 8
    assert [words(outcomes) for outcomes in heard] == [["posted"] * 1_000]


def test_small_commands_go_first_and_bundles_do_not_fill_the_batch() -> None:
    desk = Desk()
    heard = [told(desk, [desk.credit() for _ in range(256)]) for _ in range(4)]
    small = desk.credit(1)
    desk.send(small)
    desk.turn(3)
    assert desk.outcome(small) == "posted"
    instants = [sealed.record.seq for sealed in desk.store.sealed if sealed.record.id == small.id]
    assert instants == [1]
    assert desk.store.read == [65, *[64] * 8, 448]
    assert [words(outcomes) for (outcomes,) in heard] == [["posted"] * 256] * 4


def test_where_nothing_else_comes_bundles_fill_batches_which_are_taken_ahead() -> None:
    desk = Desk()
    heard = [told(desk, [desk.credit() for _ in range(256)]) for _ in range(24)]
    desk.turn(3)
    assert desk.store.read == [64] * 7 + [1_000] * 5 + [696]
    assert [words(outcomes) for (outcomes,) in heard] == [["posted"] * 256] * 24
    assert len(desk.store.ahead) >= 5
    small = desk.credit(1)
    desk.send(small)
    more = [told(desk, [desk.credit() for _ in range(256)]) for _ in range(3)]
    desk.turn(1)
    assert desk.outcome(small) == "posted"
    assert desk.store.read[13:] == [65, *[64] * 8, 192]
    assert [words(outcomes) for (outcomes,) in more] == [["posted"] * 256] * 3


@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize("where", [0, 1, 9])
def test_a_poison_in_a_bundle(is_whole: bool, where: int) -> None:
    desk = Desk()
    commands = [desk.credit() for _ in range(10)]
    others = [desk.credit(1) for _ in range(5)]
    desk.store.poison = {commands[where].id}
    heard = told(desk, commands, is_whole=is_whole)
    desk.send(*others)
    desk.turn()
    assert desk.outcomes(others) == ["posted"] * 5
    expected = ["database_error" if is_whole or number == where else "posted" for number in range(10)]
    assert [words(outcomes) for outcomes in heard] == [expected]


@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize(
    ("operation", "how", "expected", "others"),  # the others: what is loose goes in several batches
    [
        ("read_facts", ConnectionLost("gone"), "posted", "posted"),
        ("append", KEPT, "posted", "service_unavailable"),
        ("append", ConnectionLost("before"), "service_unavailable", "service_unavailable"),
        ("read_facts", BUSY, "service_unavailable", "posted"),
    ],
)
def test_an_unreliable_store(is_whole: bool, operation: str, how: Exception, expected: str, others: str) -> None:
    desk = Desk()
    desk.store.fails(operation, how)
    heard = told(desk, [desk.credit() for _ in range(300)], is_whole=is_whole)
    desk.turn(1)
    outcomes = [expected] * 300 if is_whole else [expected] * 64 + [others] * 236
    assert [words(some) for some in heard] == [outcomes]
    assert len(desk.store.sealed) == outcomes.count("posted")


def test_bundles_are_refused_where_the_writer_is_stopped_or_stops() -> None:
    desk = Desk(started=False)
    (failure,) = told(desk, [desk.credit()])
    assert failure.value.details["outcome"] == "not_done"
    desk = Desk()
    slow: Deferred[None] = Deferred()
    desk.store.fails("append", slow)
    first = told(desk, [desk.credit()])
    desk.turn()
    second = told(desk, [desk.credit()])
    Deferred.fromCoroutine(desk.writer.stop())
    slow.callback(None)
    desk.turn()
    assert [words(outcomes) for outcomes in first + second] == [["posted"]] * 2
    (failure,) = told(desk, [desk.credit()])
    assert failure.check(Refused)


def test_a_queue_of_bundles_has_an_end() -> None:
    desk, bundles = Desk(), Bundles()
    for _ in range(256):
        bundles.put(Bundle([desk.credit()], is_whole=False))
    with pytest.raises(LaneFull):
        bundles.put(Bundle([desk.credit()], is_whole=False))
    assert len(bundles.take(10)) == 10
    assert (len(bundles), bundles.commands) == (246, 246)
    assert len(list(bundles.drain())) == 246
    assert not bundles


def test_a_batch_is_parted_beside_what_belongs_together() -> None:
    desk = Desk()
    singles: list[Waiting] = [Waiting(desk.credit()) for _ in range(3)]
    whole = Bundle([desk.credit() for _ in range(10)], is_whole=True).take(1)
    loose = Bundle([desk.credit() for _ in range(3)], is_whole=False).take(3)
    halves = Batch([*singles, whole]).halves()
    assert halves is not None
    assert [len(half.commands) for half in halves] == [3, 10]
    assert halves[1].halves() is None
    halves = Batch([whole, loose]).halves()
    assert halves is not None
    assert [len(half.commands) for half in halves] == [10, 3]
    answered = Bundle([desk.credit() for _ in range(300)], is_whole=False, is_answered=True)
    shares = [answered.take(5), answered.take(300)]
    parts = [*Batch([*singles, loose, whole, *shares, loose]).slices()]
    assert [(len(part.commands), part.is_whole, part.is_answered) for part in parts] == [
        (6, False, False),
        (10, True, False),
        (256, False, True),
        (44, False, True),
        (3, False, False),
    ]
    assert [one for part in parts for one in part.commands] == [
        one for waiting in (*singles, loose, whole, *shares, loose) for one in waiting.commands
    ]


def test_a_share_is_parted_with_all_that_it_is() -> None:
    desk = Desk()
    commands: list[Command] = [desk.credit() for _ in range(9)]
    bundle = Bundle(commands, is_whole=False)
    single, first, second = Waiting(desk.credit()), bundle.take(6), bundle.take(9)
    first.tries = 1
    halves = Batch([single, first, second]).halves()
    assert halves is not None
    assert [half.commands for half in halves] == [[*single.commands, *commands[:4]], commands[4:]]
    assert [[one.tries for one in half.waiting] for half in halves] == [[0, 1], [1, 0]]
    outcomes: list[Any] = [Refused("forbidden", place=number) for number in range(10)]
    for half, some in reversed([*zip(halves, (outcomes[:5], outcomes[5:]), strict=True)]):
        for one, told in half.told(some):
            assert not bundle.answer.called
            one.tell(told) if one is not single else None
    assert bundle.answer.result == outcomes[1:]


class Heavy(Transfer, frozen=True, kw_only=True):
    """A transfer that weighs as much as it has legs."""

    @property
    def weight(self) -> int:
        """The legs."""
        return len(self.legs)


def heavy(desk: Desk, legs: int) -> Command:
    """A transfer of so many legs, from the world."""
    one = desk.cast.accounts[0].id
    leg = Leg(world_id("USD/2"), one, 1)
    return Heavy(id=desk.credit().id, legs=(leg,) * legs)


def test_slices_and_batches_are_measured_by_legs() -> None:
    desk = Desk()
    singles: list[Waiting] = [Waiting(heavy(desk, 100)) for _ in range(7)]
    assert [len(part.commands) for part in Batch(singles).slices()] == [3, 3, 1]
    desk.send(*(heavy(desk, 100) for _ in range(25)))
    desk.turn(1)
    assert desk.store.read == [10, 10, 5]


def test_bundles_are_taken_by_legs() -> None:
    desk, bundles = Desk(), Bundles()
    for _ in range(4):
        bundles.put(Bundle([heavy(desk, 100) for _ in range(2)], is_whole=False))

    def taken(limit: int) -> int:
        return sum(len(share.commands) for share in bundles.take(limit))

    assert [taken(limit) for limit in (550, 1, 1)] == [5, 1, 1]
    bundles.put(Bundle([heavy(desk, 100) for _ in range(3)], is_whole=True))
    assert [taken(200) for _ in range(2)] == [1, 3]
    assert not bundles


def test_a_heavy_whole_is_kept_piece_by_piece() -> None:
    desk = Desk()
    heard = told(desk, [heavy(desk, 100) for _ in range(50)], is_whole=True)
    desk.turn(1)
    assert [words(outcomes) for outcomes in heard] == [["posted"] * 50]
    assert len(desk.store.parts) > 10
    assert max(desk.store.parts) <= 3
    assert len(desk.store.sealed) == 50


def test_what_breaks_in_a_whole_is_logged_once(logged_errors: LoggedErrors) -> None:
    desk = Desk()
    one, two = desk.cast.accounts[0].id, desk.cast.accounts[1].id
    desk.send(desk.credit())
    desk.turn()
    broken: list[Command] = [Broken(id=desk.credit().id, account_id=one, target=two) for _ in range(5)]
    heard = told(desk, broken, is_whole=True)
    desk.turn()
    assert [type(outcome) for outcome in heard[0]] == [ZeroDivisionError] * 5
    assert len(logged_errors(ZeroDivisionError)) == 1


def test_of_those_who_come_late_few_join_and_only_bundles() -> None:
    desk, intake = Desk(), Intake()
    for number in range(100):
        intake.lanes.put(f"{number}", Waiting(desk.credit()))
    assert intake.take_late(Batch([Waiting(desk.credit())])) == []
    batch = Batch([Bundle([desk.credit(), desk.credit()], is_whole=False).take(2)])
    commands = list(batch.commands)
    late = intake.take_late(batch)
    assert (len(late), len(intake.lanes)) == (64, 36)
    batch.join(late)
    assert batch.waiting[:64] == late
    assert batch.commands == [*(one.commands[0] for one in late), *commands]
    assert [len(part.commands) for part in batch.slices()] == [66]


def test_a_batch_takes_more_only_of_what_is_light_and_where_nobody_comes_alone() -> None:
    desk, intake = Desk(), Intake(batch=500)

    def send(many: int, *, is_whole: bool = False) -> None:
        intake.bundles.put(Bundle([desk.credit() for _ in range(many)], is_whole))

    for _ in range(8):  # a while of nothing but bundles
        send(1)
        assert intake.take_more(intake.take()) is None
    send(400)
    assert len(intake.take().commands) == 400
    send(300)
    batch = intake.take_ahead()
    assert batch is not None
    assert intake.take_more(batch) is None  # nothing is there
    send(900)
    intake.lanes.put("somebody", Waiting(desk.credit()))
    assert intake.take_more(batch) is None
    assert len(intake.lanes.take(1)) == 1
    sizes = []
    while (more := intake.take_more(batch)) is not None:
        sizes.append(len(more.commands))
        batch.grow(more)
    assert sizes == [256, 256, 188]
    assert batch.weight == len(batch.commands) == 1_000
    assert intake.take() is batch
    send(400, is_whole=True)
    assert len(intake.take().commands) == 200
    batch = intake.take_ahead()
    assert batch is not None
    assert batch.weight == 400
    send(257, is_whole=True)
    assert intake.take_more(batch) is None  # it is not to be parted
    assert intake.take() is batch
    assert len(intake.take().commands) == 257


def test_what_is_put_back_comes_before_all_that_came_later() -> None:
    desk, intake = Desk(), Intake(batch=2)
    for _ in range(9):
        intake.bundles.put(Bundle([desk.credit()], is_whole=False))
        intake.take()
    bundles = [Bundle([desk.credit(), desk.credit()], is_whole=False) for _ in range(3)]
    for bundle in bundles:
        intake.bundles.put(bundle)
    batch = intake.take_ahead()
    assert batch is not None
    more = intake.take_more(batch)
    assert more is not None
    intake.put_back(more)
    assert intake.take_more(batch) is None
    assert [intake.take() for _ in range(2)] == [batch, more]
    assert intake.take().commands == list(bundles[2].commands)

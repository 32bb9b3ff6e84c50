"""What is remembered of accounts between batches, and when it is not."""

from ledger.store.recent_accounts import RecentAccounts
from tests.strategies import ordinary

ONE, TWO = b"1" * 32, b"2" * 32


def test_what_a_batch_left_is_known_until_the_next_one_begins() -> None:
    recent = RecentAccounts()
    assert recent.known(["a"]) == {}
    account = ordinary("a")
    recent.follow(ONE, [account])
    assert recent.left_by == ONE
    assert recent.known(["a", "b"]) == {"a": account}
    recent.lend(ONE)
    assert recent.left_by == b""
    assert recent.known(["a"]) == {}
    recent.follow(TWO, [ordinary("b")])
    assert recent.known(["a", "b"]) == {"a": account, "b": ordinary("b")}


def test_another_head_ends_it_all() -> None:
    recent = RecentAccounts()
    recent.follow(ONE, [ordinary("a")])
    recent.lend(TWO)
    recent.follow(TWO, [ordinary("b")])
    assert set(recent.known(["a", "b"])) == {"b"}


def test_a_batch_that_never_came_to_an_end_ends_it_too() -> None:
    recent = RecentAccounts()
    recent.follow(ONE, [ordinary("a")])
    recent.lend(ONE)
    recent.lend(ONE)
    recent.follow(TWO, [ordinary("b")])
    assert set(recent.known(["a", "b"])) == {"b"}


def test_accounts_with_holds_are_left_out() -> None:
    recent = RecentAccounts()
    recent.follow(ONE, [ordinary("a"), ordinary("b"), ordinary("c")])
    holding = ordinary("a")
    holding.held = 1
    recent.lend(ONE)
    recent.follow(TWO, [holding, ordinary("b")], but={"b"})
    assert set(recent.known("abc")) == {"c"}


def test_it_is_bounded_and_keeps_what_is_used() -> None:
    recent = RecentAccounts(most=10)
    for number in range(200):
        recent.follow(ONE, [ordinary("often"), ordinary(str(number))])
    known = recent.known(["often", *map(str, range(200))])
    assert {"often", "199", "198"} <= set(known)
    assert len(known) <= 22


def test_it_can_be_made_to_forget() -> None:
    recent = RecentAccounts()
    recent.follow(ONE, [ordinary("a")])
    recent.forget()
    assert recent.left_by == b""
    recent.follow(TWO, [])
    assert recent.known(["a"]) == {}

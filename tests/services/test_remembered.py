"""What is remembered: the latest of it, at the same price however much it is."""

from __future__ import annotations

import time

from ledger.services.remembered import Remembered


def test_what_was_held_longest_is_dropped_first() -> None:
    memory: Remembered[str, int] = Remembered(3)
    for number, key in enumerate("abc"):
        memory.keep(key, number)
    memory.keep("a", 7)  # known already: nothing has to go
    assert dict(memory) == {"a": 7, "b": 1, "c": 2}
    memory.keep("d", 3)
    assert dict(memory) == {"b": 1, "c": 2, "d": 3}
    memory.pop("c")
    memory.keep("e", 4)
    assert dict(memory) == {"b": 1, "d": 3, "e": 4}
    memory.clear()
    memory.keep("f", 5)
    assert dict(memory) == {"f": 5}


def price(most: int) -> float:
    """The processor time that 40,000 new things cost a memory that is full."""
    memory: Remembered[int, int] = Remembered(most)
    for number in range(most):
        memory.keep(number, number)
    before = time.process_time()
    for number in range(most, most + 40_000):
        memory.keep(number, number)
    return time.process_time() - before


def test_a_large_memory_is_no_dearer_than_a_small_one() -> None:
    small, large = (min(price(most) for _ in range(3)) for most in (100, 100_000))
    assert large < 4 * small

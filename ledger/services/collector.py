"""Python's cyclic garbage collector, told how a server lives: much that stays, much that dies young, few cycles."""

import gc
from typing import Final

_YOUNG: Final = 50_000


def collect_seldom() -> None:
    """Leave what exists by now out of every collection, and collect seldom: it took a quarter of the writer's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 50)

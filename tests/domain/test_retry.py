"""When something is tried again: the matrix of the document, ever later, spread by chance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.errors import Category, Refused, unavailable
from ledger.domain.retry import RetryPolicy, delay_after, policy_of

MATRIX = {Category.EXTERNAL_DEPENDENCY: RetryPolicy(3, 1.0), Category.SYSTEM: RetryPolicy(2, 0.5)}


@pytest.mark.parametrize("category", list(Category))
def test_the_matrix(category: Category) -> None:
    policy = policy_of(category)
    assert policy == MATRIX.get(category, RetryPolicy(0, 0.0))
    delays = [policy.delay(attempt, 0.0) for attempt in range(1, policy.retries + 1)]
    assert delays == [policy.first * 2**n for n in range(policy.retries)]
    assert policy.delay(policy.retries + 1, 0.0) is None


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_delays_grow_within_bounds(attempt: int, chance: float) -> None:
    policy = RetryPolicy(20_000, 0.5, longest=60.0)
    delay, later = policy.delay(attempt, chance), policy.delay(attempt + 1, chance)
    assert delay is not None
    assert later is not None
    assert 0.5 <= delay <= later <= 90.0
    assert delay <= (policy.delay(attempt, 0.0) or 0) * 1.5


def test_a_refusal_may_ask_for_a_longer_pause() -> None:
    assert delay_after(unavailable(retry_after=30), 1, 0.0) == 30.0
    assert delay_after(unavailable(retry_after=1), 2, 0.0) == 2.0
    assert delay_after(unavailable(retry_after=10**9), 1, 0.0) == 300.0
    assert delay_after(Refused("rate_limit_exceeded", retry_after=3), 1, 0.0) is None
    assert delay_after(unavailable(), 4, 0.0) is None

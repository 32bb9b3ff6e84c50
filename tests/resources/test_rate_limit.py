"""The rate limiter: an exact sliding window, compared with a list; bounded in memory."""

from __future__ import annotations

from math import ceil

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from ledger.resources.rate_limit import RateLimiter, Verdict, headers

START = 1_780_000_000.0


class Naive:
    """What the limiter is to do, said as simply as can be."""

    def __init__(self, limit: int, window: int) -> None:
        self.limit = limit
        self.window = window
        self.admitted: dict[str, list[float]] = {}

    def take(self, client: str, now: float) -> Verdict:
        times = self.admitted.setdefault(client, [])
        counted = [time for time in times if time + self.window > now]
        if len(counted) < self.limit:
            times.append(now)
            counted.append(now)
            return Verdict(self.limit, self.limit - len(counted), ceil(counted[0] + self.window), None)
        ends = counted[0] + self.window
        return Verdict(self.limit, 0, ceil(ends), max(1, ceil(ends - now)))


def at(now: float) -> Clock:
    clock = Clock()
    clock.rightNow = now
    return clock


STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.floats(0, 4) | st.sampled_from([0.0, 0.5, 1.0, 3.0])), max_size=60
)


@given(limit=st.integers(1, 5), window=st.integers(1, 6), steps=STEPS)
def test_it_does_what_a_list_would_do(limit: int, window: int, steps: list[tuple[str, float]]) -> None:
    clock = at(START)
    limiter, naive = RateLimiter(limit, window, clock.seconds), Naive(limit, window)
    for client, pause in steps:
        clock.rightNow += pause
        assert limiter.take(client) == naive.take(client, clock.rightNow)


@given(limit=st.integers(1, 4), window=st.integers(1, 5), steps=STEPS)
def test_what_it_says_about_later_is_true(limit: int, window: int, steps: list[tuple[str, float]]) -> None:
    clock = at(START)
    limiter = RateLimiter(limit, window, clock.seconds)
    for client, pause in steps:
        clock.rightNow += pause
        verdict = limiter.take(client)
        if verdict.retry_after is None:
            assert START < verdict.reset <= ceil(clock.rightNow) + window
        else:
            assert verdict.remaining == 0
            clock.rightNow += verdict.retry_after
            assert limiter.take(client).retry_after is None


def test_refused_requests_do_not_count() -> None:
    clock = at(START)
    limiter = RateLimiter(2, 60, clock.seconds)
    assert [limiter.take("a").remaining for _ in range(2)] == [1, 0]
    for _ in range(5):
        clock.rightNow += 10
        assert limiter.take("a") == Verdict(2, 0, int(START) + 60, int(START + 60 - clock.rightNow))
    assert limiter.take("b").retry_after is None
    clock.rightNow += 10
    assert limiter.take("a").retry_after is None


def test_nobody_waits_because_the_clock_was_set_back() -> None:
    clock = at(START)
    limiter = RateLimiter(1, 60, clock.seconds)
    limiter.take("a")
    clock.rightNow -= 3600
    assert limiter.take("a") == Verdict(1, 0, int(START) - 3600 + 60, None)
    assert limiter.take("a").retry_after == 60
    assert limiter.held == (1, 1)


def test_the_client_that_is_idle_longest_is_forgotten_first() -> None:
    clock = at(START)
    limiter = RateLimiter(1, 60, clock.seconds, most_clients=3)
    for client in ("a", "b", "c", "a", "d"):
        limiter.take(client)
        clock.rightNow += 1
    assert limiter.held == (3, 3)
    assert limiter.take("a").retry_after is not None
    assert limiter.take("b").retry_after is None


@given(clients=st.lists(st.integers(0, 9), max_size=80))
def test_what_is_remembered_is_bounded_and_counted(clients: list[int]) -> None:
    clock = at(START)
    limiter = RateLimiter(4, 30, clock.seconds, most_clients=5, most_requests=12)
    for client in clients:
        limiter.take(str(client))
        clock.rightNow += 1
        known, requests = limiter.held
        assert known <= 5
        assert requests <= 12
        assert requests == sum(map(len, limiter._clients.values()))


def test_a_client_that_fills_the_memory_alone() -> None:
    clock = at(START)
    limiter = RateLimiter(1_000, 60, clock.seconds, most_requests=10)
    for _ in range(50):
        assert limiter.take("a").retry_after is None
    assert limiter.held == (1, 10)


def test_clients_that_are_gone_are_forgotten() -> None:
    clock = at(START)
    limiter = RateLimiter(5, 60, clock.seconds)
    for number in range(100):
        limiter.take(str(number))
    clock.rightNow += 60
    for number in range(100, 126):
        limiter.take(str(number))
    assert limiter.held == (26, 26)


def test_the_headers() -> None:
    assert headers(Verdict(100, 85, 1_633_987_200, None)) == (
        (b"X-RateLimit-Limit", b"100"),
        (b"X-RateLimit-Remaining", b"85"),
        (b"X-RateLimit-Reset", b"1633987200"),
    )

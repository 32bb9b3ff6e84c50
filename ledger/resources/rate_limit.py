"""How often a client may ask: so many requests in any stretch of so many seconds."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from math import ceil
from typing import Final

import msgspec

MOST_CLIENTS: Final = 100_000
MOST_REQUESTS: Final = 1_000_000
_SWEPT: Final = 4  # idle clients forgotten for each new one

Headers = tuple[tuple[bytes, bytes], ...]


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What became of one request: admitted where `retry_after` is None, else that many seconds too early.

    `reset` is when `remaining` grows next: the moment, rounded up to a whole second of the epoch, at which the oldest
    request that counts leaves the window. Whoever was refused is admitted from then on.
    """

    limit: int
    remaining: int
    reset: int
    retry_after: int | None


class RateLimiter:
    """An exact sliding window for each client; requests that are refused do not count.

    What is remembered is bounded: beyond so many clients or requests the client that has been idle longest is
    forgotten, which lets it begin anew, and of a client that fills the memory alone its oldest request is.
    """

    def __init__(
        self,
        limit: int,
        window: int,
        seconds: Callable[[], float],
        *,
        most_clients: int = MOST_CLIENTS,
        most_requests: int = MOST_REQUESTS,
    ) -> None:
        """`seconds` tells the time of the epoch."""
        self._limit = limit
        self._window = window
        self._seconds = seconds
        self._most_clients = most_clients
        self._most_requests = most_requests
        self._held = 0
        self._clients: OrderedDict[str, deque[float]] = OrderedDict()  # when each request leaves; idlest client first

    def take(self, client: str) -> Verdict:
        """Admit a request of a client, and count it, or refuse it."""
        now = self._seconds()
        limit = self._limit
        ends = self._clients.get(client)
        if ends is None:
            ends = self._clients[client] = self._room_for_one(now)
        else:
            self._clients.move_to_end(client)
            before = len(ends)
            while ends and ends[0] <= now:
                ends.popleft()
            if ends and ends[-1] > now + self._window:
                ends.clear()  # the clock was set back: nobody shall wait that long
            self._held -= before - len(ends)
        count = len(ends)
        if count >= limit:
            oldest = ends[0]
            return Verdict(limit, 0, ceil(oldest), max(1, ceil(oldest - now)))
        ends.append(now + self._window)
        self._held += 1
        if self._held > self._most_requests:
            self._forget_one()
        return Verdict(limit, limit - count - 1, ceil(ends[0]), None)

    @property
    def held(self) -> tuple[int, int]:
        """How many clients and how many requests are remembered."""
        return len(self._clients), self._held

    def _room_for_one(self, now: float) -> deque[float]:
        clients = self._clients
        for _ in range(_SWEPT):
            idlest = next(iter(clients.values()), None)
            if idlest is None or (idlest and idlest[-1] > now and len(clients) < self._most_clients):
                break
            self._held -= len(clients.popitem(last=False)[1])
        return deque()

    def _forget_one(self) -> None:
        # The client at hand is the last one, and never forgotten as a whole.
        if len(self._clients) > 1:
            self._held -= len(self._clients.popitem(last=False)[1])
        else:
            next(iter(self._clients.values())).popleft()
            self._held -= 1


def headers(verdict: Verdict) -> Headers:
    """Return the headers that tell a client how it stands."""
    return (
        (b"X-RateLimit-Limit", b"%d" % verdict.limit),
        (b"X-RateLimit-Remaining", b"%d" % verdict.remaining),
        (b"X-RateLimit-Reset", b"%d" % verdict.reset),
    )

"""`python -m bench.live`: subscribers and credits against a running server; a plan on standard input, JSON out."""

import sys
import time
from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.internet.task import deferLater, react

from bench.poster import Payer, Poster
from bench.subscriber import Subscriber
from ledger.domain.events import ALL_TOPIC

_CONNECTING: Final = 32  # at once
_SETTLE: Final = 1.0
_PATIENCE: Final = 15.0


class Plan(msgspec.Struct, frozen=True):
    """What to do: one subscriber for each payer, on the account's own topic or all, as an admin, on everybody's."""

    port: int
    admin: str  # a token
    own_topics: bool
    rate: float
    seconds: float
    payers: tuple[Payer, ...]


class Seen(msgspec.Struct, frozen=True):
    """What came of it: delays in milliseconds and commits a second before the cut, messages by subscriber over all."""

    median: float
    p99: float
    rate: float
    resumed: float
    received: list[int]
    twice: int
    faults: list[str]


async def _connect(subscribers: Sequence[Subscriber]) -> None:
    waiting = iter(subscribers)

    async def some() -> None:
        for subscriber in waiting:
            await subscriber.connect()

    await gatherResults([ensureDeferred(some()) for _ in range(_CONNECTING)], consumeErrors=True)


async def _until(reactor: Any, subscribers: Sequence[Subscriber], expected: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while sum(one.received for one in subscribers) < expected and time.monotonic() < deadline:
        await deferLater(reactor, 0.05)


async def _follow(reactor: Any, plan: Plan) -> Seen:
    """Measure delays under load; cut everybody off and let them resume, the load going on; count what came."""
    delays: list[float] = []
    ignore: list[float] = []
    keep = ignore.append

    def delay(seconds: float) -> None:
        keep(seconds)

    subscribers = [
        Subscriber(reactor, plan.port, f"accounts:{payer.account_id}", payer.token, delay)
        if plan.own_topics
        else Subscriber(reactor, plan.port, ALL_TOPIC, plan.admin, delay)
        for payer in plan.payers
    ]
    await _connect(subscribers)
    poster = Poster(reactor, plan.port, plan.payers, plan.rate)
    await poster.start()
    await deferLater(reactor, _SETTLE)
    keep, booked, begin = delays.append, poster.booked, time.monotonic()
    await deferLater(reactor, plan.seconds)
    rate = (poster.booked - booked) / (time.monotonic() - begin)
    keep = ignore.append
    for subscriber in subscribers:
        subscriber.cut()
    begin = time.monotonic()
    await _connect(subscribers)
    resumed = time.monotonic() - begin
    await deferLater(reactor, _SETTLE)
    await poster.stop()
    await _until(reactor, subscribers, poster.booked * (1 if plan.own_topics else len(subscribers)))
    await deferLater(reactor, _SETTLE)  # for what comes twice
    faults = [*poster.faults, *(fault for one in subscribers for fault in one.faults)]
    if len(delays) < 100:
        faults.append(f"only {len(delays)} messages came")
        delays = [0.0] * 100
    return Seen(
        median=median(delays) * 1000,
        p99=quantiles(delays, n=100)[98] * 1000,
        rate=rate,
        resumed=resumed,
        received=[one.received for one in subscribers],
        twice=sum(one.twice for one in subscribers),
        faults=faults[:5],
    )


def main() -> None:
    """Read the plan, follow it, print."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)

    async def follow(reactor: Any) -> None:
        print(msgspec.json.encode(await _follow(reactor, plan)).decode())

    def begin(reactor: Any) -> Deferred[None]:
        return ensureDeferred(follow(reactor))

    react(begin)


if __name__ == "__main__":
    main()

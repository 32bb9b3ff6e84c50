"""A service outside that takes connections and never answers: its breaker opens, and payments are as quick as ever."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol

from ledger.services.outbound import Outbound
from tests.postgres.cluster import DatabaseServer
from tests.postgres.house import House, on_reactor, reactor, until
from tests.postgres.labour import site_of
from tests.postgres.payers import Till, till_of

TIMEOUT = 1.0
MANY = 15


class Silent(Protocol):
    """The service's side: takes what it is sent, and says nothing."""

    open = 0

    def connectionMade(self) -> None:
        """Count it."""
        self.factory.taken += 1
        self.factory.open += 1

    def connectionLost(self, _reason: Any = None) -> None:
        """Count it out."""
        self.factory.open -= 1


class Stub(Factory):
    """The service."""

    protocol = Silent

    def __init__(self) -> None:
        self.taken = 0
        self.open = 0


class Asking(Protocol):
    """Our side: asks, and waits for an answer."""

    def __init__(self) -> None:
        self.answer: Deferred[bytes] = Deferred(lambda _: self.transport.abortConnection())  # type: ignore[union-attr]

    def connectionMade(self) -> None:
        """Ask."""
        transport: Any = self.transport
        transport.write(b"balance?\n")

    def dataReceived(self, data: bytes) -> None:
        """Hear the answer."""
        self.answer.callback(data)


class Bank:
    """A worker that asks the service."""

    name = "bank"
    queue = "banking"
    timeout = 30.0
    max_attempts = 4

    def __init__(self, way: Outbound, port: int) -> None:
        self._way = way
        self._port = port

    async def run(self, _args: Mapping[str, Any]) -> None:
        """Ask once."""
        await self._way.call(self._ask)

    async def _ask(self) -> bytes:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self._port)
        factory: Any = Factory.forProtocol(Asking)
        asking = await endpoint.connect(factory)
        return bytes(await asking.answer)


async def seconds_of_a_payment(till: Till) -> float:
    """How long a payment takes, in the median, from its being scheduled until it is posted."""
    took = []
    for _ in range(MANY):
        payment = await till.make()
        began = reactor.seconds()
        await till.schedule(payment)
        while (await till.payments.find(payment.id)).status != "COMPLETED":
            assert reactor.seconds() < began + 10
        took.append(reactor.seconds() - began)
    return float(median(took))


@on_reactor
async def test_a_silent_service_opens_its_breaker_and_slows_nobody(
    database_url: str, database_server: DatabaseServer
) -> None:
    stub = Stub()
    port = reactor.listenTCP(0, stub, interface="127.0.0.1")
    async with House(database_url, database_server) as house, site_of(database_url, database_server) as site:
        till = await till_of(house)
        way = site.breakers.to("bank", timeout=TIMEOUT)
        till.workers.add(Bank(way, port.getHost().port))
        site.workers = till.workers
        async with site.process(queues={"banking": 3, "payments": 2}):
            alone = await seconds_of_a_payment(till)
            assert way.status().state == "closed"
            for _ in range(12):
                await till.desk.enqueue("bank", {})
            await until(lambda: stub.open == 3)  # all that the queue allows wait for an answer
            beside = await seconds_of_a_payment(till)
            await until(lambda: way.status().state == "open")
            await until(lambda: stub.open == 0)
            taken = stub.taken
            assert 5 <= taken <= 7  # what was under way when the fifth had failed
            await until(lambda: site.sql("SELECT count(*) FROM jobs WHERE worker = 'bank' AND attempt > 0") == [(12,)])
            behind = await seconds_of_a_payment(till)
        assert beside < 2 * alone + 0.05
        assert behind < 2 * alone + 0.05
        assert 4 * max(beside, behind) < TIMEOUT  # so it would be seen
        assert stub.taken == taken  # nobody has tried since it opened
        assert way.status().failures >= 5
        rows = site.sql(
            """SELECT errors -> 0 ->> 'reason', min(extract(epoch FROM scheduled_at - attempted_at))::float8, count(*)
               FROM jobs WHERE worker = 'bank' AND attempt = 1 GROUP BY 1 ORDER BY 1"""
        )
        told = {reason: (soonest, many) for reason, soonest, many in rows}
        assert told["service_unavailable"][0] > 20  # it is not tried again before the breaker may let it through
        assert 5 <= 12 - told["service_unavailable"][1] <= 7
        assert set(till.statuses().values()) == {"COMPLETED"}
        states = {state for (state,) in site.sql("SELECT DISTINCT state FROM jobs WHERE worker = 'bank'")}
        assert "retryable" in states
        assert states <= {"retryable", "available"}  # the latter where the time to try again has come by now
        await house.check_clean()
    await port.stopListening()

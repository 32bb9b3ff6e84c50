"""Followers of one topic each, over as many connections as it takes, and a note of every message that comes."""

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

from bench.line import Line, Message


class Subscriber:
    """A follower of one topic over all its connections: what it has seen, and what it has seen again."""

    def __init__(self, reactor: Any, port: int, topic: str, token: str, delay: Callable[[float], None]) -> None:
        self.received = 0
        self.twice = 0
        self.faults: list[str] = []
        self._reactor = reactor
        self._port = port
        self._topic = topic
        self._token = token
        self._delay = delay
        self._last: tuple[int, int] | None = None
        self._since: str | None = None
        self._line: Line | None = None
        self._subscribed: Deferred[None] | None = None

    async def connect(self) -> None:
        """Connect and return when subscribed: from now on the first time, then from what was seen last."""
        wanted = {"type": "subscribe", "topic": self._topic}
        if self._since is not None:
            wanted["since"] = self._since
        subscribed: Deferred[None] = Deferred()
        self._subscribed = subscribed
        line = Line(self._port, self._token, msgspec.json.encode(wanted), self._hear, self._fail)
        self._line = line
        endpoint = TCP4ClientEndpoint(self._reactor, "127.0.0.1", self._port)
        await connectProtocol(endpoint, line)  # type: ignore[no-untyped-call]
        await subscribed

    def cut(self) -> None:
        """Drop the connection."""
        if self._line is not None:
            self._line.cut()

    def _hear(self, message: Message, now: float) -> None:
        if message.data is not None:
            place = (message.seq, message.part)
            if self._last is not None and place <= self._last:
                self.twice += 1
                return
            self._last = place
            self._since = f"{message.seq}:{message.part}"
            self.received += 1
            self._delay(now - message.data.timestamp.timestamp())
        elif message.type == "subscribed" and self._subscribed is not None:
            if self._since is None:
                self._since = str(message.seq)
            subscribed, self._subscribed = self._subscribed, None
            subscribed.callback(None)
        else:
            self._fail(f"{self._topic}: {message.type}")

    def _fail(self, why: str) -> None:
        self.faults.append(why)
        if self._subscribed is not None:
            subscribed, self._subscribed = self._subscribed, None
            subscribed.errback(ConnectionError(why))

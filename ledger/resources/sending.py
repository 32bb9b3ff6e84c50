"""Sending a body that is made meanwhile: no faster than the client takes it, and whole or visibly cut off."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.web.server import Request
from zope.interface import implementer

from ledger.domain.errors import Refused
from ledger.resources.answers import Flow

STALLED: Final = 60.0  # seconds that a client may read nothing


@implementer(IPushProducer)
class Sending:
    """One body on its way: `answered` fires with its end, or never, where the connection is lost or cut."""

    _log = Logger()

    def __init__(
        self, request: Request, flow: Flow, answered: Deferred[bytes], clock: Any, correlation_id: str
    ) -> None:
        self._request: Any = request
        self._flow = flow
        self._answered = answered
        self._clock = clock
        self._correlation_id = correlation_id
        self._is_full = False
        self._is_gone = False
        self._room: Deferred[None] | None = None
        self._patience: Any = None

    def begin(self) -> None:
        """Send the head of the answer, and then the body."""
        self._request.notifyFinish().addErrback(lambda _: self._lost())
        self._request.registerProducer(self, True)
        self._request.write(self._flow.before)
        ensureDeferred(self._run())

    async def _run(self) -> None:
        try:
            while not self._is_gone:
                part = await self._flow.parts()
                if self._is_gone:
                    return
                if not part:
                    break
                self._request.write(part)
                if self._is_full:
                    self._room = Deferred()
                    await self._room
            else:
                return
        except Refused as refused:
            self._log.warn(
                "an answer was cut off: {reason} [{correlation_id}]",
                reason=refused.reason,
                correlation_id=self._correlation_id,
            )
            self._cut()
        except Exception:
            self._log.failure("an answer was cut off [{correlation_id}]", correlation_id=self._correlation_id)
            self._cut()
        else:
            self._be_patient(False)
            self._request.unregisterProducer()
            self._answered.callback(self._flow.after)

    def pauseProducing(self) -> None:
        """The transport is full."""
        self._is_full = True
        self._be_patient(True)

    def resumeProducing(self) -> None:
        """The transport is empty."""
        self._is_full = False
        self._be_patient(False)
        self._go_on()

    def stopProducing(self) -> None:
        """The transport is gone: `_lost` follows."""

    def _lost(self) -> None:
        self._is_gone = True
        self._be_patient(False)
        self._go_on()

    def _go_on(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    def _be_patient(self, waits: bool) -> None:
        """Cut the connection some time after the client has ceased to read, unless it goes on."""
        patience, self._patience = self._patience, None
        if patience is not None and patience.active():
            patience.cancel()
        if waits and not self._is_gone:
            self._patience = self._clock.callLater(STALLED, self._cut)

    def _cut(self) -> None:
        # An aborted connection is reset, which even a client without chunks does not take for the end of the answer.
        self._be_patient(False)
        if self._request.channel is not None:
            self._request.channel.transport.abortConnection()

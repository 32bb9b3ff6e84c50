"""The LISTEN connection: hears what other processes commit and revoke, and says when it cannot hear."""

from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from ledger.domain.errors import ConfigurationError
from ledger.services.deadline import Overrun, within
from ledger.store.postgres import ConnectionLost, Session, StatementFailed

log = Logger()

_PROBE: Final = "ledger_probe"
_PROBE_WITHIN: Final = 5.0
_PULSE: Final = 0.25
_CURRENT: Final = 1.0  # seconds that what was heard last counts for: so soon must a revocation be in force
_FIRST_RETRY, _LAST_RETRY = 0.05, 3.0


class Ear(Protocol):
    """Somebody who wants to hear."""

    def connected(self) -> Deferred[None] | None:
        """Learn that hearing begins; after a failure this is told again, for as long as it lasts."""

    def disconnected(self) -> None: ...


class Listener:
    """Keeps one connection listening, reconnecting with backoff for as long as it runs."""

    def __init__(self, url: str, reactor: Any) -> None:
        self._url = url
        self._reactor = reactor
        self._session: Session | None = None
        self._heard: dict[str, Callable[[str], None]] = {_PROBE: self._probe_heard}
        self._ears: list[Ear] = []
        self._running = False
        self._probe: Deferred[None] | None = None
        self._asked_at = 0.0  # when a question was put that has been answered, and with it all that was told before
        self._pulse = LoopingCall(self._check)
        self._pulse.clock = reactor
        self._retry: Any = None
        self._retellings: dict[Ear, Any] = {}

    @property
    def is_listening(self) -> bool:
        """Whether notifications arrive, as far as is known."""
        return self._session is not None and self._session.is_open

    def is_current(self) -> bool:
        """Whether all that was told until a moment ago has been heard; not so while the connection is silent."""
        return bool(self._reactor.seconds() - self._asked_at < _CURRENT)

    def on(self, channel: str, heard: Callable[[str], None]) -> None:
        """Have `heard` called with every payload of a channel; before the start."""
        self._heard[channel] = heard

    def tell(self, ear: Ear) -> None:
        """Have someone told when hearing begins and ends; before the start."""
        self._ears.append(ear)

    async def start(self) -> None:
        """Return when a notification has made the round; raises where none can."""
        self._running = True
        await self._connect()
        self._pulse.start(_PULSE, now=False)

    def stop(self) -> None:
        """Close the connection."""
        self._running = False
        if self._pulse.running:
            self._pulse.stop()
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._drop()

    async def _connect(self) -> None:
        session = Session(self._reactor, deadline=_PROBE_WITHIN)
        try:
            await session.open(self._url)
            session.on_lost(self._lost)
            session.on_notify(self._notified)
            await session.run("; ".join(f'LISTEN "{channel}"' for channel in self._heard))
            self._probe = Deferred()
            asked_at = self._reactor.seconds()
            await session.run(f"NOTIFY {_PROBE}")
            await within(self._reactor, _PROBE_WITHIN, self._probe, "no notification arrived")
        except Overrun as silent:
            session.close()
            raise ConfigurationError("--database: LISTEN does not work there (is it a connection pooler?)") from silent
        except BaseException:
            session.close()
            raise
        if not self._running:
            session.close()
            raise ConnectionLost("the listener was stopped")
        self._session, self._asked_at = session, asked_at
        for ear in self._ears:
            self._tell(ear, session, _FIRST_RETRY)

    def _tell(self, ear: Ear, session: Session, delay: float) -> None:
        def failed(failure: Any) -> None:
            if session is self._session:
                log.warn("{ear} could not take up hearing: {failure!r}", ear=type(ear).__name__, failure=failure.value)
                longer = min(delay * 2, _LAST_RETRY)
                self._retellings[ear] = self._reactor.callLater(delay, self._tell, ear, session, longer)

        self._retellings.pop(ear, None)
        maybeDeferred(ear.connected).addErrback(failed)

    def _notified(self, channel: str, payload: str) -> None:
        try:
            self._heard[channel](payload)
        except Exception:
            log.failure("What was heard on {channel} could not be taken", channel=channel)

    def _probe_heard(self, _: str) -> None:
        if self._probe is not None and not self._probe.called:
            self._probe.callback(None)

    async def _check_now(self) -> None:
        session = self._session
        if session is not None:
            asked_at = self._reactor.seconds()
            try:
                await session.run("SELECT 1")
                self._asked_at = asked_at
            except (ConnectionLost, StatementFailed):
                if session is self._session:
                    self._lost()

    def _check(self) -> Deferred[None]:
        return ensureDeferred(self._check_now())

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
            while self._retellings:
                self._retellings.popitem()[1].cancel()
            for ear in self._ears:
                ear.disconnected()

    def _lost(self) -> None:
        if self._session is None:
            return
        log.warn("The LISTEN connection is lost")
        self._drop()
        if self._running:
            self._retry = self._reactor.callLater(0, self._again, _FIRST_RETRY)

    def _again(self, delay: float) -> None:
        def failed(failure: Any) -> None:
            failure.trap(ConnectionLost, StatementFailed, ConfigurationError)
            if self._running:
                self._retry = self._reactor.callLater(delay, self._again, min(delay * 2, _LAST_RETRY))

        if self._running:
            ensureDeferred(self._connect()).addErrback(failed)

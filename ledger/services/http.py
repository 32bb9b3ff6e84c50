"""The HTTP server as a child of the service tree: listens, and drains before it stops."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.tcp import Port
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory

from ledger.domain.errors import ConfigurationError
from ledger.services.child import Child
from ledger.services.deadline import within

_Port: Any = Port  # Twisted leaves these without types
_endpoint_from: Any = serverFromString
_BACKLOG: Final = 1_024  # the kernel has a limit of its own (net.core.somaxconn)
_tls_factory: Any = TLSMemoryBIOFactory


class DrainableSite(Protocol):
    """What is served: a protocol factory that can finish what its connections have begun."""

    def reopen(self) -> None: ...
    async def drain(self, seconds: float) -> None: ...


class Http(Child):
    """Listens on one or more endpoints; `stop` closes the ports, then the live sockets while the site drains."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        site: DrainableSite,
        listen: Sequence[str],
        *,
        reuse_port: bool = False,
        name: str = "http",
        option: str = "--listen",
        close_sockets: Callable[[], Coroutine[Any, Any, None]] | None = None,
        reopen_sockets: Callable[[], None] = lambda: None,
        leans_on: tuple[str, ...] = (),
        drain_seconds: float = 8.0,
    ) -> None:
        self.name = name
        self.leans_on = leans_on
        self.stop_deadline = drain_seconds + 2.0
        self._reactor = SharedPortReactor(reactor) if reuse_port else reactor
        self._site = site
        self._listen = tuple(listen)
        self._option = option
        self._close_sockets = close_sockets
        self._reopen_sockets = reopen_sockets
        self._drain_seconds = drain_seconds
        self._ports: list[Any] = []

    @property
    def addresses(self) -> list[str]:
        """Where clients can connect to."""
        return [
            _shown(port.getHost(), description) for port, description in zip(self._ports, self._listen, strict=False)
        ]

    async def start(self) -> None:
        """Listen on all endpoints, or refuse the one that does not work by name."""
        self._site.reopen()
        self._reopen_sockets()
        for description in self._listen:
            try:
                endpoint = _endpoint_from(self._reactor, description)
            except (LookupError, TypeError, ValueError) as error:
                raise ConfigurationError(f"{self._option} {description}: not a Twisted endpoint ({error})") from error
            except Exception as error:  # a key or certificate that cannot be read, or is none
                raise ConfigurationError(f"{self._option} {description}: {_one_line(error)}") from error
            try:
                port = await endpoint.listen(self._site)
                _lengthen_backlog(port, description)
                self._ports.append(port)
            except CannotListenError as error:
                raise ConfigurationError(f"{self._option} {description}: {_one_line(error.socketError)}") from error
            except Exception as error:
                raise ConfigurationError(f"{self._option} {description}: {_one_line(error)}") from error

    async def stop(self) -> None:
        """Take no more connections; close the live sockets and finish the requests, both in one time; cut the rest."""
        ports, self._ports = self._ports, []
        for port in ports:
            await port.stopListening()
        closing = Deferred.fromCoroutine(self._close_live())  # first, so that the drain meets no new streams
        await self._site.drain(self._drain_seconds)
        await closing

    async def _close_live(self) -> None:
        if self._close_sockets is None:
            return
        try:
            closing = Deferred.fromCoroutine(self._close_sockets())
            await within(self._reactor, self._drain_seconds, closing, "the live sockets did not close in time")
        except Exception:
            self._log.failure("the live sockets could not be closed")


def _lengthen_backlog(port: Any, description: str) -> None:
    """Let a burst of clients queue for the port: Twisted lets 50, unless the endpoint says how many."""
    listening = getattr(port, "socket", None)
    if listening is not None and "backlog=" not in description:
        listening.listen(_BACKLOG)


class _SharedPort(_Port):  # type: ignore[misc]
    """A port that other processes may listen on too; the kernel spreads the connections."""

    def createInternetSocket(self) -> socket.socket:
        made: socket.socket = super().createInternetSocket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return made


class SharedPortReactor:
    """A reactor whose TCP ports can be shared between processes."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """Listen as the reactor does, on a port that can be shared."""
        made = _SharedPort(port, factory, backlog, interface, self._reactor)
        made.startListening()
        return made

    def listenSSL(self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = "") -> Any:
        """Listen for TLS as the reactor does, on a port that can be shared."""
        return self.listenTCP(port, _tls_factory(contextFactory, False, factory), backlog, interface)


def _one_line(error: Exception) -> str:
    lines = str(getattr(error, "strerror", None) or error).splitlines()
    return lines[0] if lines else type(error).__name__


def _shown(address: Any, description: str) -> str:
    host = getattr(address, "host", None)
    if host is None:
        name = getattr(address, "name", b"")
        return f"unix:{name.decode() if isinstance(name, bytes) else name}"
    scheme = "https" if description.startswith(("ssl:", "tls:")) else "http"
    return f"{scheme}://[{host}]:{address.port}" if ":" in host else f"{scheme}://{host}:{address.port}"

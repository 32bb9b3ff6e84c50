"""Where a request comes from: its peer, or what a proxy that is named in the configuration says of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, Protocol

from ledger.domain.addresses import client_of, normal, parsed

__all__ = ["Addresses", "HeaderLines", "client_of"]

_LONGEST: Final = 64  # of what can be an address, with its port
_MAPPED: Final = 96  # bits before the IPv4 address in one that is mapped to IPv6
_REMEMBERED: Final = 4_096


class HeaderLines(Protocol):
    """The headers of a request, under the names that Twisted gives them."""

    def getRawHeaders(self, name: bytes) -> Sequence[bytes] | None: ...


class Addresses:
    """Tells the client's address; `X-Forwarded-For` counts only from the proxies (addresses or networks) named."""

    def __init__(self, trusted: tuple[str, ...]) -> None:
        self._networks = tuple(map(_network, trusted))
        self._is_proxy = lru_cache(_REMEMBERED)(self._find)

    def of(self, peer: str, headers: HeaderLines) -> str:
        """Return the address of a request's client, in the usual spelling.

        From a proxy it is the rightmost one forwarded that is no proxy itself; where all are, the first of them; and
        the peer's own where something else than an address stands there.
        """
        peer = normal(peer)
        if not self._networks or not self._is_proxy(peer):
            return peer
        client = peer
        for line in reversed(headers.getRawHeaders(b"X-Forwarded-For") or ()):
            for entry in reversed(line.split(b",")):
                address = _forwarded(entry)
                if address is None:
                    return peer
                client = address
                if not self._is_proxy(address):
                    return address
        return client

    def _find(self, text: str) -> bool:
        address = parsed(text)
        return address is not None and any(address in network for network in self._networks)


def _network(text: str) -> IPv4Network | IPv6Network:
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _MAPPED))
    return network


def _forwarded(entry: bytes) -> str | None:
    """The address in one entry, which may have a port: 192.0.2.1, 192.0.2.1:80, 2001:db8::1, [2001:db8::1]:80."""
    text = entry.strip().decode("latin-1")
    if len(text) > _LONGEST:
        return None
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    address = parsed(text)
    return None if address is None else str(address)

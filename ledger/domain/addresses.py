"""Addresses of clients: one spelling for each, and as whom each is counted."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

_REMEMBERED: Final = 4_096


def normal(address: str) -> str:
    """Return an address as it is kept and compared: IPv4 unmapped, IPv6 short and without zone; or what is none."""
    return _normal(address) if ":" in address else address


def client_of(address: str) -> str:
    """Return whom an address is counted as: itself, or of IPv6 its network of 64 bits, which one client has whole."""
    return _client_of(address) if ":" in address else address


def parsed(text: str) -> IPv4Address | IPv6Address | None:
    """Return what an address says, IPv4 unmapped, or None for what is none."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


@lru_cache(_REMEMBERED)
def _normal(address: str) -> str:
    known = parsed(address)
    return address if known is None else str(known)


@lru_cache(_REMEMBERED)
def _client_of(address: str) -> str:
    known = parsed(address)
    if isinstance(known, IPv6Address):
        return str(IPv6Network((known, 64), strict=False))
    return address if known is None else str(known)

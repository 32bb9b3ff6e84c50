"""Who sits at the machine itself: peers on loopback that nobody else can be speaking through."""

from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from typing import Final

# What only proxies and browsers send. A page in a browser on this machine reaches loopback too: it is told by its
# Origin, or, when its own name was made to resolve to loopback, by the Host that it asks for.
_TELLTALES: Final = frozenset(
    {"origin", "forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"}
)


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def operator_allowed(peer_host: str, headers: Mapping[str, str] | Mapping[bytes, bytes]) -> bool:
    """Whether a request without a token may be the operator's: straight from this machine, and from no web page."""
    if not is_loopback(peer_host):
        return False
    for name, value in headers.items():
        lower = _text(name).lower()
        if lower in _TELLTALES or (lower == "host" and not _names_loopback(_text(value))):
            return False
    return True


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _names_loopback(host: str) -> bool:
    name = host.strip().lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.rpartition(":")[0] or name
    return name == "localhost" or name.endswith(".localhost") or is_loopback(name)

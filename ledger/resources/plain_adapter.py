"""The short way to hot endpoints: found by method and path before any resource is asked, their heads read in one go.

Only heads of the plainest form are read here, those that ordinary clients send in one piece with their body; of any
other, `read_request` knows nothing, and Twisted's parser has the word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from ledger.resources.endpoint import Endpoint

Table = dict[tuple[bytes, bytes], Endpoint]

_LARGEST: Final = 65536
_LARGEST_HEAD: Final = 8192
_NAMES: Final = """
    Host User-Agent Accept Accept-Encoding Accept-Language Content-Type Content-Length Authorization Connection
    Idempotency-Key X-Correlation-Id X-Request-Id X-Forwarded-For X-Forwarded-Proto X-Forwarded-Host X-Real-Ip Forwarded
    Via Origin Referer Cookie Cache-Control Pragma Traceparent Tracestate X-Hub88-Signature
"""
_CANONICAL: Final = {
    spelling.encode(): name.encode()
    for name in _NAMES.split()
    for spelling in (name, name.lower(), name.replace("-Id", "-ID"), name.replace("-Ip", "-IP"))
}


class Fields:
    """The headers of a request in the plainest form: each once."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[bytes, bytes]) -> None:
        self._values = values

    def getRawHeaders(self, name: bytes) -> list[bytes] | None:
        """Return a header's value as a list of one, or None."""
        value = self._values.get(name)
        return None if value is None else [value]

    def getAllRawHeaders(self) -> Iterable[tuple[bytes, list[bytes]]]:
        """Return all names and values."""
        return ((name, [value]) for name, value in self._values.items())


def hot_table(endpoints: Iterable[Endpoint]) -> Table:
    """Return the hot endpoints by method and path, exactly as these stand in a request line."""
    return {
        (endpoint.method.encode(), path.encode()): endpoint
        for endpoint in endpoints
        if endpoint.hot
        for path in endpoint.paths
    }


def request_lines(table: Table) -> dict[bytes, tuple[bytes, bytes]]:
    """Return the request lines that `read_request` looks for, with their methods and paths."""
    return {b"%b %b HTTP/1.1" % key: key for key in table}


def read_request(
    lines: Mapping[bytes, tuple[bytes, bytes]], data: bytes
) -> tuple[tuple[bytes, bytes], Fields, bytes] | None:
    """Return method and path, headers and body, if the data is exactly one request in the plainest form."""
    key = lines.get(data[: data.find(b"\r\n")])
    end = -1 if key is None else data.find(b"\r\n\r\n", 0, _LARGEST_HEAD)
    if key is None or end < 0 or len(data) > _LARGEST:
        return None
    head = data[:end]
    _, *rest = head.split(b"\r\n")
    if head.count(b"\n") != len(rest) or head.count(b"\r") != len(rest) or b"\0" in head:
        return None
    values: dict[bytes, bytes] = {}
    for line in rest:
        spelling, _, value = line.partition(b": ")
        name = _CANONICAL.get(spelling)
        if name is None or name in values or not value or value[0] in b" \t" or value[-1] in b" \t":
            return None
        values[name] = value
    body = data[end + 4 :]
    if values.get(b"Content-Length") != b"%d" % len(body) or values.get(b"Connection", b"keep-alive") != b"keep-alive":
        return None
    return key, Fields(values), body

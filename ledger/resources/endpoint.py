"""What an endpoint declares: everything that routing, checking, documenting and answering its requests needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import msgspec

from ledger.domain.errors import Refused
from ledger.domain.policy import Action, is_open
from ledger.resources.answers import JSON, Headers, Parts
from ledger.resources.readers import reader_of
from ledger.resources.reading import Reader

MIB: Final = 1 << 20

B = TypeVar("B")
Q = TypeVar("Q")


@dataclass(slots=True)
class Call(Generic[B, Q]):
    """One request as its handler sees it: decoded, checked, and free of HTTP."""

    body: B
    query: Q
    params: Mapping[str, str]
    key: str | None
    correlation_id: str
    address: str = ""  # of the client
    raw: bytes = b""  # the body as it came
    header: str | None = None  # the value of the header that the endpoint names
    notes: dict[str, Any] = field(default_factory=dict)  # what the audit log shall say of it besides: no secrets


class Answer(msgspec.Struct, frozen=True):
    """What a handler answers with: data (`msgspec.Raw` is sent exactly as it is) and, rarely, more than that."""

    data: Any
    status: int | None = None
    metadata: Any = None
    replayed: bool = False


class Streamed(msgspec.Struct, frozen=True):
    """What a handler answers with where that may be long: parts, asked for as fast as the client takes them.

    JSON is the data of an envelope; anything else goes out as it is. A part that fails cuts the connection, so that
    nobody takes what has come by then for the whole.
    """

    parts: Parts
    content_type: bytes = JSON[1]
    headers: Headers = ()


class Said(msgspec.Struct, frozen=True):
    """Data for where there is nothing to tell but that it was done."""

    message: str


Dialect = Callable[[Refused, bytes], Answer]  # tells a refusal of a request with this body in words of its own
Handler = Callable[[Any, Any], Awaitable[Answer | Streamed]]  # (caller, call): the caller is None where it is not known


@dataclass(frozen=True)
class Endpoint:
    """One method of one path. From this come the routes, the decoding and its errors, and the API's documentation."""

    method: str
    path: str  # as Klein writes it: /api/accounts/<id>
    handler: Handler
    summary: str
    policy: Action
    knows_caller: bool = False  # where anyone may call: whether a token that is sent along is looked at
    aliases: tuple[str, ...] = ()
    body: type[msgspec.Struct] | None = None
    query: type[msgspec.Struct] | None = None
    answer: Any = None
    media_type: str = "application/json"  # of the answer
    further_types: tuple[str, ...] = ()  # that the answer may be in where the query says so, besides JSON
    status: int = 200
    also: tuple[int, ...] = ()  # other statuses that the same answer may come with
    refuses: tuple[str, ...] = ()
    idempotent: bool = False
    hot: bool = False
    envelope: bool = True
    rate_limited: bool = True
    body_limit: int = MIB
    header: str | None = None  # one that the handler looks at, as at the raw body, and the documentation names
    documents: type[msgspec.Struct] | None = None  # what a body should be, where `body` does not tell all of it
    is_bulk: bool = False  # whether the parts of the body are screened as they are read, and not all at once
    dialect: Dialect | None = None  # where refusals are told in another way than everywhere else
    is_open: bool = field(init=False, repr=False, compare=False)  # whether anyone may call
    read_body: Reader[Any] | None = field(init=False, repr=False, compare=False)
    read_query: Reader[Any] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_open", is_open(self.policy))
        object.__setattr__(self, "read_body", self.body and reader_of(self.body, is_bulk=self.is_bulk))
        object.__setattr__(self, "read_query", self.query and reader_of(self.query))

    @property
    def name(self) -> str:
        """How counts and logs call this endpoint, whichever alias was used."""
        return f"{self.method} {self.path}"

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths that this endpoint answers at."""
        return (self.path, *self.aliases)

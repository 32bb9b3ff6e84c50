"""How real-time clients come in: what they are admitted with, and who answers those that are not."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from ledger.domain.errors import Refused
from ledger.domain.policy import Caller
from ledger.pubsub.feed import Feed
from ledger.pubsub.sockets import Sockets
from ledger.pubsub.topics import Directory
from ledger.pubsub.turns import Clock


class Authenticator(Protocol):
    """Knows whose a token is, and when it ceases to be."""

    async def authenticate(self, token: str) -> Caller:
        """Return the bearer, or refuse with `invalid_token` or `service_unavailable`."""

    def watch(self, token: str, revoked: Callable[[], None]) -> Callable[[], None]:
        """Call `revoked` when the token stops being valid; returns what ends the watch."""


class Visit(Protocol):
    """One request, in the HTTP side's manners."""

    def admit(self, caller: Caller | None) -> None:
        """Count the request as its client's, or refuse it as one too many; one that is refused before counts too."""

    def headers(self) -> Iterable[tuple[bytes, bytes]]:
        """Return the headers that every answer carries, the correlation id among them."""

    def refuse(self, refused: Refused) -> None:
        """Answer with the standard error, and finish the request."""

    def refusal(self, refused: Refused) -> bytes:
        """Return the standard error as it goes over the wire, for a request whose connection was taken over."""

    def answer_without_get(self) -> None:
        """Answer OPTIONS, refuse any other method than GET, and finish the request."""

    def witness(self) -> "Note":
        """Return what writes down refusals for as long as the stream lasts, and holds nothing of the request."""


class Front(Protocol):
    """Where requests come in."""

    def visit(self, name: str, request: Any) -> Visit:
        """Begin to answer a request; `name` is what counts and logs call it."""


Note = Callable[[Refused, Caller | None], None]  # writes down a refusal that is told on the stream itself


@dataclass(frozen=True)
class Context:
    """What real-time clients are served from."""

    feed: Feed
    authenticator: Authenticator
    directory: Directory
    sockets: Sockets
    clock: Clock


class Bearer:
    """A client's token and the watch on it."""

    def __init__(self, authenticator: Authenticator, revoked: Callable[[], None]) -> None:
        self._authenticator = authenticator
        self._revoked = revoked
        self._unwatch: Callable[[], None] | None = None
        self._dropped = False

    async def check(self, token: str) -> Caller:
        """Return whose the token is, or refuse."""
        return await self._authenticator.authenticate(token)

    def keep(self, token: str) -> None:
        """Watch this token from now on, and no other."""
        if self._unwatch is not None:
            self._unwatch()
        self._unwatch = self._authenticator.watch(token, self._revoked)
        if self._dropped:  # before this, or revoked as soon as it was watched
            self.drop()

    def drop(self) -> None:
        """Watch nothing any more."""
        self._dropped = True
        unwatch, self._unwatch = self._unwatch, None
        if unwatch is not None:
            unwatch()


def bearer_token(header: str) -> str:
    """Return the token of an `Authorization` header, or refuse."""
    scheme, _, token = header.strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or " " in token:
        raise Refused("invalid_token")
    return token

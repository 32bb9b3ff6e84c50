"""Who wants to know when a token stops: watches by token, and by what the token depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.logger import Logger

from ledger.domain.policy import Caller
from ledger.domain.secret import Secret
from ledger.services.child import Clock

log = Logger()


class Watched:
    """One token that is watched; `caller` is None until it is known whom it stands for."""

    __slots__ = ("caller", "expiry", "keys", "token", "token_hash", "watchers")

    def __init__(self, token_hash: bytes, token: str) -> None:
        self.token_hash = token_hash
        self.token = Secret(token)
        self.caller: Caller | None = None
        self.keys: tuple[str, ...] = ()
        self.expiry: Any = None
        self.watchers: dict[object, Callable[[], None]] = {}


class Watches:
    """All tokens that are watched; each ends when it is told to, when it expires, or when nobody watches it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_hash: dict[bytes, Watched] = {}
        self._by_key: dict[str, dict[bytes, Watched]] = {}

    def add(self, token_hash: bytes, token: str, revoked: Callable[[], None]) -> tuple[Watched, Callable[[], None]]:
        """Watch a token; returns what is watched, and what ends this watch."""
        watched = self._by_hash.get(token_hash)
        if watched is None:
            watched = self._by_hash[token_hash] = Watched(token_hash, token)
        mark = object()
        watched.watchers[mark] = revoked

        def unwatch() -> None:
            watched.watchers.pop(mark, None)
            if not watched.watchers:
                self._drop(watched)

        return watched, unwatch

    def tie(self, watched: Watched, caller: Caller, keys: tuple[str, ...]) -> None:
        """Learn whom a watched token stands for, until when, and what that depends on."""
        if watched.caller is not None or self._by_hash.get(watched.token_hash) is not watched:
            return
        watched.caller, watched.keys = caller, keys
        for key in keys:
            self._by_key.setdefault(key, {})[watched.token_hash] = watched
        if caller.expires_at is not None:
            remaining = max(0.0, caller.expires_at - self._clock.seconds())
            watched.expiry = self._clock.callLater(remaining, self.end, [watched])

    def of(self, key: str) -> list[Watched]:
        """Return what depends on something."""
        return list(self._by_key.get(key, {}).values())

    def all(self) -> list[Watched]:
        """Return everything that is watched."""
        return list(self._by_hash.values())

    def end(self, some: Iterable[Watched]) -> None:
        """Tell the watchers of these tokens, once; what one of them raises harms no other."""
        for watched in some:
            self._drop(watched)
            watchers, watched.watchers = list(watched.watchers.values()), {}
            for revoked in watchers:
                try:
                    revoked()
                except Exception:
                    log.failure("A watcher of a token failed")

    def _drop(self, watched: Watched) -> None:
        if self._by_hash.get(watched.token_hash) is watched:
            del self._by_hash[watched.token_hash]
        for key in watched.keys:
            tied = self._by_key.get(key, {})
            if tied.get(watched.token_hash) is watched:
                del tied[watched.token_hash]
                if not tied:
                    del self._by_key[key]
        watched.keys = ()
        expiry, watched.expiry = watched.expiry, None
        if expiry is not None and expiry.active():
            expiry.cancel()

"""Bearer tokens: whom they stand for, remembered while revocations are heard, and not a moment longer."""

from collections.abc import Awaitable, Callable
from typing import Final

from twisted.internet.defer import ensureDeferred
from twisted.logger import Logger

from ledger.domain.errors import Refused
from ledger.domain.policy import Caller
from ledger.services.remembered import Remembered
from ledger.store.pool import Pool
from ledger.store.tokens import find_caller, hash_of, still_valid

log = Logger()

_REMEMBERED: Final = 50_000
_LONGEST: Final = 512
_SLICE: Final = 1_000


class Credentials:
    """Answers from memory only while `connected`; a token that stops is forgotten and its watchers are told."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._hearing = False
        self._era = 0
        self._callers: Remembered[bytes, Caller] = Remembered(_REMEMBERED)
        self._watchers: dict[bytes, dict[object, Callable[[], None]]] = {}

    def authenticate(self, token: str) -> Caller | Awaitable[Caller]:
        """Return who bears a token, at once where that is known, or refuse with `invalid_token`."""
        if len(token) > _LONGEST or not token.isascii():
            raise Refused("invalid_token")
        token_hash = hash_of(token)
        if self._hearing:
            known = self._callers.get(token_hash)
            if known is not None:
                return known
        return self._look_up(token_hash)

    async def _look_up(self, token_hash: bytes) -> Caller:
        era = self._era
        caller = await find_caller(self._pool, token_hash)
        if caller is None:
            raise Refused("invalid_token")
        if self._hearing and era == self._era:
            # A revocation heard meanwhile began another era: what was read may be older than it.
            self._callers.keep(token_hash, caller)
        return caller

    def watch(self, token: str, revoked: Callable[[], None]) -> Callable[[], None]:
        """Have `revoked` called when a token stops; returns what ends the watch."""
        token_hash, mark = hash_of(token), object()
        self._watchers.setdefault(token_hash, {})[mark] = revoked

        def unwatch() -> None:
            watchers = self._watchers.get(token_hash, {})
            watchers.pop(mark, None)
            if not watchers:
                self._watchers.pop(token_hash, None)

        return unwatch

    def stopped(self, hex_hash: str) -> None:
        """Hear that a token has stopped."""
        token_hash = bytes.fromhex(hex_hash)
        self._era += 1
        self._callers.pop(token_hash, None)
        for revoked in list(self._watchers.get(token_hash, {}).values()):
            try:
                revoked()
            except Exception:
                log.failure("A watcher of a token failed")

    def connected(self) -> None:
        """Hear again: remember anew, and ask after every token that is watched."""
        self._hearing = True
        self._era += 1  # what is being looked up may have stopped before anyone could hear of it
        if self._watchers:
            ensureDeferred(self._ask_after(list(self._watchers))).addErrback(
                lambda failure: log.failure("Watched tokens could not be checked", failure)
            )

    def disconnected(self) -> None:
        """Hear nothing more: every token is looked up until `connected`."""
        self._hearing = False
        self._era += 1
        self._callers.clear()

    async def _ask_after(self, hashes: list[bytes]) -> None:
        for start in range(0, len(hashes), _SLICE):
            some = hashes[start : start + _SLICE]
            valid = await still_valid(self._pool, some)
            for token_hash in some:
                if token_hash not in valid:
                    self.stopped(token_hash.hex())

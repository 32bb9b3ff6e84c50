"""Bearer tokens: whom they stand for, remembered while revocations are heard, and not a moment longer."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgspec
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import Logger

from ledger.domain.errors import Refused
from ledger.domain.policy import Caller
from ledger.services.child import Clock
from ledger.services.remembered import Remembered
from ledger.services.signing import Signer, looks_signed
from ledger.services.watches import Watched, Watches
from ledger.store.pool import Pool
from ledger.store.sessions import find_session_callers
from ledger.store.tokens import find_callers, hash_of

log = Logger()

_REMEMBERED: Final = 50_000
_STOPS: Final = 50_000
_LONGEST: Final = 512  # of an account's token
_SLICE: Final = 1_000


def session_key(session_id: str) -> str:
    """Return the name under which a session stops."""
    return f"session:{session_id}"


def user_key(user_id: str) -> str:
    """Return the name under which something changes that a user's tokens depend on."""
    return f"user:{user_id}"


class _Known(msgspec.Struct):
    """Whom a token stands for, what that depends on, and the era for which it is known to be so."""

    caller: Caller
    keys: tuple[str, ...]
    era: int


class Credentials:
    """Answers from memory only while `connected` and `is_current`; what stops is forgotten at once, its watchers told.

    Every stop begins an era. Whatever was read in an earlier one is compared with what has stopped since, once.
    """

    def __init__(self, pool: Pool, signer: Signer, clock: Clock, is_current: Callable[[], bool] = lambda: True) -> None:
        """`is_current` says whether all that stopped until a moment ago has been heard of."""
        self._is_current = is_current
        self._pool = pool
        self._signer = signer
        self._clock = clock
        self._hearing = False
        self._era = 0
        self._all_stopped = 0  # the era before which nothing counts
        self._stops: dict[str, int] = {}  # what has stopped since then, and the era that this began
        self._known: Remembered[bytes, _Known] = Remembered(_REMEMBERED)
        self._watches = Watches(clock)

    def authenticate(self, token: str) -> Caller | Awaitable[Caller]:
        """Return who bears a token, at once where that is known, or refuse it.

        Reasons are `invalid_token`, and `token_expired` and `invalid_token_type` for what was signed here.
        """
        try:
            token_hash = hash_of(token)
        except UnicodeEncodeError:
            raise Refused("invalid_token") from None
        if self._hearing and self._is_current():
            known = self._known.get(token_hash)
            if known is not None and (known.era == self._era or self._still_holds(token_hash, known)):
                caller = known.caller
                if caller.expires_at is not None and caller.expires_at <= self._clock.seconds():
                    raise Refused("token_expired")
                return caller
        return self._look_up(token_hash, *self._read(token))

    def watch(self, token: str, revoked: Callable[[], None]) -> Callable[[], None]:
        """Have `revoked` called when a token stops or expires; returns what ends the watch."""
        token_hash = hash_of(token)
        watched, unwatch = self._watches.add(token_hash, token, revoked)
        if watched.caller is None:
            known = self._known.get(token_hash) if self._hearing else None
            if known is not None and self._still_holds(token_hash, known):
                self._watches.tie(watched, known.caller, known.keys)
            else:
                self._ask_soon([watched])
        return unwatch

    def stopped(self, key: str) -> None:
        """Hear that a token or a session has stopped, or that a user has changed."""
        self._era += 1
        self._stops[key] = self._era
        if len(self._stops) > _STOPS:
            self._forget_all()
        kind, _, rest = key.partition(":")
        if kind == "user":
            self._ask_soon(self._watches.of(key))
        else:
            if kind == "token":
                self._known.pop(bytes.fromhex(rest), None)
            self._watches.end(self._watches.of(key))

    def connected(self) -> Deferred[None]:
        """Hear again: remember anew, and ask after every token that is watched; fails where these cannot be read."""
        self._hearing = True
        self._forget_all()  # what is being looked up may have stopped before anyone could hear of it
        return ensureDeferred(self._ask_after(self._watches.all()))

    def disconnected(self) -> None:
        """Hear nothing more: every token is looked up until `connected`."""
        self._hearing = False
        self._forget_all()

    def _forget_all(self) -> None:
        self._era += 1
        self._all_stopped = self._era
        self._stops.clear()
        self._known.clear()

    def _still_holds(self, token_hash: bytes, known: _Known) -> bool:
        if self._has_stopped(known.keys, known.era):
            self._known.pop(token_hash, None)
            return False
        known.era = self._era
        return True

    def _has_stopped(self, keys: Iterable[str], era: int) -> bool:
        return era < self._all_stopped or any(self._stops.get(key, 0) > era for key in keys)

    def _read(self, token: str) -> tuple[str | None, str, int | None]:
        """Return what a signed token says: its id, whose it is, until when; or refuse what is no token at all."""
        if looks_signed(token):
            claims = self._signer.verify(token, "access")
            return claims.jti, claims.sub, claims.exp
        if len(token) > _LONGEST or not token.isascii():
            raise Refused("invalid_token")
        return None, "", None

    async def _look_up(self, token_hash: bytes, jti: str | None, sub: str, expires_at: int | None) -> Caller:
        while True:
            era = self._era
            if jti is None:
                caller = (await find_callers(self._pool, [token_hash])).get(token_hash)
            else:
                caller = _until(expires_at, sub, (await find_session_callers(self._pool, [jti])).get(jti))
            if caller is None:
                self._known.pop(token_hash, None)
                raise Refused("invalid_token")
            keys = _keys(token_hash, caller)
            if not self._has_stopped(keys, era):  # else what was read may be older than what was heard meanwhile
                if self._hearing:
                    self._known.keep(token_hash, _Known(caller, keys, self._era))
                return caller

    def _ask_soon(self, some: list[Watched]) -> None:
        """Ask after tokens now; where no answer is to be had, they are taken to have stopped."""

        def failed(failure: object) -> None:
            log.warn("{many} watched tokens could not be looked up: {failure}", many=len(some), failure=failure)
            self._watches.end(some)

        if some:
            ensureDeferred(self._ask_after(some)).addErrback(failed)

    async def _ask_after(self, watched: list[Watched]) -> None:
        for start in range(0, len(watched), _SLICE):
            await self._ask_after_some(watched[start : start + _SLICE])

    async def _ask_after_some(self, watched: list[Watched]) -> None:
        """End the watches whose tokens have stopped or changed hands, and learn what the others depend on."""
        era = self._era
        read: list[tuple[Watched, str | None, str, int | None]] = []
        for one in watched:
            try:
                read.append((one, *self._read(one.token.reveal())))
            except Refused:
                self._watches.end([one])
        hashes = [one.token_hash for one, jti, _, _ in read if jti is None]
        jtis = [jti for _, jti, _, _ in read if jti is not None]
        plain = await find_callers(self._pool, hashes) if hashes else {}
        signed = await find_session_callers(self._pool, jtis) if jtis else {}
        again = []
        for one, jti, sub, expires_at in read:
            caller = plain.get(one.token_hash) if jti is None else _until(expires_at, sub, signed.get(jti))
            if caller is None or one.caller not in (None, caller):
                self._watches.end([one])
            elif self._has_stopped(_keys(one.token_hash, caller), era):
                again.append(one)
            else:
                self._watches.tie(one, caller, _keys(one.token_hash, caller))
        if again:
            await self._ask_after_some(again)


def _until(expires_at: int | None, sub: str, found: Caller | None) -> Caller | None:
    if found is None or found.user_id != sub:
        return None
    return msgspec.structs.replace(found, expires_at=expires_at)


def _keys(token_hash: bytes, caller: Caller) -> tuple[str, ...]:
    """What ends or changes this caller's token, by name."""
    first = f"token:{token_hash.hex()}" if caller.session_id is None else session_key(caller.session_id)
    return (first,) if caller.user_id is None else (first, user_key(caller.user_id))

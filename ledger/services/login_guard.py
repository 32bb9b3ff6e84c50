"""Guessing made slow: how many logins may fail, for one e-mail address and from one place."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from math import ceil
from typing import Final

from ledger.domain.addresses import client_of
from ledger.domain.errors import Refused

WINDOW: Final = 60.0
PER_EMAIL: Final = 10
PER_CLIENT: Final = 30
MOST: Final = 100_000  # e-mail addresses remembered, and as many clients
_SWEPT: Final = 4  # forgotten for each new one, where nothing counts any more


class LoginGuard:
    """Refuses to let a password be tried where too many tries have failed in the last minute, or are under way.

    It knows e-mail addresses as they are given, whether or not anybody has them. Each `check` that does not refuse is
    followed by one `failed` or `succeeded`, whatever else happens; where none comes, the try counts for a minute.
    """

    def __init__(self, seconds: Callable[[], float], enabled: bool) -> None:
        self._seconds = seconds
        self._enabled = enabled
        self._emails = _Tries(PER_EMAIL)
        self._clients = _Tries(PER_CLIENT)

    def check(self, email: str, address: str, known: bool) -> None:
        """Take note of a try, or refuse it with `rate_limit_exceeded`; what is refused leaves no trace.

        From a `known` address, one that the user has logged in from, it is let pass however many others have tried
        that user's e-mail address, so that nobody is locked out by somebody else's guesses.
        """
        if not self._enabled:
            return
        now, client = self._seconds(), client_of(address)
        waits = [self._clients.wait(client, now)]
        if not known:
            waits.append(self._emails.wait(email.lower(), now))
        wait = max(waits)
        if wait > 0:
            raise Refused("rate_limit_exceeded", "Too many failed logins; try again later", retry_after=wait)
        self._clients.begin(client, now)
        self._emails.begin(email.lower(), now)

    def failed(self, email: str, address: str) -> None:
        """Count a try that was not refused, and failed."""
        self._end(email, address, failed=True)

    def succeeded(self, email: str, address: str) -> None:
        """Forget a try that was not refused: it succeeded, or could not be brought to its end."""
        self._end(email, address, failed=False)

    @property
    def held(self) -> tuple[int, int]:
        """How many e-mail addresses and clients are remembered."""
        return len(self._emails), len(self._clients)

    def _end(self, email: str, address: str, *, failed: bool) -> None:
        if self._enabled:
            now = self._seconds()
            self._clients.end(client_of(address), now, failed)
            self._emails.end(email.lower(), now, failed)


class _Try:
    """The tries of one name, by the moments at which they cease to count; the newest `limit` decide."""

    __slots__ = ("failures", "under_way")

    def __init__(self, limit: int) -> None:
        self.under_way: deque[float] = deque(maxlen=limit)
        self.failures: deque[float] = deque(maxlen=limit)

    def count(self, now: float) -> int:
        """How many count now."""
        for ends in (self.under_way, self.failures):
            while ends and ends[0] <= now:
                ends.popleft()
            if ends and ends[-1] > now + WINDOW:
                ends.clear()  # the clock was set back: nobody shall wait that long
        return len(self.under_way) + len(self.failures)


class _Tries(OrderedDict[str, _Try]):
    """The tries by name, the one idle longest first; beyond the bound that one is forgotten."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def wait(self, name: str, now: float) -> int:
        """Return how many seconds it takes until one more may be tried, 0 for at once."""
        tries = self.get(name)
        over = -1 if tries is None else tries.count(now) - self._limit
        if tries is None or over < 0:
            return 0
        if over >= len(tries.failures):
            return 1  # those under way end within moments, and may yet succeed
        return max(1, ceil(tries.failures[over] - now))

    def begin(self, name: str, now: float) -> None:
        """Count a try as under way."""
        self._of(name, now).under_way.append(now + WINDOW)

    def end(self, name: str, now: float, failed: bool) -> None:
        """Count a try that was under way as failed, or not at all."""
        tries = self._of(name, now)
        if tries.under_way:
            tries.under_way.popleft()
        if failed:
            tries.failures.append(now + WINDOW)
        elif not tries.count(now):
            del self[name]

    def _of(self, name: str, now: float) -> _Try:
        tries = self.get(name)
        if tries is not None:
            self.move_to_end(name)
            return tries
        for _ in range(_SWEPT):
            idlest = next(iter(self), None)
            if idlest is None or (self[idlest].count(now) and len(self) < MOST):
                break
            del self[idlest]
        tries = self[name] = _Try(self._limit)
        return tries

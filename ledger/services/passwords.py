"""Passwords: bcrypt on threads of its own, so that a flood of them slows nothing but passwords."""

from typing import Any, Final

import bcrypt
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from ledger.domain.errors import unavailable
from ledger.services.child import Child

_ROUNDS: Final = 12
_QUEUE: Final = 64


class Passwords(Child):
    """A small pool of threads and a bounded queue before it."""

    name = "passwords"

    def __init__(self, reactor: Any, threads: int = 1, rounds: int = _ROUNDS, queue: int = _QUEUE) -> None:
        self._reactor = reactor
        self._threads = threads
        self._rounds = rounds
        self._queue = queue
        self._waiting = 0
        self._pool: ThreadPool | None = None

    async def start(self) -> None:
        """Start the threads."""
        self._pool = ThreadPool(1, self._threads, name="passwords")
        self._pool.start()

    async def stop(self) -> None:
        """Finish what is being hashed and stop the threads."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), pool.stop)

    async def hash(self, password: str) -> str:
        """Return the hash to keep of a password, or refuse with 503 when too many wait."""
        if self._pool is None or self._waiting >= self._queue:
            raise unavailable()
        self._waiting += 1
        try:
            hashed: bytes = await deferToThreadPool(
                self._reactor, self._pool, bcrypt.hashpw, password.encode(), bcrypt.gensalt(self._rounds)
            )
        finally:
            self._waiting -= 1
        return hashed.decode()

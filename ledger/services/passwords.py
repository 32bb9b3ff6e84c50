"""Passwords: bcrypt on threads of its own, so that a flood of them slows nothing but passwords."""

import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

import bcrypt
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from ledger.domain.errors import unavailable
from ledger.domain.identity import MAX_PASSWORD_BYTES
from ledger.domain.secret import Secret
from ledger.services.child import Child

_ROUNDS: Final = 12
_QUEUE: Final = 24  # at a quarter of a second each, all are done within the time that http has for its drain
_PATIENCE: Final = 6.0
_NICENESS: Final = 10

T = TypeVar("T")


class Passwords(Child):
    """A small pool of threads and a bounded queue before it, in which nothing waits longer than `patience` seconds."""

    name = "passwords"

    def __init__(
        self, reactor: Any, threads: int = 1, rounds: int = _ROUNDS, queue: int = _QUEUE, patience: float = _PATIENCE
    ) -> None:
        self._reactor = reactor
        self._threads = threads
        self._rounds = rounds
        self._queue = queue
        self._patience = patience
        self._waiting = 0
        self._nobodys = bcrypt.gensalt(rounds) + b"." * 31  # in the form of a hash, but of no password
        self._pool: ThreadPool | None = None

    async def start(self) -> None:
        """Start the threads."""
        self._pool = ThreadPool(1, self._threads, name="passwords")
        self._pool.start()

    async def stop(self) -> None:
        """Finish what is being hashed, refuse what waits with 503, and stop the threads."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), pool.stop)

    async def hash(self, password: str) -> str:
        """Return the hash to keep of a password, or refuse with 503 when too many wait, or this one for too long."""
        return (await self._in_thread(lambda: bcrypt.hashpw(password.encode(), bcrypt.gensalt(self._rounds)))).decode()

    async def check(self, password: Secret, password_hash: str | None) -> bool:
        """Whether a hash is that of a password, or refuse as `hash` does; None is nobody's, and takes the same time."""
        text = password.reveal().encode()
        kept = self._nobodys if password_hash is None else password_hash.encode()
        # bcrypt refuses to look at more, and a longer password must not be told by a faster answer.
        matches = await self._in_thread(lambda: bcrypt.checkpw(text[:MAX_PASSWORD_BYTES], kept))
        return matches and len(text) <= MAX_PASSWORD_BYTES and password_hash is not None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        pool = self._pool
        if pool is None or self._waiting >= self._queue:
            raise unavailable()
        latest = self._reactor.seconds() + self._patience
        self._waiting += 1
        try:
            done: T = await deferToThreadPool(self._reactor, pool, self._work, pool, work, latest)
        finally:
            self._waiting -= 1
        return done

    def _work(self, pool: ThreadPool, work: Callable[[], T], latest: float) -> T:
        """Work in a thread, unless nobody may wait for it any more."""
        if self._pool is not pool or self._reactor.seconds() > latest:
            raise unavailable()
        if sys.platform == "linux":  # where a thread has a priority of its own: the reactor's goes first
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        return work()

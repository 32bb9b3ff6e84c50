"""The database as a child of the tree: schema up to date, pool open, notifications heard."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ledger.domain.errors import Refused
from ledger.services.child import Child
from ledger.services.listener import Listener
from ledger.store.migrations import apply_migrations
from ledger.store.pool import Pool


class Database(Child):
    """Owns the pool for reads and short work, and the LISTEN connection."""

    name = "database"
    # Leans on nothing: it reconnects by itself, and were the writer stopped first, no commit in doubt could be settled.
    leans_on = ()
    start_deadline = 180.0

    def __init__(self, url: str, reactor: Any, pool_size: int) -> None:
        self._url = url
        self._reactor = reactor
        self.pool = Pool(reactor, url, pool_size)
        self.listener = Listener(url, reactor)
        self._abandoned = threading.Event()

    async def start(self) -> None:
        """Return when the schema is current and notifications arrive."""
        self._abandoned = threading.Event()
        await _in_daemon_thread(self._reactor, partial(apply_migrations, self._url, abandoned=self._abandoned))
        self.pool.open()
        await self.listener.start()

    async def stop(self) -> None:
        """Close every connection; a start that has not come to its end gives up as soon as it can."""
        self._abandoned.set()
        self.listener.stop()
        self.pool.close()

    async def answers(self) -> bool:
        """Whether the database answers a question now."""
        try:
            await self.pool.query("SELECT 1")
        except Refused:
            return False
        return self.listener.is_listening


def _in_daemon_thread(reactor: Any, work: Callable[[], None]) -> Deferred[None]:
    """Run what may hang for ever on a silent database; unlike the reactor's threads, this one keeps no process."""
    done: Deferred[None] = Deferred()

    def run() -> None:
        try:
            work()
        except Exception:
            reactor.callFromThread(done.errback, Failure())  # type: ignore[no-untyped-call]
        else:
            reactor.callFromThread(done.callback, None)

    threading.Thread(target=run, name="migrations", daemon=True).start()
    return done

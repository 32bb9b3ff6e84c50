"""The database as a child of the tree: schema up to date, pool open, notifications heard."""

from typing import Any

from twisted.internet.threads import deferToThreadPool

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

    async def start(self) -> None:
        """Return when the schema is current and notifications arrive."""
        await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), apply_migrations, self._url)
        self.pool.open()
        await self.listener.start()

    async def stop(self) -> None:
        """Close every connection."""
        self.listener.stop()
        self.pool.close()

    async def answers(self) -> bool:
        """Whether the database answers a question now."""
        try:
            await self.pool.query("SELECT 1")
        except Refused:
            return False
        return self.listener.is_listening

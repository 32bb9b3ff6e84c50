"""The parts of a server that a command works with for a moment, alone or beside running servers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ledger.config import Config
from ledger.services.audit import Audit
from ledger.services.ids import new_id
from ledger.services.login_guard import LoginGuard
from ledger.services.passwords import Passwords
from ledger.services.users import Users
from ledger.services.writer import Writer
from ledger.store.journal import JournalWriter
from ledger.store.pool import Pool


class Workbench:
    """A pool, a writer and what makes users; running servers hear of all that is committed."""

    def __init__(self, config: Config, url: str, reactor: Any) -> None:
        self.pool = Pool(reactor, url, 1)
        self.writer = Writer(JournalWriter(reactor, url), reactor, lambda _committed: None)
        self.passwords = Passwords(reactor)
        self.audit = Audit(self.pool, reactor, new_id)
        guard = LoginGuard(reactor.seconds, enabled=False)
        submit = self.writer.submit
        self.users = Users(config, self.pool, submit, self.passwords, guard, lambda _key: None, new_id, reactor)


@asynccontextmanager
async def workbench(config: Config, url: str, reactor: Any) -> AsyncIterator[Workbench]:
    """Open a workbench, and close it when the work is done; raises what opening the writer's connection raises."""
    bench = Workbench(config, url, reactor)
    bench.pool.open()
    try:
        await bench.writer.start()
        await bench.passwords.start()
        yield bench
    finally:
        await bench.passwords.stop()
        await bench.writer.stop()
        await bench.audit.stop()
        bench.pool.close()

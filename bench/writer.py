"""`python -m bench.writer URL --batch N [--hot] --seconds S`: the writer with its lanes full, and how fast it goes."""

import argparse
import json
import random
import secrets
import time
from collections.abc import Sequence
from typing import Any, Final

import uuid_utils
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater, react
from twisted.python.failure import Failure

from ledger.domain.accounts import WORLD_TYPE
from ledger.domain.cash import Credit
from ledger.services.collector import collect_seldom
from ledger.services.writer import Writer
from ledger.store.journal import JournalWriter

_RUN_IN: Final = 1.0  # the first writes to every page after a checkpoint are whole pages
_AMOUNT: Final = 100
_FASTEST: Final = 80_000  # commands a second that are made beforehand

Account = tuple[str, str, str]


async def _accounts(writer: JournalWriter) -> list[Account]:
    rows = await writer.session.run(
        "SELECT id::text, user_id::text, asset FROM accounts WHERE type <> %s ORDER BY id", (WORLD_TYPE,)
    )
    if not rows:
        raise SystemExit("bench: the database holds no accounts")
    return [(str(account), str(user), str(asset)) for account, user, asset in rows]


def _credit(key: str, account: str, user: str, asset: str) -> Credit:
    return Credit(
        id=str(uuid_utils.uuid7()),
        scope=user,
        key=key,
        account_id=account,
        user_id=user,
        asset=asset,
        amount=_AMOUNT,
    )


class _Load:
    """As many commands in the writer's lanes as make one more batch full while one is kept and one is decided."""

    def __init__(self, writer: Writer, accounts: Sequence[Account], many: int) -> None:
        self._writer = writer
        run = secrets.token_hex(8)
        # Made beforehand: what making them costs is not the writer's.
        self._commands = [_credit(f"{run}-{number}", *random.choice(accounts)) for number in range(many)]
        self._commands.reverse()  # they are taken from the end, their ids growing as those that are made on arrival
        self._on = True
        self.written = 0
        self.done: Deferred[None] = Deferred()
        self._waiting = 0

    async def begin(self, reactor: Any, outstanding: int, batch: int) -> None:
        """Submit that many, a batch a turn, and one more for each that is answered."""
        for start in range(0, outstanding, batch):
            for _ in range(min(batch, outstanding - start)):
                self._submit()
            await deferLater(reactor, 0)

    def end(self) -> Deferred[None]:
        """Submit no more; fires when all are answered."""
        self._on = False
        return self.done

    def _submit(self) -> None:
        if not self._commands:
            raise SystemExit("bench: the writer was faster than commands had been made for")
        command = self._commands.pop()
        self._waiting += 1
        self._writer.submit(command).addCallbacks(self._answered, self._failed)

    def _answered(self, _: object) -> None:
        self.written += 1
        self._waiting -= 1
        if self._on:
            self._submit()
        elif not self._waiting:
            self.done.callback(None)

    def _failed(self, failure: Failure) -> None:
        self._on = False
        if not self.done.called:
            self.done.errback(failure)


async def _measure(reactor: Any, url: str, size: int, hot: bool, seconds: float) -> dict[str, float]:
    store = JournalWriter(reactor, url)
    writer = Writer(store, reactor, lambda _: None, batch=size)
    await writer.start()
    try:
        accounts = await _accounts(store)
        load = _Load(writer, accounts[:1] if hot else accounts, int(_FASTEST * (seconds + 2 * _RUN_IN)))
        collect_seldom()
        await load.begin(reactor, 3 * size, size)
        await deferLater(reactor, _RUN_IN)
        begin, before = time.perf_counter(), load.written
        await deferLater(reactor, seconds)
        per_second = (load.written - before) / (time.perf_counter() - begin)
        await load.end()
        return {"per_second": per_second, "written": load.written}
    finally:
        await writer.stop()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.writer", description="Measure the writer alone.")
    parser.add_argument("url")
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--hot", action="store_true", help="one account instead of all")
    parser.add_argument("--seconds", type=float, default=5)
    given = parser.parse_args()

    async def measure(reactor: Any) -> None:
        print(json.dumps(await _measure(reactor, given.url, given.batch, given.hot, given.seconds)))

    def begin(reactor: Any) -> Deferred[None]:
        return ensureDeferred(measure(reactor))

    react(begin)


if __name__ == "__main__":
    main()

"""`python -m bench.writer URL --batch N [--hot] --seconds S`: the writer's steps in a loop, and how fast they went."""

import argparse
import json
import random
import secrets
import time
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, Final

import uuid_utils
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import react

from ledger.domain.accounts import WORLD_TYPE
from ledger.domain.cash import Credit
from ledger.domain.commands import Sealed, decide
from ledger.store.journal import JournalWriter

_WARM_UP: Final = 0.5
_AMOUNT: Final = 100

Account = tuple[str, str, str]


async def _accounts(writer: JournalWriter) -> list[Account]:
    rows = await writer.session.run(
        "SELECT id::text, user_id::text, asset FROM accounts WHERE type <> %s ORDER BY id", (WORLD_TYPE,)
    )
    if not rows:
        raise SystemExit("bench: the database holds no accounts")
    return [(str(account), str(user), str(asset)) for account, user, asset in rows]


def _batch(accounts: Sequence[Account], size: int, keys: Iterator[str]) -> list[Credit]:
    return [
        Credit(
            id=str(uuid_utils.uuid7()),
            scope=user,
            key=next(keys),
            account_id=account,
            user_id=user,
            asset=asset,
            amount=_AMOUNT,
        )
        for account, user, asset in random.choices(accounts, k=size)
    ]


async def _write(writer: JournalWriter, commands: Sequence[Credit]) -> None:
    """Read facts, decide, append: what the service does with a batch, less the lanes and the answers."""
    book = await writer.read_facts(commands)
    outcomes = decide(book, commands)
    sealed = [outcome for outcome in outcomes if isinstance(outcome, Sealed)]
    if len(sealed) != len(commands):
        raise SystemExit("bench: a credit was not accepted")
    await writer.append(book, sealed)


async def _measure(reactor: Any, url: str, size: int, hot: bool, seconds: float) -> dict[str, float]:
    writer = JournalWriter(reactor, url)
    await writer.open()
    try:
        accounts = await _accounts(writer)
        run = secrets.token_hex(8)
        keys = (f"{run}-{number}" for number in count())
        chosen = accounts[:1] if hot else accounts
        warm = time.perf_counter() + _WARM_UP
        written = 0
        while time.perf_counter() < warm:
            await _write(writer, _batch(chosen, size, keys))
            written += size
        begin = now = time.perf_counter()
        measured = 0
        while now - begin < seconds:
            await _write(writer, _batch(chosen, size, keys))
            measured += size
            now = time.perf_counter()
        return {"per_second": measured / (now - begin), "written": written + measured}
    finally:
        writer.close()


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

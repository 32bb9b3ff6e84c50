"""The `ledger` script: what is done beside a server rather than through it."""

import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import react
from twisted.python import usage

from ledger.config import Config
from ledger.domain.errors import ConfigurationError, Refused
from ledger.options import ServerOptions
from ledger.services.postgres_cluster import PostgresFailed, running_postgres
from ledger.store.migrations import apply_migrations
from ledger.store.pool import Pool
from ledger.store.verify import resting, verify


class Migrate(ServerOptions):
    """Options of `ledger migrate`."""

    synopsis = "Usage: ledger migrate [options]"


class Verify(ServerOptions):
    """Options of `ledger verify`."""

    synopsis = "Usage: ledger verify [options]"


class Script(usage.Options):
    """The commands of the script."""

    synopsis = "Usage: ledger COMMAND [options]"
    subCommands = (
        ("migrate", None, Migrate, "bring the database to this version's schema"),
        ("verify", None, Verify, "check every invariant over the whole journal"),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; ends the process with 0, 1 where something was found or failed, 2 for a usage error."""
    script = Script()  # type: ignore[no-untyped-call]
    commands: dict[str, Callable[[Config], None]] = {"migrate": _migrate, "verify": _verify}
    try:
        script.parseOptions(list(sys.argv[1:] if arguments is None else arguments))  # type: ignore[no-untyped-call]
        if script.subCommand is None:
            raise usage.UsageError("name a command: migrate, verify")
        config = script.subOptions.config()
    except usage.UsageError as error:
        print(f"ledger: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        commands[script.subCommand](config)
    except (ConfigurationError, PostgresFailed) as error:
        print(f"ledger: {error}", file=sys.stderr)
        sys.exit(1)


@contextmanager
def _database(config: Config) -> Iterator[str]:
    """The URL of the configured database; the embedded one runs at least as long as this."""
    if config.database is not None:
        yield config.database
    else:
        with running_postgres(config.data_dir) as url:
            yield url


def _migrate(config: Config) -> None:
    with _database(config) as url:
        apply_migrations(url)
    print("The schema is up to date.")


def _verify(config: Config) -> None:
    async def check(reactor: Any, url: str) -> bool:
        pool = Pool(reactor, url, 1)
        pool.open()
        try:
            verdict = await verify(pool, resting(reactor))
        finally:
            pool.close()
        print(msgspec.json.encode(verdict).decode())
        return verdict.ok

    with _database(config) as url:
        well = _run(lambda reactor: check(reactor, url))
    sys.exit(0 if well else 1)


def _run(work: Callable[[Any], Awaitable[bool]]) -> bool:
    results: list[bool] = []

    async def guarded(reactor: Any) -> None:
        try:
            results.append(await work(reactor))
        except Refused as refused:
            print(f"ledger: {refused.message}", file=sys.stderr)

    def begin(reactor: Any) -> Deferred[None]:
        return ensureDeferred(guarded(reactor))

    try:
        react(begin)
    except SystemExit as end:
        if end.code:
            raise
    return bool(results and results[0])

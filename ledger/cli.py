"""The `ledger` script: what is done beside a server rather than through it."""

import re
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import msgspec
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import react
from twisted.python import usage

from ledger.config import Config
from ledger.domain.errors import ConfigurationError, Refused
from ledger.domain.identity import check_name, normalise_email
from ledger.options import ServerOptions
from ledger.resources.error_page import errors_page
from ledger.resources.route_page import routes_page, routes_text
from ledger.resources.routes import all_endpoints
from ledger.services.audit import AuditEvent
from ledger.services.postgres_cluster import PostgresFailed, running_postgres
from ledger.services.prompt import ask_password
from ledger.services.seeding import PEOPLE, Seeding
from ledger.services.workbench import workbench
from ledger.store.migrations import apply_migrations
from ledger.store.pool import Pool
from ledger.store.postgres import ConnectionLost, StatementFailed
from ledger.store.verify import resting, verify

_UNDEFINED: Final = ("42P01", "42703")  # a table, a column
_NO_SCHEMA: Final = "the database lacks this version's schema: run `ledger migrate` first"


class Migrate(ServerOptions):
    """Options of `ledger migrate`."""

    synopsis = "Usage: ledger migrate [options]"


class Verify(ServerOptions):
    """Options of `ledger verify`."""

    synopsis = "Usage: ledger verify [options]"


class Seed(ServerOptions):
    """Options of `ledger seed`."""

    synopsis = "Usage: ledger seed [options]"
    optFlags = (("yes", None, "put the sample users into an external database too"),)

    def postOptions(self) -> None:
        """Refuse to put users whose passwords everybody knows where nobody may expect them."""
        super().postOptions()
        if self.config().database is not None and not self["yes"]:
            raise usage.UsageError(
                "seed: anyone can log in as the sample users; with --database, add --yes to make them"
            )


class CreateAdmin(ServerOptions):
    """Options of `ledger create-admin`."""

    synopsis = "Usage: ledger create-admin --email E --name N [options]"
    optParameters = (
        ("email", None, None, "the admin's e-mail address, to log in with"),
        ("name", None, None, "the admin's full name"),
    )

    def postOptions(self) -> None:
        """Demand what has no default."""
        super().postOptions()
        for name in ("email", "name"):
            if self[name] is None:
                raise usage.UsageError(f"create-admin: --{name} is missing")


class Routes(ServerOptions):
    """Options of `ledger routes`."""

    synopsis = "Usage: ledger routes [options]"
    optFlags = (("markdown", None, "print the page of the documentation"),)


class Errors(ServerOptions):
    """Options of `ledger errors`."""

    synopsis = "Usage: ledger errors [options]"


class Script(usage.Options):
    """The commands of the script."""

    synopsis = "Usage: ledger COMMAND [options]"
    subCommands = (
        ("migrate", None, Migrate, "bring the database to this version's schema"),
        ("verify", None, Verify, "check every invariant over the whole journal"),
        ("seed", None, Seed, "make sample users with sample money"),
        ("create-admin", None, CreateAdmin, "make a user who is an admin; asks for the password"),
        ("routes", None, Routes, "list the endpoints and who may use them"),
        ("errors", None, Errors, "list the reasons that requests are refused with"),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; ends the process with 0, 1 where something was found or failed, 2 for a usage error."""
    script = Script()  # type: ignore[no-untyped-call]
    commands: dict[str, Callable[[Any, Config], None]] = {
        "migrate": _migrate,
        "verify": _verify,
        "seed": _seed,
        "create-admin": _create_admin,
        "routes": _routes,
        "errors": _errors,
    }
    try:
        script.parseOptions(list(sys.argv[1:] if arguments is None else arguments))  # type: ignore[no-untyped-call]
        if script.subCommand is None:
            raise usage.UsageError(f"name a command: {', '.join(commands)}")
        config = script.subOptions.config()
    except usage.UsageError as error:
        print(f"ledger: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        commands[script.subCommand](script.subOptions, config)
    # The last two: initdb, locks, disks.
    except (ConfigurationError, PostgresFailed, Refused, RuntimeError, OSError) as error:
        print(f"ledger: {error}", file=sys.stderr)
        sys.exit(1)


@contextmanager
def _database(config: Config, *, migrated: bool = False) -> Iterator[str]:
    """The URL of the configured database; the embedded one runs at least as long as this.

    With `migrated`, the embedded one has the schema: it may be that no server has been started on it yet.
    """
    if config.database is not None:
        yield config.database
    else:
        with running_postgres(config.data_dir) as url:
            if migrated:
                apply_migrations(url)
            yield url


def _migrate(_options: Any, config: Config) -> None:
    with _database(config) as url:
        apply_migrations(url)
    print("The schema is up to date.")


def _verify(_options: Any, config: Config) -> None:
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
    _end([], well)


def _seed(_options: Any, config: Config) -> None:
    lines: list[str] = []

    async def sow(reactor: Any, url: str) -> bool:
        async with workbench(config, url, reactor) as bench:
            seeding = Seeding(bench.pool, bench.writer.submit, bench.passwords, config.currency)
            for person in PEOPLE:
                made = await seeding.sow(person)
                money = f" with {person.money} {config.currency}" if person.money else ""
                lines.append(f"{person.email}: {f'made{money}' if made else 'nothing to do'}")
        return True

    with _database(config, migrated=True) as url:
        well = _run(lambda reactor: sow(reactor, url))
    alice = msgspec.json.encode({"email": PEOPLE[0].email, "password": PEOPLE[0].password}).decode()
    if well:
        lines.append(f"Log in with: {', '.join(f'{person.email} {person.password}' for person in PEOPLE)}")
        lines.append(f"Try: curl -s {_address(config)}/api/auth/login -d '{alice}'")
    _end(lines, well)


def _create_admin(options: Any, config: Config) -> None:
    email, name = normalise_email(options["email"]), check_name(options["name"])
    password = ask_password("admin")
    lines: list[str] = []

    async def create(reactor: Any, url: str) -> bool:
        async with workbench(config, url, reactor) as bench:
            user = await bench.users.create(email, name, password, "admin", verified=True)
            details = {"id": user.id, "role": user.role}
            bench.audit.record(AuditEvent("admin_action", endpoint="ledger create-admin", details=details))
        lines.append(f"{user.email} is an admin now, with the id {user.id}.")
        return True

    with _database(config, migrated=True) as url:
        well = _run(lambda reactor: create(reactor, url))
    _end(lines, well)


class _Unbuilt:
    """Stands where the server's parts are only handed on: endpoints that are declared, and never called."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __getattr__(self, name: str) -> None:
        return None


def _routes(options: Any, config: Config) -> None:
    backend: Any = _Unbuilt(config)
    endpoints = all_endpoints(backend, lambda: 0.0)
    print((routes_page if options["markdown"] else routes_text)(endpoints), end="")


def _errors(_options: Any, _config: Config) -> None:
    print(errors_page(), end="")


def _address(config: Config) -> str:
    """Where a server with this configuration is, as far as its first endpoint tells."""
    tcp = re.match(r"tcp:(?:port=)?([1-9][0-9]*)", config.listen[0])
    return f"http://127.0.0.1:{tcp[1] if tcp else 8080}"


def _end(lines: Sequence[str], well: bool) -> NoReturn:
    # Said only now: whoever reads it may have gone, and that must not end the work half-way.
    for line in lines:
        print(line)
    sys.exit(0 if well else 1)


def _run(work: Callable[[Any], Awaitable[bool]]) -> bool:
    """Do what needs the reactor; whether it was done, and came to a good end."""
    results: list[bool] = []

    async def guarded(reactor: Any) -> None:
        try:
            results.append(await work(reactor))
        except (ConfigurationError, ConnectionLost, Refused) as error:
            print(f"ledger: {error}", file=sys.stderr)
        except StatementFailed as failed:
            reason = _NO_SCHEMA if failed.sqlstate in _UNDEFINED else str(failed)
            print(f"ledger: {reason}", file=sys.stderr)

    def begin(reactor: Any) -> Deferred[None]:
        return ensureDeferred(guarded(reactor))

    try:
        react(begin)
    except SystemExit as end:
        if end.code:
            raise
    return bool(results and results[0])

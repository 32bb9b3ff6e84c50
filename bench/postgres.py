"""A throw-away PostgreSQL from the wheel, with the settings of the embedded one, and what is put into it beforehand."""

import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final
from uuid import UUID

import bcrypt
import uuid_utils

from ledger.domain.accounts import WORLD_TYPE, world_id
from ledger.services.postgres_cluster import Cluster
from ledger.services.postgres_install import ENVIRONMENT, find_install
from ledger.services.postgres_layout import ROLE

DURABLE: Final = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
_ASSET: Final = "USD/2"
_BATCH: Final = 1_000


@dataclass(frozen=True)
class Customer:
    """A user with one account, and the token that opens it."""

    user_id: str
    account_id: str
    token: str

    @property
    def token_hash(self) -> str:
        """The token as tables keep it, as a literal."""
        return f"'\\x{sha256(self.token.encode()).hexdigest()}'"


@dataclass(frozen=True)
class Login:
    """What a user logs in with."""

    email: str
    password: str


@contextmanager
def throw_away_cluster() -> Iterator[Cluster]:
    """Run a cluster in a temporary folder, fsync on, and leave nothing of it behind; it blocks."""
    with tempfile.TemporaryDirectory(prefix="ledger-bench-") as folder:
        if os.geteuid() == 0:
            os.chmod(folder, 0o711)  # PostgreSQL does not run as root and has to pass
        cluster = Cluster(Path(folder, "data"), DURABLE)
        cluster.acquire()
        try:
            yield cluster
        finally:
            cluster.release()


def create_database(cluster: Cluster, name: str) -> str:
    """Make a database that the server's role owns, and return the way into it."""
    psql(cluster.superuser_url("postgres"), f"CREATE DATABASE {name} OWNER {ROLE}")
    return cluster.layout.url(database=name)


def drop_database(cluster: Cluster, name: str) -> None:
    """Remove a database with all that is in it, whoever is still connected."""
    psql(cluster.superuser_url("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


def psql(url: str, sql: str) -> str:
    """Run statements one by one and return their unaligned output; the first that fails raises with its message."""
    program = str(find_install() / "bin" / "psql")
    command = [program, "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", url]
    done = subprocess.run(command, input=sql, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    if done.returncode != 0:
        raise RuntimeError(f"psql: {done.stderr.strip()}")
    return done.stdout.strip()


def credits_booked(url: str) -> int:
    """Return how many credits the database holds; both servers call the table and the column alike."""
    return int(psql(url, "SELECT count(*) FROM transactions WHERE type = 'credit'"))


def seed_ours(url: str, count: int) -> list[Customer]:
    """Put users into the ledger's tables, past the hashing of passwords; its migrations have run."""
    customers = _customers(count)
    world = f"('{world_id(_ASSET)}', NULL, '{_ASSET}', '{WORLD_TYPE}')"
    psql(url, f"INSERT INTO accounts (id, user_id, asset, type) VALUES {world} ON CONFLICT DO NOTHING")
    _insert(
        url,
        "users (id, email, full_name, password_hash)",
        (
            f"'{one.user_id}', 'user{number}@bench.invalid', 'User {number}', '!'"
            for number, one in enumerate(customers)
        ),
    )
    _insert(
        url,
        "accounts (id, user_id, asset, type)",
        (f"'{one.account_id}', '{one.user_id}', '{_ASSET}', 'CHECKING'" for one in customers),
    )
    return _give_tokens(url, customers)


def seed_admin(url: str) -> Login:
    """Put an admin into the ledger's tables, with a hash that is cheap to check."""
    login = Login("admin@bench.invalid", secrets.token_urlsafe(16))
    password_hash = bcrypt.hashpw(login.password.encode(), bcrypt.gensalt(4)).decode()
    row = f"'{_new_id()}', '{login.email}', 'Admin', '{password_hash}', 'admin'"
    _insert(url, "users (id, email, full_name, password_hash, role)", [row])
    return login


def seed_alternative(url: str, count: int) -> list[Customer]:
    """Put users into the alternative's tables, which it has made."""
    customers = _customers(count)
    _insert(url, "users (id, name)", (f"'{one.user_id}', 'User {number}'" for number, one in enumerate(customers)))
    _insert(url, "accounts (id, user_id)", (f"'{one.account_id}', '{one.user_id}'" for one in customers))
    return _give_tokens(url, customers)


def _give_tokens(url: str, customers: list[Customer]) -> list[Customer]:
    rows = (f"{one.token_hash}, '{one.account_id}'" for one in customers)
    _insert(url, "account_tokens (token_hash, account_id)", rows)
    psql(url, "ANALYZE users, accounts, account_tokens")
    return customers


def _customers(count: int) -> list[Customer]:
    return [Customer(_new_id(), _new_id(), os.urandom(32).hex()) for _ in range(count)]


def _new_id() -> str:
    return str(UUID(bytes=uuid_utils.uuid7().bytes))


def _insert(url: str, target: str, rows: Iterable[str]) -> None:
    values = [f"({row})" for row in rows]
    for start in range(0, len(values), _BATCH):
        psql(url, f"INSERT INTO {target} VALUES {', '.join(values[start : start + _BATCH])}")

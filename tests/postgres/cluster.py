"""A real PostgreSQL for one run of the tests, with databases copied from a template."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg2

from ledger.services.file_lock import FileLock
from ledger.services.postgres_cluster import NO_SETTINGS, Cluster
from ledger.services.postgres_layout import ROLE, Layout
from ledger.services.postgres_process import Postmaster
from ledger.store.migrations import apply_migrations
from tests.postgres.reuse import Original

TEMPLATE = "ledger_template"
_PREFIX = "ledger-tests-run-"
_OLD = 60.0


def temporary_data_dir(prefix: str = "ledger-tests-") -> Path:
    """A new directory that the user PostgreSQL runs as may pass, which pytest's own is not when root runs the tests."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    if os.geteuid() == 0:
        folder.chmod(0o711)
    return folder


class DatabaseServer:
    """The PostgreSQL that a whole run of the tests shares."""

    def __init__(self, data_dir: Path, settings: Mapping[str, str] = NO_SETTINGS) -> None:
        self.cluster = Cluster(data_dir, settings)
        self._original: Original | None = None  # what is copied for every test
        self._spare: list[str] = []

    def url(self, database: str) -> str:
        """The URL of a database for the role that the server uses."""
        return self.cluster.layout.url(database=database)

    def superuser_url(self, database: str = "postgres") -> str:
        """The URL of a database for the superuser."""
        return self.cluster.superuser_url(database)

    def execute(self, statement: str, *arguments: Any, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as the superuser, outside of any transaction, and return its rows."""
        with closing(psycopg2.connect(self.superuser_url(database))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, arguments or None)
                return list(cursor.fetchall()) if cursor.description else []

    def create_database(self, *, migrated: bool = True) -> str:
        """Make a database of its own, with the schema in it or empty, and return its name."""
        name = f"test_{uuid4().hex}"
        if migrated and self._original is None:
            self.execute(f"CREATE DATABASE {TEMPLATE} OWNER {ROLE}")
            apply_migrations(self.url(TEMPLATE))
            self._original = Original.of(self.superuser_url(TEMPLATE))
        template = TEMPLATE if migrated else "template1"
        self.execute(f"CREATE DATABASE {name} OWNER {ROLE} TEMPLATE {template}")
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is still connected."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    @contextmanager
    def database(self, *, migrated: bool = True) -> Iterator[str]:
        """The URL of a database for the length of the block, new or as good as new."""
        name = (self._used_again() if migrated else None) or self.create_database(migrated=migrated)
        try:
            yield self.url(name)
        finally:
            if migrated:
                self._spare.append(name)
            else:
                self.drop_database(name)

    def _used_again(self) -> str | None:
        """One that a test has done with, made as new only now, when whatever that test had started has ended."""
        while self._spare and self._original is not None:
            name = self._spare.pop()
            if self._original.restore(self.superuser_url(name)):
                return name
            self.drop_database(name)
        return None


@contextmanager
def running_server() -> Iterator[DatabaseServer]:
    """Run a server in a temporary directory, after clearing away those of killed runs."""
    sweep()
    data_dir = temporary_data_dir(_PREFIX)
    # Plans must not hang on whether a table was looked at in the middle of a test.
    server = DatabaseServer(data_dir, {"autovacuum": "off"})
    try:
        server.cluster.acquire()
        yield server
    finally:
        server.cluster.release()
        shutil.rmtree(data_dir, ignore_errors=True)


def sweep() -> None:
    """Stop and remove the servers of runs that were killed: those that nobody holds."""
    for folder in Path("/tmp").glob(f"{_PREFIX}*"):
        lock_file = folder / "users.lock"
        if not os.access(lock_file, os.W_OK) or time.time() - lock_file.stat().st_mtime < _OLD:
            continue
        claim = FileLock(lock_file)
        if claim.try_exclusive():
            cluster = Layout(folder).cluster
            left = Postmaster.find(cluster, cluster.stat().st_uid) if cluster.exists() else None
            if left is not None:
                left.signal(signal.SIGQUIT)
                left.gone_within(10)
            shutil.rmtree(folder, ignore_errors=True)
            claim.release()

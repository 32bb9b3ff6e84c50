"""Bringing a database to the schema that this version knows: once, whoever else tries at the same time. It blocks."""

from __future__ import annotations

import glob
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psycopg2
import psycopg2.extensions
from yoyo import read_migrations
from yoyo.backends.core.postgresql import PostgresqlBackend
from yoyo.migrations import default_migration_table

import ledger
from ledger.domain.errors import ConfigurationError
from ledger.store.postgres import NETWORK, first_line

LOCK_KEY: Final = int.from_bytes(b"migrate")
PATIENCE: Final = 600.0
_CONNECT_WITHIN: Final = 10  # seconds for each address, unless the URL says otherwise


class _Backend(PostgresqlBackend):  # type: ignore[misc]
    """yoyo's bookkeeping, given our lock and any URL that libpq takes."""

    def connect(self, url: str) -> Any:
        settings = {"connect_timeout": _CONNECT_WITHIN, **NETWORK, **psycopg2.extensions.parse_dsn(url)}
        connection = psycopg2.connect(**settings)
        connection.autocommit = True
        return connection

    @contextmanager
    def lock(self, timeout: float = 0.0) -> Iterator[None]:  # noqa: ARG002
        # yoyo's own lock is a row, which a killed process leaves behind; we hold an advisory lock instead.
        yield

    def list_tables(self, **_: Any) -> list[str]:
        found = self.execute("SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = current_schema()")
        return [name for (name,) in found.fetchall()]

    def close(self) -> None:
        self.connection.close()

    def get_log_data(self, migration: Any = None, operation: str = "apply") -> dict[str, Any]:
        # yoyo's asks for the user's name, which containers may lack, and for the host's full one, which may take long.
        return {
            "id": str(uuid.uuid4()),
            "migration_id": migration.id if migration else None,
            "migration_hash": migration.hash if migration else None,
            "username": "ledger",
            "hostname": socket.gethostname(),
            "created_at_utc": datetime.now(UTC).replace(tzinfo=None),
            "operation": operation,
        }


def migrations_folder() -> Path:
    """Where the migrations are: in the installed package, else in the repository."""
    package = Path(ledger.__file__).parent
    installed = package / "sql"
    return installed if installed.is_dir() else package.parent / "sql"


def apply_migrations(url: str, folder: Path | None = None, *, abandoned: threading.Event | None = None) -> None:
    """Apply what is missing, each migration whole or not at all; refuse a schema that has more than we know.

    Once `abandoned` is set, no further one is begun: it raises TimeoutError.
    """
    known = read_migrations(glob.escape(str(folder or migrations_folder())))
    abandoned = abandoned or threading.Event()
    with closing(_connect(url)) as backend, _lock(backend, abandoned):
        backend.ensure_internal_schema_updated()
        applied = {name for (name,) in backend.execute(f'SELECT migration_id FROM "{default_migration_table}"')}
        if unknown := sorted(applied - {migration.id for migration in known}):
            raise ConfigurationError(
                f"the database's schema is newer than this version of ledger: it has {', '.join(unknown)}"
            )
        for migration in sorted(known, key=lambda migration: str(migration.id)):
            if migration.id not in applied:
                _go_on(abandoned)
                _apply(backend, migration)


def _connect(url: str) -> Any:
    try:
        psycopg2.extensions.parse_dsn(url)
    except psycopg2.ProgrammingError:  # its message may hold the password
        raise ConfigurationError("--database: this is not a PostgreSQL URL") from None
    try:
        return _Backend(url, default_migration_table)
    except psycopg2.OperationalError as error:
        raise ConfigurationError(f"--database: {first_line(error)}") from error


@contextmanager
def _lock(backend: Any, abandoned: threading.Event) -> Iterator[None]:
    """Hold the database's migration lock; it ends with our connection at the latest."""
    # Polled, because who waits inside the statement keeps a snapshot that CREATE INDEX CONCURRENTLY waits for.
    deadline = time.monotonic() + PATIENCE
    while not backend.execute(f"SELECT pg_try_advisory_lock({LOCK_KEY})").fetchone()[0]:
        abandoned.wait(0.1)
        _go_on(abandoned)
        if time.monotonic() > deadline:
            raise TimeoutError("another process has been migrating the database for too long")
    _go_on(abandoned)
    yield


def _go_on(abandoned: threading.Event) -> None:
    if abandoned.is_set():
        raise TimeoutError("nobody waits for the migrations any more")


def _apply(backend: Any, migration: Any) -> None:
    migration.load()
    if not migration.use_transactions:  # `-- transactional: false`; such a migration must bear being run again
        backend.apply_one(migration)
        return
    # The server splits the statements, and one transaction holds them and the mark: yoyo does neither.
    with backend.transaction():
        with backend.cursor() as cursor:
            cursor.execute(Path(migration.path).read_text(encoding="utf-8"))
        backend.mark_one(migration)

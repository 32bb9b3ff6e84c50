"""Where the embedded PostgreSQL's files are below a data directory, and how they are made."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

from ledger.domain.errors import ConfigurationError
from ledger.services.postgres_install import MAJOR, OsUser

ROLE: Final = "ledger"
DATABASE: Final = "ledger"
SUPERUSER: Final = "postgres"
PORT: Final = 5432  # never listened on: it names the socket
_LONGEST_SOCKET_PATH: Final = 103  # 107 bytes on Linux, 103 on macOS

SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "listen_addresses": "",
        "port": str(PORT),
        "unix_socket_permissions": "0700",
        "max_connections": "100",
        "shared_buffers": "256MB",
        "client_connection_check_interval": "1s",  # a killed server's statements must not go on holding locks
        "min_wal_size": "1GB",
        "max_wal_size": "4GB",
        # A backend that looks for room must find clean pages: to write dirty ones is not the writer's work.
        "bgwriter_delay": "20ms",
        "bgwriter_lru_maxpages": "1000",
        "bgwriter_lru_multiplier": "4",
        "random_page_cost": "1.1",
        "max_parallel_workers_per_gather": "0",  # short statements only, and containers have little /dev/shm
        "timezone": "UTC",
        "logging_collector": "on",
        "log_directory": "log",
        "log_filename": "postgresql-%a.log",
        "log_rotation_age": "1d",
        "log_rotation_size": "0",
        "log_truncate_on_rotation": "on",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] %q%u@%d ",
        "log_min_messages": "warning",
        # Statements and details of failed ones carry e-mail addresses and hashes.
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
    }
)


@dataclass(frozen=True)
class Layout:
    """The paths of one data directory; `data_dir` is absolute."""

    data_dir: Path

    @property
    def home(self) -> Path:
        """The folder of all that is PostgreSQL's; it belongs to us, `cluster` and `sockets` in it to PostgreSQL."""
        return self.data_dir / "postgres"

    @property
    def cluster(self) -> Path:
        """What PostgreSQL calls its data directory; it exists only when it is complete."""
        return self.home / "cluster"

    @property
    def startup_log(self) -> Path:
        """What the postmaster wrote before its own log began."""
        return self.home / "startup.log"

    @property
    def sockets(self) -> Path:
        """The folder of the unix socket: below the data directory unless its path is too long or holds , or \"."""
        near = self.home / "run"
        if len(os.fsencode(near / f".s.PGSQL.{PORT}")) <= _LONGEST_SOCKET_PATH and not set(',"') & set(str(near)):
            return near
        return Path("/tmp", f"ledger-{hashlib.sha256(os.fsencode(near)).hexdigest()[:16]}")

    @property
    def socket(self) -> Path:
        """The unix socket itself."""
        return self.sockets / f".s.PGSQL.{PORT}"

    def url(self, role: str = ROLE, database: str = DATABASE) -> str:
        """The libpq URL of that role's way into that database."""
        return f"postgresql://{role}@/{database}?host={quote(str(self.sockets), safe='')}&port={PORT}"

    def make_data_dir(self) -> None:
        """Make the data directory and our folder in it; root's let others pass, for PostgreSQL does not run as root."""
        missing = [step for step in (self.data_dir, *self.data_dir.parents) if not step.exists()]
        if not self.home.exists():
            missing = [self.home, *missing]
        try:
            for folder in reversed(missing):
                folder.mkdir(mode=0o700, exist_ok=True)
                if os.geteuid() == 0:
                    folder.chmod(0o711)
            if os.geteuid() == 0 and self.home in missing:  # the next to come may be the owner, without being root
                owner = self.data_dir.stat()
                os.chown(self.home, owner.st_uid, owner.st_gid)
        except OSError as error:
            raise ConfigurationError(f"--data-dir: cannot make {self.home}: {error.strerror}") from None

    def check_reach(self, user: OsUser) -> None:
        """Refuse a data directory that PostgreSQL's user cannot come to."""
        blocked = self.data_dir.is_dir() and user.blocked_at(self.home)
        if blocked:
            raise ConfigurationError(
                f"--data-dir {self.data_dir}: PostgreSQL runs as the user {user.name}, who may not pass {blocked}"
            )

    def check_version(self, install: Path) -> None:
        """Refuse a cluster that another major version wrote."""
        try:
            found = (self.cluster / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            raise ConfigurationError(f"--data-dir: {self.cluster} is there, but is no PostgreSQL cluster") from None
        if found != str(MAJOR):
            raise ConfigurationError(
                f"{self.cluster} was written by PostgreSQL {found} and this is {MAJOR}: to upgrade, dump it with the "
                f"pg_dump of PostgreSQL {found}, move the directory away, start ledger once, and load the dump with "
                f"{install / 'bin' / 'psql'} --dbname='{self.url()}'"
            )

    def create_cluster(self, install: Path, user: OsUser) -> None:
        """Make the cluster with its role and database; it appears whole or not at all."""
        for remains in self.home.glob("cluster.new-*"):
            shutil.rmtree(remains, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix="cluster.new-", dir=self.home))
        if os.geteuid() == 0:
            os.chown(scratch, user.uid, user.gid)
        made = user.run(
            [
                *(install / "bin" / "initdb", "--pgdata", scratch, "--username", SUPERUSER, "--auth=peer"),
                *("--encoding=UTF8", "--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                *("--data-checksums", "--no-instructions"),
            ]
        )
        if made.returncode != 0:
            raise RuntimeError(f"initdb failed: {last_line(made.stderr)}")
        statements = (
            f"CREATE ROLE {ROLE} LOGIN",
            f"GRANT pg_monitor TO {ROLE}",
            f"CREATE DATABASE {DATABASE} OWNER {ROLE}",
        )
        single = user.run(
            [install / "bin" / "postgres", "--single", "-D", scratch, "postgres"], text="\n".join(statements)
        )
        if single.returncode != 0 or "ERROR:" in single.stderr:
            raise RuntimeError(f"the database could not be made: {last_line(single.stderr)}")
        scratch.rename(self.cluster)
        sync_folder(self.home)

    def make_sockets(self, user: OsUser) -> None:
        """Make the socket's folder, open to PostgreSQL's user only; refuse one that belongs to somebody else."""
        folder = self.sockets
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            pass
        else:
            if os.geteuid() == 0:
                os.chown(folder, user.uid, user.gid)
        found = folder.lstat()
        if folder.is_symlink() or not folder.is_dir() or found.st_uid != user.uid:
            raise ConfigurationError(f"--data-dir: the socket's directory {folder} does not belong to {user.name}")
        if found.st_mode & 0o777 != 0o700:
            folder.chmod(0o700)

    def write_authentication(self, user: OsUser, names: set[str]) -> None:
        """Let those operating system users in, and nobody else; read by the next postmaster."""
        self._write("pg_hba.conf", "local all all peer map=ledger\nlocal replication all peer map=ledger\n", user)
        lines = [f'ledger "{name}" {role}\n' for name in sorted(names) for role in (ROLE, SUPERUSER)]
        self._write("pg_ident.conf", "".join(lines), user)

    def command(self, install: Path, settings: Mapping[str, str]) -> list[str]:
        """The postmaster's command line; `settings` win over ours."""
        paths = {
            "unix_socket_directories": f'"{self.sockets}"',
            "hba_file": str(self.home / "pg_hba.conf"),
            "ident_file": str(self.home / "pg_ident.conf"),
        }
        words = [str(install / "bin" / "postgres"), "-D", str(self.cluster)]
        for name, value in {**SETTINGS, **paths, **settings}.items():
            words += ["-c", f"{name}={value}"]
        return words

    def _write(self, name: str, text: str, reader: OsUser) -> None:
        descriptor, scratch = tempfile.mkstemp(prefix=name, dir=self.home)
        with open(descriptor, "w") as file:
            file.write(text)
            if os.geteuid() == 0:
                os.fchown(descriptor, reader.uid, reader.gid)
        os.rename(scratch, self.home / name)


def last_line(text: str) -> str:
    """The line of a program's complaint that says most: the last fatal one, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    grave = [line for line in lines if any(word in line for word in ("PANIC:", "FATAL:", "ERROR:", "error:"))]
    return (grave or lines or ["no reason given"])[-1]


def sync_folder(folder: Path) -> None:
    """Make a rename in that folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

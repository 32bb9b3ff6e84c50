"""The embedded PostgreSQL as its users see it: started by the first, stopped by the last; blocking, so for threads."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

from twisted.logger import Logger

from ledger.domain.errors import ConfigurationError
from ledger.services import postgres_install
from ledger.services.file_lock import FileLock
from ledger.services.postgres_layout import DATABASE, ROLE, SUPERUSER, Layout, last_line
from ledger.services.postgres_process import Answer, Postmaster, Refused, knock, lock_holder

START_PATIENCE: Final = 600.0  # recovery after a crash can take minutes
STOP_STEPS: Final = ((signal.SIGINT, 25.0), (signal.SIGQUIT, 10.0))
_REMAINS_PATIENCE: Final = 60.0
_STRANGER_PATIENCE: Final = 5.0
_REMAINS: Final = ("pre-existing shared memory block", "lock file", "could not bind Unix address")
NO_SETTINGS: Final[Mapping[str, str]] = MappingProxyType({})


class PostgresFailed(Exception):
    """PostgreSQL could not be started, stopped or reached; the message is one line."""


class Abandoned(Exception):
    """Whoever waited for PostgreSQL has given up."""


class Cluster:
    """One user's share in the PostgreSQL of a data directory; between `acquire` and `release` it is kept running."""

    _log = Logger()

    def __init__(
        self, data_dir: Path, settings: Mapping[str, str] = NO_SETTINGS, *, install: Path | None = None
    ) -> None:
        self.layout = Layout(data_dir.resolve())  # one data directory has one name, whichever link led to it
        self._settings = settings
        self._install = install
        self._users = FileLock(self.layout.data_dir / "users.lock")
        self._launched: Postmaster | None = None
        self._turn = threading.Lock()  # a `release` waits until the `acquire` that it ends has noticed

    @property
    def url(self) -> str:
        """The server's way in."""
        return self.layout.url()

    def superuser_url(self, database: str = DATABASE) -> str:
        """The administrator's way into a database."""
        return self.layout.url(SUPERUSER, database)

    def acquire(self, abandoned: threading.Event | None = None, patience: float = START_PATIENCE) -> Postmaster:
        """Join the running PostgreSQL or start it; return when the database answers; `abandoned` ends it soon."""
        with self._turn:
            pause = _pauses(abandoned or threading.Event(), time.monotonic() + patience)
            self.layout.make_data_dir()
            start = FileLock(self.layout.data_dir / "start.lock")
            try:
                while not start.try_exclusive():
                    pause(0.05)
                while not self._users.held and not self._users.try_shared():  # the last one is stopping it
                    pause(0.05)
                try:
                    return self._prepare_and_run(pause)
                except BaseException:
                    self._leave()
                    raise
            except PermissionError as error:
                raise ConfigurationError(f"--data-dir: {error.filename}: {error.strerror}") from None
            finally:
                start.release()

    def release(self) -> None:
        """Give the share back, and stop PostgreSQL if it was the last; harmless when nothing was acquired."""
        with self._turn:
            self._leave()

    def _leave(self) -> None:
        try:
            if self._users.held and self._users.try_exclusive():
                self._stop()
        finally:
            self._users.release()

    def _prepare_and_run(self, pause: Callable[[float], None]) -> Postmaster:
        layout = self.layout
        user = postgres_install.choose_user(layout.data_dir, layout.cluster)
        layout.check_reach(user)
        install = self._install or postgres_install.find_install()
        install = postgres_install.reachable_install(install, user, layout.data_dir)
        if not layout.cluster.exists():
            layout.create_cluster(install, user)
        layout.check_version(install)
        give_up = time.monotonic() + _REMAINS_PATIENCE
        while True:
            pause(0)
            found = Postmaster.find(layout.cluster, user.uid)
            postmaster = found or self._launch(install, user, pause)
            if postmaster is not None and self._answers(postmaster, pause):
                self._log.info("PostgreSQL runs as process {pid}", pid=postmaster.pid)
                return postmaster
            words = self._last_words()
            # What somebody else had started may have been about to stop; then it is our turn.
            if found is None and (time.monotonic() > give_up or not any(sign in words for sign in _REMAINS)):
                raise PostgresFailed(f"PostgreSQL does not start: {words}")
            pause(0.25)

    def _launch(
        self, install: Path, user: postgres_install.OsUser, pause: Callable[[float], None]
    ) -> Postmaster | None:
        layout = self.layout
        self._await_silence(pause)
        for lock_file in (layout.cluster / "postmaster.pid", Path(f"{layout.socket}.lock")):
            self._clear(lock_file, user)
        layout.make_sockets(user)
        layout.write_authentication(user, {"root", user.name, pwd.getpwuid(os.geteuid()).pw_name})
        postgres_install.remove_other_copies(layout.data_dir, install)
        layout.startup_log.unlink(missing_ok=True)
        with open(layout.startup_log, "xb") as log:
            process = subprocess.Popen(
                layout.command(install, self._settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **user.process_options(),
            )
        self._launched = Postmaster.with_pid(process.pid)
        # Whoever started it may leave while others go on using it, and still has to reap it.
        threading.Thread(target=process.wait, name=f"reaper of {process.pid}", daemon=True).start()
        return self._launched

    def _await_silence(self, pause: Callable[[float], None]) -> None:
        """Refuse to start beside a PostgreSQL that cannot be seen from here, as in another container."""
        give_up = time.monotonic() + _STRANGER_PATIENCE
        while True:
            try:
                if knock(self.layout.socket, ROLE, DATABASE, patience=1.0) is Answer.SILENCE:
                    return
            except Refused as refusal:
                self._log.info("a stranger answers: {reason}", reason=str(refusal))
            if time.monotonic() > give_up:
                raise PostgresFailed(f"a PostgreSQL that is not among our processes listens at {self.layout.socket}")
            pause(0.2)

    def _clear(self, lock_file: Path, user: postgres_install.OsUser) -> None:
        """Remove a lock file whose process number is another program's by now: PostgreSQL itself would believe it."""
        pid = lock_holder(lock_file)
        if pid is None or not os.path.exists(f"/proc/{pid}"):
            return
        if Postmaster.of(pid, self.layout.cluster, user.uid) is None:
            self._log.info("{file} names process {pid}, which is not PostgreSQL", file=str(lock_file), pid=pid)
            lock_file.unlink(missing_ok=True)

    def _answers(self, postmaster: Postmaster, pause: Callable[[float], None]) -> bool:
        while True:
            try:
                if knock(self.layout.socket, ROLE, DATABASE) is Answer.READY:
                    return True
            except Refused as refusal:
                raise PostgresFailed(f"PostgreSQL refuses its own server: {refusal}") from None
            if not postmaster.alive():
                return False
            pause(0.02)

    def _last_words(self) -> str:
        """Why the latest launch failed: what came before PostgreSQL's own log began, else the end of that."""
        early = _tail(self.layout.startup_log)
        logs = sorted((self.layout.cluster / "log").glob("*.log"), key=lambda path: path.stat().st_mtime)
        return last_line(early if "FATAL:" in early or not logs else _tail(logs[-1]))

    def _stop(self) -> None:
        if not self.layout.cluster.exists():
            return
        # One that was launched a moment ago has not yet written the file that it is found by.
        postmaster = Postmaster.find(self.layout.cluster, self.layout.cluster.stat().st_uid) or self._launched
        if postmaster is None or not postmaster.alive():
            return
        for number, patience in STOP_STEPS:
            postmaster.signal(number)
            if postmaster.gone_within(patience):
                self._log.info("PostgreSQL stopped")
                return
            self._log.warn("PostgreSQL did not stop within {seconds} s", seconds=patience)
        raise PostgresFailed(f"PostgreSQL, process {postmaster.pid}, does not stop")


@contextmanager
def running_postgres(data_dir: Path, settings: Mapping[str, str] = NO_SETTINGS) -> Iterator[str]:
    """Keep the PostgreSQL of a data directory running, beside a server or alone; yields its URL. It blocks."""
    cluster = Cluster(data_dir, settings)
    cluster.acquire()
    try:
        yield cluster.url
    finally:
        cluster.release()


def _pauses(abandoned: threading.Event, deadline: float) -> Callable[[float], None]:
    def pause(seconds: float) -> None:
        if abandoned.wait(seconds):
            raise Abandoned("nobody waits for PostgreSQL any more")
        if time.monotonic() > deadline:
            raise PostgresFailed("PostgreSQL did not answer in time")

    return pause


def _tail(path: Path, size: int = 4096) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""

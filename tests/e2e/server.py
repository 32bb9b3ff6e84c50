"""`twistd ledger` as a child process: started, watched through its log, and ended in every way there is."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import psutil  # type: ignore[import-untyped]
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred

from ledger.services.postgres_layout import Layout
from ledger.services.postgres_process import Postmaster
from tests.e2e.kept_secrets import SECRETS as SECRETS
from tests.e2e.kept_secrets import found_in, new_secret, note, note_options
from tests.postgres.cluster import temporary_data_dir

reactor: Any = _reactor

NO_VARIABLES: Mapping[str, str] = MappingProxyType({})
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
_LISTENS = re.compile(r"Ledger listens on http://127\.0\.0\.1:([0-9]+)")


def pause(seconds: float) -> Deferred[None]:
    """Let the reactor run."""
    turned: Deferred[None] = Deferred()
    reactor.callLater(seconds, turned.callback, None)
    return turned


async def until(
    condition: Callable[[], object], seconds: float = 60.0, complaint: Callable[[], object] = lambda: "not in time"
) -> None:
    """Return when the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    wait = 0.001  # most things are so in a moment, and hundreds of them one after the other
    while not condition():
        assert time.monotonic() < deadline, complaint()
        await pause(wait)
        wait = min(2 * wait, 0.02)


P = TypeVar("P", bound="Program")


class Program:
    """A program of ours as a child in a process group of its own, its output in a file."""

    def __init__(self, folder: Path, command: Sequence[str], variables: Mapping[str, str] = NO_VARIABLES) -> None:
        note_options(command)
        self.log_file = folder / f"output-{len(list(folder.glob('output-*')))}.log"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
        with self.log_file.open("xb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**environ, "PYTHONPATH": str(ROOT), **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """All that it has written."""
        return self.log_file.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def send_group(self, number: signal.Signals) -> None:
        """Send a signal to its whole process group, as a terminal does."""
        os.killpg(self.process.pid, number)

    async def ended(self, within: float = 60.0) -> int:
        """Its exit code; fails if it does not end in time."""
        await until(lambda: self.process.poll() is not None, within, lambda: f"it goes on:\n{self.tail()}")
        return self.process.wait()

    def tail(self) -> str:
        """The end of its log, for a complaint."""
        return self.log[-4000:]

    def kill(self) -> None:
        """End it at once."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Server(Program):
    """A server; `port` is known once it is `ready`."""

    port = 0

    async def ready(self, within: float = 60.0) -> Server:
        """Return when it listens; fails if it ends instead."""
        await until(lambda: self._listens() or self.process.poll() is not None, within, self.tail)
        found = self._listens()
        assert found is not None, f"ended with {self.process.poll()}:\n{self.tail()}"
        self.port = int(found[1])
        return self

    @property
    def connections(self) -> int:
        """How many clients it has let in."""
        return sum(one.status == "ESTABLISHED" for one in psutil.Process(self.process.pid).net_connections("tcp"))

    async def stop(self, within: float = 30.0) -> None:
        """Have it end in order."""
        self.send(signal.SIGTERM)
        assert await self.ended(within) == -signal.SIGTERM, self.tail()

    def _listens(self) -> re.Match[str] | None:
        return _LISTENS.search(self.log)


class Machine:
    """Starts servers, and clears away whatever a test leaves of them."""

    def __init__(self, template: Path) -> None:
        self._folder = temporary_data_dir("ledger-e2e-")
        self._template = template
        self._programs: list[Program] = []
        self._data_dirs: list[Path] = []
        self._jwt_secret = new_secret()
        self.expects_trouble = False  # whether tracebacks may be in the logs

    def new_data_dir(self, *, empty: bool = False) -> Path:
        """A place for an embedded PostgreSQL, which is there already unless it is to be empty."""
        data_dir = self._folder / f"data{len(self._data_dirs)}"
        self._data_dirs.append(data_dir)
        if not empty:
            subprocess.run(["cp", "-a", self._template, data_dir], check=True)
        return data_dir

    def serve(self, *options: str, port: int = 0) -> Server:
        """Start a server, which is not ready yet; it limits no rate unless it is told to."""
        listen = f"tcp:{port}:interface=127.0.0.1"
        return self.twistd("ledger", "--listen", listen, "--rate-limit", "0", *options)

    def twistd(self, *arguments: str) -> Server:
        """Start twistd with these arguments; servers of one external database sign with the same secret."""
        variables = NO_VARIABLES if "--data-dir" in arguments else {"LEDGER_JWT_SECRET": self._jwt_secret}
        command = [str(BIN / "twistd"), "-n", "--pidfile=", *arguments]
        return self._keep(Server(self._folder, command, variables))

    def script(self, *arguments: str) -> Program:
        """Start the `ledger` script."""
        return self._keep(Program(self._folder, [str(BIN / "ledger"), *arguments]))

    def run(self, *command: str) -> Program:
        """Start any program."""
        return self._keep(Program(self._folder, command))

    async def verify(self, *where: str) -> str:
        """Run `ledger verify`, which must find nothing wrong; returns what it says."""
        program = self.script("verify", *where)
        code = await program.ended()
        assert code == 0, program.log
        return program.log

    def write(self, name: str, text: str) -> Path:
        """A file for a program to read."""
        path = self._folder / name
        path.write_text(text)
        return path

    def check_logs(self) -> None:
        """Fail where a log holds a secret, or a traceback that nobody expected."""
        for data_dir in self._data_dirs:
            note(*(file.read_text().strip() for file in data_dir.glob("jwt-secret")))
        for program in self._programs:
            log = program.log
            found = found_in(log)
            assert not found, f"{found} secrets are in the log"
            trouble = log.find("Traceback")
            assert self.expects_trouble or trouble < 0, log[max(trouble - 2000, 0) : trouble + 4000]
        for data_dir in self._data_dirs:
            for file in Layout(data_dir).cluster.glob("log/*.log"):
                assert not found_in(file.read_text(errors="replace")), f"a secret is in {file}"

    def clear(self) -> None:
        """Kill and remove everything."""
        for program in self._programs:
            program.kill()
        for data_dir in self._data_dirs:
            postmaster = postmaster_of(data_dir)
            if postmaster is not None:
                postmaster.signal(signal.SIGQUIT)
                postmaster.gone_within(10)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _keep(self, program: P) -> P:
        self._programs.append(program)
        return program


def postmaster_of(data_dir: Path) -> Postmaster | None:
    """The PostgreSQL that runs in a data directory."""
    cluster = Layout(data_dir).cluster
    return Postmaster.find(cluster, cluster.stat().st_uid) if cluster.exists() else None


def is_running(pid: int) -> bool:
    """Whether the process is there and more than a zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False

"""How a real twistd process ends: its exit code, its last words, its pid file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TAC = """
import random
from functools import partial

from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from ledger.domain.errors import ConfigurationError
from ledger.services.child import Child
from ledger.services.ladder import Ladder, end_process
from ledger.services.supervisor import RestartPolicy


class Part(Child):
    def __init__(self, name):
        self.name = name

    async def start(self):
        await deferLater(reactor, 0.01)
        print("started", self.name, flush=True)

    async def stop(self):
        await deferLater(reactor, 0.01)
        print("stopped", self.name, flush=True)


class Refuses(Part):
    async def start(self):
        await deferLater(reactor, 0.01)
        raise OSError("no such thing")


class Misconfigured(Part):
    async def start(self):
        await deferLater(reactor, 0.01)
        raise ConfigurationError("--listen: not an endpoint")


class Hangs(Part):
    start_deadline = 0.3

    async def start(self):
        await Deferred()


class Dies(Part):
    async def start(self):
        await super().start()
        reactor.callLater(0.01, lambda: self.fail(Failure(OSError("died"))))


class LeavesAThread(Part):
    stop_deadline = 0.1

    async def start(self):
        import time
        deferToThread(time.sleep, 600)

    async def stop(self):
        await Deferred()


application = Application("test")
policy = RestartPolicy(restarts=3, shortest=0.01)
ladder = Ladder(reactor, random.random, partial(end_process, reactor, grace=GRACE), policy)
ladder.setServiceParent(application)
for child in [CHILDREN]:
    child.setServiceParent(ladder)
ladder.on_started(lambda: print("listening", flush=True))
"""

Twistd = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def twistd(tmp_path: Path) -> Twistd:
    """Starts twistd with the given children, in a process group of its own."""

    def start(children: str, grace: str = "15.0") -> subprocess.Popen[str]:
        tac = TAC.replace("CHILDREN", children).replace("GRACE", grace)
        (tmp_path / "app.tac").write_text(tac)
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("twistd")), "-n", "--no_save", "-y", "app.tac", "--pidfile=pid"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and the rest of its output."""
    try:
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, output


def printed(output: str) -> list[str]:
    """What the children printed, without the log's prefix."""
    words = (line.split("] ")[-1].split("# ")[-1].split("#info ")[-1] for line in output.splitlines())
    return [line for line in words if line.startswith(("started", "stopped", "listening"))]


def test_a_start_that_fails_ends_twistd_non_zero(twistd: Twistd, tmp_path: Path) -> None:
    code, output = finish(twistd("Part('a'), Part('b'), Refuses('c'), Part('d')"))
    assert code == 1, output
    assert printed(output) == ["started a", "started b", "stopped c", "stopped b", "stopped a"]
    assert "c cannot start, the process ends: OSError: no such thing" in output
    assert output.count("Traceback") == 1
    assert "Server Shut Down" in output
    assert not (tmp_path / "pid").exists()


def test_a_configuration_error_is_one_line(twistd: Twistd) -> None:
    code, output = finish(twistd("Part('a'), Misconfigured('http')"))
    assert code == 1, output
    assert output.count("--listen: not an endpoint") == 1
    assert "http cannot start, the process ends: --listen: not an endpoint" in output
    assert "Traceback" not in output


def test_a_start_that_hangs_ends_twistd_non_zero(twistd: Twistd) -> None:
    code, output = finish(twistd("Part('a'), Hangs('b')"))
    assert code == 1, output
    assert "b was not ready within 0.3 s" in output
    assert printed(output)[-1] == "stopped a"


def test_a_child_that_always_dies_ends_twistd_non_zero(twistd: Twistd) -> None:
    code, output = finish(twistd("Part('a'), Dies('b'), Part('c')"))
    assert code == 1, output
    assert printed(output).count("started b") == 4
    assert printed(output)[-3:] == ["stopped c", "stopped b", "stopped a"]
    assert "b failed too often, the process ends: OSError: died" in output


def test_a_thread_that_never_returns_does_not_keep_a_failed_process(twistd: Twistd) -> None:
    code, output = finish(twistd("LeavesAThread('a'), Refuses('b')", grace="0.5"))
    assert code == 1, output
    assert "a did not stop within 0.1 s" in output


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_in_order_and_ends_twistd_by_that_signal(
    twistd: Twistd, tmp_path: Path, sent: signal.Signals
) -> None:
    process = twistd("Part('a'), Part('b'), Part('c')")
    assert process.stdout is not None
    for line in process.stdout:
        if "listening" in line:
            break
    os.killpg(process.pid, sent)
    code, output = finish(process)
    assert code == -sent, output
    assert printed(output) == ["stopped c", "stopped b", "stopped a"]
    assert "Traceback" not in output
    assert not (tmp_path / "pid").exists()


def test_a_signal_during_the_start_stops_what_is_up(twistd: Twistd) -> None:
    process = twistd("Part('a'), type('Slow', (Hangs,), {'start_deadline': 60.0})('b'), Part('c')")
    assert process.stdout is not None
    for line in process.stdout:
        if "started a" in line:
            break
    os.killpg(process.pid, signal.SIGTERM)
    code, output = finish(process)
    assert code == -signal.SIGTERM, output
    assert printed(output) == ["stopped b", "stopped a"]
    assert "Traceback" not in output

"""Watching a postmaster from outside: is it there, is it really ours, and does it answer?"""

from __future__ import annotations

import os
import socket
import struct
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

_PROTOCOL: Final = 3 << 16
_COMING_OR_GOING: Final = {"57P01", "57P02", "57P03"}
_FULL: Final = {"53300"}


class Answer(Enum):
    """What a knock at the socket brought."""

    READY = "ready"
    WAIT = "wait"  # it starts, stops or is too busy to answer
    SILENCE = "silence"  # nobody listens


class Refused(Exception):
    """PostgreSQL runs but does not let us in; the message is its own."""


@dataclass(frozen=True)
class Postmaster:
    """A running postmaster, known by more than its process number, which the system may give to another."""

    process: Any  # psutil.Process; psutil comes with the wheel, and this module must import without it

    @property
    def pid(self) -> int:
        """Its process number."""
        return int(self.process.pid)

    @classmethod
    def with_pid(cls, pid: int) -> Postmaster | None:
        """The process of that number as it is now."""
        import psutil  # type: ignore[import-untyped]

        try:
            return cls(psutil.Process(pid))
        except psutil.Error:
            return None

    @classmethod
    def find(cls, cluster: Path, uid: int) -> Postmaster | None:
        """The live postmaster of that cluster, run by that user; a stale postmaster.pid is not believed."""
        pid = lock_holder(cluster / "postmaster.pid")
        return None if pid is None else cls.of(pid, cluster, uid)

    @classmethod
    def of(cls, pid: int, cluster: Path, uid: int) -> Postmaster | None:
        """The process of that number if it is PostgreSQL, run by that user in that cluster."""
        import psutil

        found = cls.with_pid(pid)
        try:
            if found is None or not found.alive() or found.process.uids().effective != uid:
                return None
            if not found.process.name().startswith("postgres"):
                return None
            return found if os.path.samefile(found.process.cwd(), cluster) else None
        except psutil.AccessDenied:  # where the system hides the working directory, name and user have to do
            return found
        except (psutil.Error, OSError):
            return None

    def alive(self) -> bool:
        """Whether it still runs."""
        import psutil

        try:
            return bool(self.process.is_running()) and self.process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def signal(self, number: int) -> None:
        """Send it a signal, unless it has gone."""
        import psutil

        try:
            self.process.send_signal(number)
        except psutil.NoSuchProcess:
            return

    def gone_within(self, seconds: float) -> bool:
        """Wait for its end, that long at most."""
        deadline = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


def lock_holder(lock_file: Path) -> int | None:
    """The process number in one of PostgreSQL's lock files, or None if there is none to read."""
    try:
        first = lock_file.read_text(errors="replace").split("\n", 1)[0].strip()
        pid = abs(int(first))  # negative: a single-user backend
    except (OSError, ValueError):
        return None
    return pid or None


def knock(address: Path, role: str, database: str, *, patience: float = 5.0) -> Answer:
    """Log in over the unix socket and hang up again; anything but a missing server or a passing state is `Refused`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(patience)
        try:
            line.connect(str(address))
            parameters = b"".join(word.encode() + b"\0" for word in ("user", role, "database", database))
            line.sendall(struct.pack("!II", len(parameters) + 9, _PROTOCOL) + parameters + b"\0")
            while True:
                kind, size = struct.unpack("!cI", _read(line, 5))
                body = _read(line, size - 4)
                if kind == b"Z":
                    line.sendall(b"X\0\0\0\x04")
                    return Answer.READY
                if kind == b"E":
                    return _judge(body)
                if kind == b"R" and body != b"\0\0\0\0":
                    raise Refused("it asks for a password where peer authentication was configured")
        except (FileNotFoundError, ConnectionRefusedError):
            return Answer.SILENCE
        except (TimeoutError, ConnectionError, BlockingIOError):
            return Answer.WAIT


def _judge(body: bytes) -> Answer:
    fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
    state = fields.get(b"C", "")
    if state in _FULL:
        return Answer.READY
    if state in _COMING_OR_GOING:
        return Answer.WAIT
    raise Refused(fields.get(b"M", "no reason given"))


def _read(line: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        piece = line.recv(size - len(got))
        if not piece:
            raise ConnectionResetError
        got += piece
    return got

"""Servers as child processes, and `wrk` that loads them with credits."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final

from bench.postgres import Customer, Login

ROOT: Final = Path(__file__).resolve().parent.parent
_START_PATIENCE: Final = 60.0
_STOP_PATIENCE: Final = 20.0

# Each thread has an interpreter of its own; `setup` and `done` run in that of the main one.
_CREDITS: Final = """
local threads, sent = 0, 0
function setup(thread) threads = threads + 1; thread:set("number", threads) end
function init(args) math.randomseed(number) end
function request()
  sent = sent + 1
  local one = customers[math.random(#customers)]
  return one[1] .. run .. "-" .. number .. "-" .. sent .. "\\r\\n\\r\\n" .. one[2]
end
"""
_DONE: Final = """
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "refused": %d, "failed": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
"""


@dataclass(frozen=True)
class Server:
    """A server under load, as this process knows it."""

    name: str
    pid: int
    port: int


@dataclass(frozen=True)
class Measured:
    """What one run of `wrk` saw: milliseconds, and how many answers were not 2xx or never came."""

    requests: int
    per_second: float
    p50: float
    p99: float
    refused: int
    failed: int


def find_wrk() -> str:
    """Return where `wrk` is, or end the bench with a line that says how to get it."""
    found = shutil.which("wrk")
    if found is None:
        raise SystemExit("bench: `wrk` is not installed, and the HTTP section needs it: apt-get install wrk")
    return found


def ours(url: str, port: int) -> list[str]:
    """Return the command line of the ledger on that database."""
    twistd = str(Path(sys.executable).with_name("twistd"))
    listen = f"tcp:{port}:interface=127.0.0.1"
    return [twistd, "--pidfile=", "-n", "ledger", "--database", url, "--listen", listen, "--rate-limit", "0"]


def alternative(url: str, port: int) -> list[str]:
    """Return the command line of the alternative on that database."""
    return [sys.executable, "-m", "bench.alternative", url, str(port)]


@contextmanager
def serving(name: str, command: Callable[[int], Sequence[str]], ready: str) -> Iterator[Server]:
    """Run a server on a free port from the moment that the path `ready` answers 200 to the end of the block."""
    port = _free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LEDGER_")}
    environment["LEDGER_JWT_SECRET"] = secrets.token_hex(32)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command(port), stdout=log, stderr=log, cwd=ROOT, env=environment)
        try:
            deadline = time.monotonic() + _START_PATIENCE
            while not _answers(port, ready):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise SystemExit(f"bench: {name} does not start:\n{log.read().decode(errors='replace')[-2000:]}")
                time.sleep(0.05)
            yield Server(name, process.pid, port)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def log_in(server: Server, login: Login) -> str:
    """Return an access token, which is good for a quarter of an hour."""
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=30.0)) as connection:
        body = json.dumps({"email": login.email, "password": login.password})
        connection.request("POST", "/api/auth/login", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        told = answer.read()
    if answer.status != 200:
        raise SystemExit(f"bench: nobody can log in: {told.decode(errors='replace')[:300]}")
    return str(json.loads(told)["data"]["access_token"])


def post_credits(
    server: Server,
    customers: Sequence[Customer],
    seconds: int,
    connections: int,
    threads: int,
    each_second: Callable[[], None] = lambda: None,
) -> Measured:
    """Load `POST /credit` for that long, each request with a key of its own, over those accounts at random."""
    script = _script(server.port, customers)
    return run_wrk(server, "/credit", script, seconds, connections, threads, each_second)


def run_wrk(
    server: Server,
    path: str,
    requests: str,
    seconds: int,
    connections: int,
    threads: int,
    each_second: Callable[[], None] = lambda: None,
) -> Measured:
    """Load a path for that long with what a script in Lua makes for requests."""
    wrk = [find_wrk(), f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(requests + _DONE)
        script.flush()
        command = [*wrk, "-s", script.name, f"http://127.0.0.1:{server.port}{path}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                printed = _output(process, each_second)
            finally:
                process.kill()
    if process.returncode != 0 or "{" not in printed:
        raise SystemExit(f"bench: wrk failed: {printed.strip()}")
    seen = json.loads(printed[printed.index("{") :])
    return Measured(
        requests=seen["requests"],
        per_second=seen["requests"] / (seen["microseconds"] / 1e6),
        p50=seen["p50"] / 1000,
        p99=seen["p99"] / 1000,
        refused=seen["refused"],
        failed=seen["failed"],
    )


def _output(process: subprocess.Popen[str], each_second: Callable[[], None]) -> str:
    while True:
        each_second()
        try:
            return process.communicate(timeout=1.0)[0]
        except subprocess.TimeoutExpired:
            continue


def _script(port: int, customers: Sequence[Customer]) -> str:
    lines = []
    for one in customers:
        body = json.dumps({"user_id": one.user_id, "amount": "1.00"})
        head = (
            f"POST /credit HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {one.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nIdempotency-Key: "
        )
        lines.append(f"{{{json.dumps(head)}, {json.dumps(body)}}}")
    table = ",\n".join(lines)
    return f"local run = '{secrets.token_hex(8)}'\nlocal customers = {{\n{table}\n}}\n{_CREDITS}"


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int, path: str) -> bool:
    with closing(HTTPConnection("127.0.0.1", port, timeout=5.0)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False

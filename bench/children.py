"""Drivers of load: child processes with a reactor of their own that print one line of JSON."""

import json
import subprocess
import sys
from typing import Any, Final

from bench.load import ROOT

_PATIENCE: Final = 120.0  # for all that a driver does besides


def drive(module: str, seconds: float, *arguments: str, given: str = "") -> dict[str, Any]:
    """Run `python -m MODULE ARGUMENTS`, which measures for that long, and return what it printed."""
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, check=False, cwd=ROOT, timeout=seconds + _PATIENCE
        )
    except subprocess.TimeoutExpired:
        raise SystemExit(f"bench: {module} does not come to an end") from None
    if done.returncode != 0 or not done.stdout.startswith("{"):
        raise SystemExit(f"bench: {module} failed:\n{(done.stdout + done.stderr).strip()[-2000:]}")
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def say(line: str) -> None:
    """Tell whoever waits how far it has come."""
    print(line, file=sys.stderr, flush=True)

"""The section `beside`: what is left of the writer's speed while the same database is verified and dumped."""

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench import report
from bench.batches import Shape, seeded, write
from bench.children import say
from bench.postgres import credits_booked, psql, throw_away_cluster
from bench.report import Options, Report, Table
from ledger.services.postgres_install import ENVIRONMENT, find_install

SHAPE: Final = Shape(1_000, False, 0.5)
_FILL_SECONDS: Final = 5


class _Loop:
    """Runs a command over and over in a thread until it is stopped."""

    def __init__(
        self, name: str, command: Sequence[str], environment: dict[str, str] | None, faults: list[str]
    ) -> None:
        self.runs = 0
        self._name = name
        self._command = command
        self._environment = environment
        self._faults = faults
        self._stopped = threading.Event()
        self._turn = threading.Lock()
        self._process = self._start()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def _run(self) -> None:
        while True:
            printed = self._process.communicate()[0]
            with self._turn:
                if self._stopped.is_set():
                    return
                if self._process.returncode != 0:
                    self._faults.append(f"{self._name} failed: {printed.strip()[-500:]}")
                    return
                self.runs += 1
                self._process = self._start()

    def stop(self) -> None:
        """End the command that runs."""
        with self._turn:
            self._stopped.set()
            self._process.terminate()
        self._thread.join()


@contextmanager
def _verify_and_dump(url: str, faults: list[str]) -> Iterator[Sequence[_Loop]]:
    verify = [str(Path(sys.executable).with_name("ledger")), "verify", "--database", url]
    dump = [str(find_install() / "bin" / "pg_dump"), "--dbname", url, "--file", "/dev/null"]
    with ExitStack() as stack:
        loops = []
        for name, command, environment in (("verify", verify, None), ("pg_dump", dump, dict(ENVIRONMENT))):
            loop = _Loop(name, command, environment, faults)
            stack.callback(loop.stop)
            loops.append(loop)
        yield loops


def beside(options: Options) -> Report:
    """The writer alone and the writer in company, in turn, on journals that were filled a little before."""
    facts = report.machine()
    faults: list[str] = []
    alone: list[float] = []
    together: list[float] = []
    filled: list[int] = []
    runs = [0, 0]
    with throw_away_cluster() as cluster:
        for number in range(options.rounds):
            with seeded(cluster, f"bench_beside_{number}", options.accounts) as url:
                write(cluster, url, SHAPE, _FILL_SECONDS, faults)
                filled.append(credits_booked(url))
                alone.append(write(cluster, url, SHAPE, options.seconds, faults))
                with _verify_and_dump(url, faults) as loops:
                    together.append(write(cluster, url, SHAPE, options.seconds, faults))
                    runs = [before + loop.runs for before, loop in zip(runs, loops, strict=True)]
            say(f"beside, round {number + 1}: alone {alone[-1]:,.0f}/s, in company {together[-1]:,.0f}/s")
        facts["postgres"] = psql(cluster.url, "SHOW server_version")
    facts["load"] = (
        f"credits in batches of {SHAPE.batch:,} over {options.accounts:,} accounts, {options.rounds} rounds of "
        f"{options.seconds} s each, in turn, on a journal of {min(filled):,} records or more; median (min–max)"
    )
    kept = f"{report.times(together, alone, 2)} (goal {SHAPE.goal})"
    table = Table(
        "Transfers",
        ("writer", "transfers/s", "share of alone"),
        [("alone", report.spread(alone), ""), ("beside verify and pg_dump", report.spread(together), kept)],
        [f"Both ran without a pause; verify came to its end {runs[0]} times and pg_dump {runs[1]} times."],
    )
    return Report("The writer beside verify and pg_dump", [table], facts, faults)

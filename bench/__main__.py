"""`python -m bench [SECTION …]`: measure, print, and on request write the page."""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from bench import report
from bench.batches import alone
from bench.beside import beside
from bench.bets import bets
from bench.delivery import live
from bench.games import games
from bench.http import OURS, RECIPES, THEIRS, http
from bench.jobs import jobs
from bench.load import find_wrk
from bench.report import Options, Report
from bench.transfers import transfers

SECTIONS: Final[dict[str, Callable[[Options], Report]]] = {
    "writer": alone,
    "http": http,
    "live": live,
    "beside": beside,
    "games": games,
    "games-http": bets,
    "jobs": jobs,
    "transfers": transfers,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections; non-zero if any of them must not be believed, and then its results are not written."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the ledger.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all when left out")
    parser.add_argument("--seconds", type=int, default=10, help="length of a run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--accounts", type=int, default=1_000, help="accounts that the load is spread over")
    parser.add_argument("--memory-seconds", type=int, default=60, help="length of the memory run; 0: none")
    parser.add_argument("--only", choices=tuple(RECIPES), help="one server alone, without ratios")
    parser.add_argument("--write", type=Path, metavar="FILE", help="the page to put the results into")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.sections if name not in SECTIONS]
    if unknown or min(given.seconds, given.rounds, given.accounts) < 1 or given.memory_seconds < 0:
        parser.error(f"no such section: {', '.join(unknown)}" if unknown else "numbers are positive")
    servers = (given.only,) if given.only else (OURS, THEIRS)
    options = Options(given.seconds, given.rounds, given.accounts, given.memory_seconds, servers)
    signal.signal(signal.SIGTERM, _terminated)
    if not given.sections or {"http", "games-http", "transfers"} & set(given.sections):
        find_wrk()  # now rather than after minutes of the other sections
    faulty = False
    for name in given.sections or SECTIONS:
        outcome = SECTIONS[name](options)
        print(report.printed(outcome))
        faulty = faulty or bool(outcome.faults)
        if given.write and not outcome.faults:
            report.write(given.write, name, report.markdown(outcome))
    return 1 if faulty else 0


def _terminated(number: int, _: FrameType | None) -> None:
    """End as Ctrl-C does, so that PostgreSQL and the servers are stopped."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())

"""What a section measured: tables for the terminal and for docs/benchmarks.md, and the machine that they hold for."""

import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Final

import psutil  # type: ignore[import-untyped]

TITLE: Final = "# Benchmarks\n\nMeasured by `make bench`; each section says where and when.\n"


@dataclass(frozen=True)
class Options:
    """What the command line asked for."""

    seconds: int
    rounds: int
    accounts: int
    memory_seconds: int
    servers: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows under a heading; `notes` stand below as sentences."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """One section's outcome; `faults` say why it must not be believed."""

    title: str
    tables: Sequence[Table]
    facts: dict[str, str]
    faults: Sequence[str] = ()


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Return `median (min–max)`."""
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def times(ours: Sequence[float], theirs: Sequence[float], digits: int = 1) -> str:
    """Return how many times theirs ours is: the median of the rounds' own ratios, as a machine has slow minutes."""
    ratios = [own / other for own, other in zip(ours, theirs, strict=True) if other > 0]
    if not ratios:
        return "–"
    return f"{median(ratios):.{digits}f} × ({min(ratios):.{digits}f}–{max(ratios):.{digits}f})"


def machine() -> dict[str, str]:
    """Return what the numbers depend on, by name; looks for a second how busy it is, so ask before the load begins."""
    memory = psutil.virtual_memory().total / 2**30
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": f"{_cpu_model()}, {os.cpu_count()} cores",
        "memory": f"{memory:.0f} GiB",
        "busy with other work at the start": f"{psutil.cpu_percent(interval=1.0):.0f} %",
        "file system": _file_system(Path(tempfile.gettempdir()).resolve()),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": ", ".join(
            filter(None, map(_version, ("twisted", "klein", "fastapi", "uvicorn", "uvloop", "asyncpg")))
        ),
    }


def printed(report: Report) -> str:
    """Return the report for a terminal."""
    blocks = [f"== {report.title}", *(f"{name}: {value}" for name, value in report.facts.items())]
    for table in report.tables:
        widths = [max(map(len, column)) for column in zip(table.columns, *table.rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (table.columns, *table.rows)
        ]
        blocks += ["", table.heading, *lines, *table.notes]
    return "\n".join([*blocks, *(f"INVALID: {fault}" for fault in report.faults), ""])


def markdown(report: Report) -> str:
    """Return the report as a section of a page."""
    blocks = [f"## {report.title}", "\n".join(f"- {name}: {value}" for name, value in report.facts.items())]
    for table in report.tables:
        rows = [table.columns, ["---"] * len(table.columns), *table.rows]
        blocks += [f"### {table.heading}", "\n".join(f"| {' | '.join(row)} |" for row in rows), *table.notes]
    return "\n\n".join(blocks) + "\n"


def write(path: Path, section: str, text: str) -> None:
    """Put a section into the page between its marks; what other runs wrote for other sections stays."""
    page = path.read_text() if path.exists() else TITLE
    first, last = f"<!-- bench {section} -->", f"<!-- end {section} -->"
    block = f"{first}\n{text}{last}"
    marked = re.compile(f"{re.escape(first)}.*?{re.escape(last)}", re.DOTALL)
    page = marked.sub(lambda _: block, page) if marked.search(page) else f"{page.rstrip()}\n\n{block}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page)


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return found[1]
    try:
        return subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return platform.machine()


def _file_system(folder: Path) -> str:
    mounted = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    kind = next((mounted[step] for step in (folder, *folder.parents) if step in mounted), "unknown")
    return f"{kind} (fsync costs nothing here)" if kind == "tmpfs" else str(kind)


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"

"""A ledger after pgledger's manner, one call of a function in SQL a transfer, and `pgbench` that loads it."""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from bench.postgres import psql
from ledger.services.postgres_install import ENVIRONMENT, find_install

CLIENTS: Final = 32
THREADS: Final = 2
SCHEMA: Final = Path(__file__).with_name("pgledger.sql")
_RICH: Final = 1_000_000_000
_SPREAD: Final = r"""
\set giver random(1, :accounts)
\set taker random(1, :accounts - 1)
\set taker :taker + case when :taker >= :giver then 1 else 0 end
SELECT transfer(:giver, :taker, 1);
"""
_HOT: Final = r"""
\set taker random(2, :accounts)
SELECT transfer(1, :taker, 1);
"""


def seed(url: str, accounts: int) -> None:
    """Make the tables, and accounts with more money than a run can move, given by one that may go below zero."""
    psql(url, SCHEMA.read_text())
    psql(url, f"INSERT INTO accounts (id, may_go_below) SELECT n, n = 0 FROM generate_series(0, {accounts}) AS n")
    psql(url, "VACUUM ANALYZE accounts")
    psql(url, f"SELECT transfer(0, n, {_RICH}) FROM generate_series(1, {accounts}) AS n")
    psql(url, "VACUUM ANALYZE")


def booked(url: str) -> int:
    """Return how many transfers the database holds."""
    return int(psql(url, "SELECT count(*) FROM transfers"))


def load(url: str, accounts: int, hot: bool, seconds: int, faults: list[str]) -> float:
    """Have `pgbench` move money between random accounts, or from one to random others; return transfers a second."""
    before = booked(url)
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(_HOT if hot else _SPREAD)
        script.flush()
        program = str(find_install() / "bin" / "pgbench")
        command = [program, "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", str(THREADS), "-T", str(seconds)]
        command += ["-D", f"accounts={accounts}", "-f", script.name, url]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    answered = _number(r"transactions actually processed: (\d+)", done.stdout)
    rate = _number(r"tps = ([\d.]+)", done.stdout)
    if done.returncode != 0 or answered is None or rate is None:
        raise SystemExit(f"bench: pgbench failed:\n{(done.stdout + done.stderr).strip()[-2000:]}")
    many = booked(url) - before
    if many != answered:
        faults.append(f"pgbench: {answered:,.0f} transfers were answered and {many:,} are booked")
    return rate


def check(url: str, faults: list[str]) -> None:
    """Look whether the money is all there, and the last entry of every account says what the account says."""
    off = psql(
        url,
        "SELECT count(*) FROM accounts AS a JOIN "
        "(SELECT account_id, sum(amount) AS balance, count(*) AS version FROM entries GROUP BY account_id) AS e "
        "ON e.account_id = a.id AND (e.balance, e.version) <> (a.balance, a.version)",
    )
    total = psql(url, "SELECT sum(balance) FROM accounts")
    if (off, total) != ("0", "0"):
        faults.append(f"pgledger's manner: {off} balances are not the sums of their entries, and the total is {total}")


def _number(pattern: str, printed: str) -> float | None:
    found = re.search(pattern, printed)
    return float(found[1]) if found else None

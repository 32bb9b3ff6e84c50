"""Migrations run once, whole, in order, and for one process at a time."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from ledger.domain.errors import ConfigurationError
from ledger.store.migrations import LOCK_KEY, apply_migrations, migrations_folder
from tests.postgres.cluster import DatabaseServer, temporary_data_dir

FUNCTION = """-- A comment; with a semicolon.
CREATE FUNCTION twice(n int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    IF n > 0 THEN RETURN n * 2; END IF;
    RETURN 0; -- 100 %s
END $$;
INSERT INTO runs VALUES (twice(21));
"""

CODE = """
import pathlib, sys
from ledger.store.migrations import apply_migrations
apply_migrations(sys.argv[1], pathlib.Path(sys.argv[2]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001-runs.sql").write_text("CREATE TABLE runs (n int);\nINSERT INTO runs VALUES (1);\n")
    (tmp_path / "0002-function.sql").write_text(FUNCTION)
    return tmp_path


def query(url: str, statement: str) -> list[Any]:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return [row[0] for row in cursor.fetchall()]


def test_each_is_applied_once(empty_database_url: str, folder: Path) -> None:
    apply_migrations(empty_database_url, folder)
    apply_migrations(empty_database_url, folder)
    assert query(empty_database_url, "SELECT n FROM runs ORDER BY n") == [1, 42]


def test_a_new_one_is_applied_later(empty_database_url: str, folder: Path) -> None:
    apply_migrations(empty_database_url, folder)
    (folder / "0003-more.sql").write_text("INSERT INTO runs VALUES (3);")
    apply_migrations(empty_database_url, folder)
    assert query(empty_database_url, "SELECT n FROM runs ORDER BY n") == [1, 3, 42]


def test_one_outside_of_a_transaction(empty_database_url: str, folder: Path) -> None:
    (folder / "0003-index.sql").write_text("-- transactional: false\nCREATE INDEX CONCURRENTLY runs_n ON runs (n);\n")
    apply_migrations(empty_database_url, folder)
    apply_migrations(empty_database_url, folder)
    assert query(empty_database_url, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'runs_n'::regclass") == [True]


def test_one_that_fails_leaves_no_trace(empty_database_url: str, folder: Path) -> None:
    broken = folder / "0003-broken.sql"
    broken.write_text("INSERT INTO runs VALUES (3); SELECT 1 / 0;")
    with pytest.raises(psycopg2.errors.DivisionByZero):
        apply_migrations(empty_database_url, folder)
    assert query(empty_database_url, "SELECT n FROM runs ORDER BY n") == [1, 42]
    broken.write_text("INSERT INTO runs VALUES (3);")
    apply_migrations(empty_database_url, folder)
    assert query(empty_database_url, "SELECT n FROM runs ORDER BY n") == [1, 3, 42]


def test_threads_at_once(empty_database_url: str, folder: Path) -> None:
    (folder / "0003-slow.sql").write_text("SELECT pg_sleep(0.2); INSERT INTO runs VALUES (3);")
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: apply_migrations(empty_database_url, folder), range(4)))
    assert query(empty_database_url, "SELECT n FROM runs ORDER BY n") == [1, 3, 42]


def test_processes_at_once(empty_database_url: str, folder: Path) -> None:
    running = [subprocess.Popen([sys.executable, "-c", CODE, empty_database_url, str(folder)]) for _ in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    assert query(empty_database_url, "SELECT n FROM runs ORDER BY n") == [1, 42]


def test_a_process_killed_in_the_middle_harms_nobody(empty_database_url: str, folder: Path) -> None:
    slow = folder / "0003-slow.sql"
    slow.write_text("INSERT INTO runs VALUES (3); SELECT pg_sleep(600);")
    process = subprocess.Popen([sys.executable, "-c", CODE, empty_database_url, str(folder)])
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    while query(empty_database_url, asleep) != [1]:
        assert process.poll() is None
    process.kill()
    process.wait()
    slow.write_text("INSERT INTO runs VALUES (3);")
    apply_migrations(empty_database_url, folder)
    assert query(empty_database_url, "SELECT n FROM runs ORDER BY n") == [1, 3, 42]


def test_the_lock_is_waited_for(empty_database_url: str, folder: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        with closing(psycopg2.connect(empty_database_url)) as holder, holder.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (LOCK_KEY,))
            waiting = threads.submit(apply_migrations, empty_database_url, folder)
            with pytest.raises(TimeoutError):
                waiting.result(0.5)
        waiting.result(60)
    assert query(empty_database_url, "SELECT n FROM runs ORDER BY n") == [1, 42]


def test_waiting_can_be_abandoned(empty_database_url: str, folder: Path) -> None:
    abandoned = threading.Event()
    abandoned.set()
    with closing(psycopg2.connect(empty_database_url)) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (LOCK_KEY,))
        with pytest.raises(TimeoutError):
            apply_migrations(empty_database_url, folder, abandoned=abandoned)


def test_a_row_in_the_librarys_own_lock_table_blocks_nobody(empty_database_url: str, folder: Path) -> None:
    with closing(psycopg2.connect(empty_database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE yoyo_lock (locked int DEFAULT 1 PRIMARY KEY, ctime timestamp, pid int NOT NULL)")
        cursor.execute("INSERT INTO yoyo_lock (pid) VALUES (4711)")
    apply_migrations(empty_database_url, folder)
    assert query(empty_database_url, "SELECT n FROM runs ORDER BY n") == [1, 42]


def test_a_newer_schema_is_refused(empty_database_url: str, folder: Path) -> None:
    (folder / "0003-newer.sql").write_text("INSERT INTO runs VALUES (3);")
    apply_migrations(empty_database_url, folder)
    (folder / "0003-newer.sql").unlink()
    with pytest.raises(ConfigurationError, match=r"newer.*0003-newer") as refusal:
        apply_migrations(empty_database_url, folder)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("url", ["http://u:hidden@h/d", "postgresql://u:hidden@h/d?nonsense=1", "mysql://u:hidden@h/d"])
def test_another_kind_of_url_is_refused_without_showing_its_password(url: str, folder: Path) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        apply_migrations(url, folder)
    assert "hidden" not in str(refusal.value)


def test_a_url_with_a_password(folder: Path) -> None:
    data_dir = temporary_data_dir()
    rules = data_dir / "rules.conf"
    rules.write_text("local guarded all scram-sha-256\nlocal all all peer map=ledger\n")
    rules.chmod(0o644)
    server = DatabaseServer(data_dir, {"hba_file": str(rules)})
    try:
        server.cluster.acquire()
        server.execute("CREATE DATABASE guarded OWNER ledger")
        server.execute("ALTER ROLE ledger PASSWORD 'p@ss:/w%rd'")
        url = server.url("guarded")
        apply_migrations(url.replace("ledger@", "ledger:p%40ss%3A%2Fw%25rd@"), folder)
        with pytest.raises(ConfigurationError, match=r"--database: .*password"):
            apply_migrations(url.replace("ledger@", "ledger:wrong@"), folder)
    finally:
        server.cluster.release()
        shutil.rmtree(data_dir)


def test_the_products_own(database_url: str) -> None:
    applied = query(database_url, 'SELECT migration_id FROM "_yoyo_migration" ORDER BY 1')
    assert applied == sorted(path.stem for path in migrations_folder().glob("*.sql"))
    apply_migrations(database_url)

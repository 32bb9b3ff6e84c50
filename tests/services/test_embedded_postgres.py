# mypy: disable-error-code="untyped-decorator"
"""The embedded PostgreSQL, with real processes: who starts it, who stops it, and what a killed one leaves behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import psycopg2
import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, ensureDeferred, gatherResults
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from ledger.domain.errors import ConfigurationError
from ledger.services import postgres_cluster, postgres_install
from ledger.services.embedded_postgres import EmbeddedPostgres
from ledger.services.file_lock import FileLock
from ledger.services.postgres_cluster import Abandoned, Cluster, PostgresFailed, running_postgres
from ledger.services.postgres_layout import Layout
from ledger.services.postgres_process import Postmaster
from tests.postgres.cluster import temporary_data_dir

reactor: Any = _reactor

OWNER = """
import pathlib, sys
from ledger.services.file_lock import FileLock
from ledger.services.postgres_cluster import Cluster
cluster = Cluster(pathlib.Path(sys.argv[1]))
print(cluster.acquire().pid, flush=True)
sys.stdin.readline()
cluster.release()
"""


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A data directory with a cluster in it, to be copied: `initdb` takes a while."""
    folder = temporary_data_dir()
    with running_postgres(folder):
        pass
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def made(data_dir: Path, template: Path) -> Path:
    """A data directory whose cluster is there already, for tests that are not of its making."""
    subprocess.run(["cp", "-a", f"{template}/.", data_dir], check=True)
    return data_dir


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """An empty data directory; a PostgreSQL that the test has left in it is killed."""
    folder = temporary_data_dir()
    yield folder
    cluster = folder / "postgres" / "cluster"
    left = Postmaster.find(cluster, cluster.stat().st_uid) if cluster.exists() else None
    if left is not None:
        left.signal(signal.SIGQUIT)
        assert left.gone_within(10)
    shutil.rmtree(folder)


def owner(data_dir: Path) -> tuple[subprocess.Popen[str], int]:
    """Another process that uses the data directory, and the postmaster's number."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def query(url: str, statement: str) -> Any:
    """Run one statement, and return the first value of its first row, if any."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone() if cursor.description else None
            return row and row[0]


def running(pid: int | None) -> bool:
    """Whether the process is there and more than a zombie."""
    try:
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Let the reactor run until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await deferLater(reactor, 0.02)


@pytest_twisted.ensureDeferred
async def test_from_nothing_to_a_query(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir, reactor)
    url = postgres.url
    await postgres.start()
    try:
        assert query(url, "SELECT current_user || ' ' || current_database()") == "ledger ledger"
        assert query(url, "SHOW fsync") == "on"
        assert query(url, "SHOW data_checksums") == "on"
        locale = (
            "SELECT pg_encoding_to_char(encoding) || ' ' || datlocprovider::text || ' ' || datlocale FROM pg_database"
        )
        assert query(url, f"{locale} WHERE datname = 'ledger'") == "UTF8 b C.UTF-8"
        assert postgres.url == url
    finally:
        await postgres.stop()


@pytest_twisted.ensureDeferred
async def test_data_survive_a_restart(made: Path) -> None:
    postgres = EmbeddedPostgres(made, reactor)
    await postgres.start()
    query(postgres.url, "CREATE TABLE kept AS SELECT 42 AS n")
    first = postgres.pid
    await postgres.stop()
    assert not running(first)
    await postgres.start()
    assert query(postgres.url, "SELECT n FROM kept") == 42
    assert postgres.pid != first
    await postgres.stop()


@pytest_twisted.ensureDeferred
async def test_settings_win_over_ours(made: Path) -> None:
    postgres = EmbeddedPostgres(made, reactor, settings={"max_connections": "33"})
    await postgres.start()
    assert query(postgres.url, "SHOW max_connections") == "33"
    await postgres.stop()


@pytest_twisted.ensureDeferred
async def test_a_killed_postmaster_is_reported_and_comes_back(made: Path) -> None:
    postgres = EmbeddedPostgres(made, reactor)
    died: list[Failure] = []
    await postgres.start()
    postgres.watched_by(died.append)
    query(postgres.url, "CREATE TABLE kept AS SELECT 42 AS n")
    assert postgres.pid is not None
    os.kill(postgres.pid, signal.SIGKILL)
    await until(lambda: died)
    assert str(postgres.pid) in str(died[0].value)
    await postgres.stop()
    await postgres.start()
    assert query(postgres.url, "SELECT n FROM kept") == 42
    await postgres.stop()


@pytest_twisted.ensureDeferred
async def test_what_a_killed_postmaster_leaves_in_memory_is_waited_for(made: Path) -> None:
    postgres = EmbeddedPostgres(made, reactor)
    await postgres.start()
    with closing(psycopg2.connect(postgres.url)) as connection:
        backend = connection.info.backend_pid
        assert postgres.pid is not None
        os.kill(backend, signal.SIGSTOP)
        os.kill(postgres.pid, signal.SIGKILL)
        await until(lambda: not running(postgres.pid))
        await postgres.stop()
        starting = ensureDeferred(postgres.start())
        log = Layout(made).startup_log
        await until(lambda: "pre-existing shared memory block" in log.read_text() if log.exists() else False)
        assert not starting.called
        os.kill(backend, signal.SIGCONT)
        await starting.addTimeout(50, reactor)
    assert query(postgres.url, "SELECT 1") == 1
    await postgres.stop()


@pytest_twisted.ensureDeferred
async def test_an_orphan_is_adopted_and_stopped(made: Path) -> None:
    process, pid = owner(made)
    process.kill()
    process.communicate()
    assert running(pid)
    postgres = EmbeddedPostgres(made, reactor)
    await postgres.start()
    assert postgres.pid == pid
    await postgres.stop()
    assert not running(pid)


@pytest_twisted.ensureDeferred
async def test_an_adopted_orphan_is_watched(made: Path) -> None:
    process, pid = owner(made)
    process.kill()
    process.communicate()
    postgres = EmbeddedPostgres(made, reactor)
    died: list[Failure] = []
    await postgres.start()
    postgres.watched_by(died.append)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: died)
    assert str(pid) in str(died[0].value)
    await postgres.stop()


@pytest_twisted.ensureDeferred
async def test_the_last_of_two_processes_stops_it(made: Path) -> None:
    process, pid = owner(made)
    postgres = EmbeddedPostgres(made, reactor)
    await postgres.start()
    assert postgres.pid == pid
    process.communicate("\n")  # it had started PostgreSQL, and leaves first
    assert process.returncode == 0
    assert query(postgres.url, "SELECT 1") == 1
    await postgres.stop()
    assert not running(pid)


@pytest_twisted.ensureDeferred
async def test_the_first_of_two_in_one_process_leaves_it_running(data_dir: Path) -> None:
    first, second = EmbeddedPostgres(data_dir, reactor), EmbeddedPostgres(data_dir, reactor)
    await gatherResults([ensureDeferred(first.start()), ensureDeferred(second.start())])
    pid = first.pid
    assert pid == second.pid
    await first.stop()
    assert query(second.url, "SELECT 1") == 1
    await second.stop()
    assert not running(pid)


@pytest_twisted.ensureDeferred
async def test_a_command_alone_and_beside_a_server(made: Path) -> None:
    with running_postgres(made) as url:
        alone = query(url, "SELECT pg_backend_pid()")
    assert not running(alone)
    assert Postmaster.find(Layout(made).cluster, Layout(made).cluster.stat().st_uid) is None
    postgres = EmbeddedPostgres(made, reactor)
    await postgres.start()
    with running_postgres(made) as url:
        assert query(url, "SELECT 1") == 1
    assert running(postgres.pid)
    await postgres.stop()


@pytest_twisted.ensureDeferred
async def test_stop_ends_a_start(data_dir: Path) -> None:
    another = FileLock(data_dir / "start.lock")
    assert another.try_exclusive()
    postgres = EmbeddedPostgres(data_dir, reactor)
    starting = ensureDeferred(postgres.start())
    await deferLater(reactor, 0.1)
    await postgres.stop()
    with pytest.raises(Abandoned):
        await starting
    another.release()
    await postgres.start()
    assert query(postgres.url, "SELECT 1") == 1
    await postgres.stop()


@pytest_twisted.ensureDeferred
async def test_a_cancelled_start_leaves_nothing(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir, reactor)
    starting = ensureDeferred(postgres.start())
    await until(lambda: (data_dir / "start.lock").exists())
    starting.cancel()
    with pytest.raises(CancelledError):
        await starting
    await postgres.stop()
    users = FileLock(data_dir / "users.lock")
    assert users.try_exclusive()
    users.release()
    assert not (Layout(data_dir).cluster / "postmaster.pid").exists()


@pytest_twisted.ensureDeferred
async def test_stop_without_a_start(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir, reactor)
    await postgres.stop()
    await postgres.stop()
    assert postgres.pid is None
    assert not (data_dir / "postgres").exists()


@pytest_twisted.ensureDeferred
async def test_a_setting_that_postgres_refuses_is_named(made: Path) -> None:
    postgres = EmbeddedPostgres(made, reactor, settings={"shared_buffers": "a lot"})
    with pytest.raises(Exception, match="shared_buffers"):
        await postgres.start()
    await postgres.stop()


def test_it_is_in_a_session_of_its_own_and_knows_no_secret(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_JWT_SECRET", "not for others")
    cluster = Cluster(made)
    pid = cluster.acquire().pid
    assert os.getsid(pid) == pid != os.getsid(0)
    assert "LEDGER_JWT_SECRET" not in psutil.Process(pid).environ()
    cluster.release()


def test_nobody_else_gets_in(data_dir: Path) -> None:
    cluster = Cluster(data_dir)
    postmaster = cluster.acquire()
    superuser = cluster.superuser_url()
    assert postmaster.process.net_connections("inet") == []
    assert query(superuser, "SELECT string_agg(DISTINCT type || ' ' || auth_method, ',') FROM pg_hba_file_rules") == (
        "local peer"
    )
    query(superuser, "CREATE ROLE somebody LOGIN SUPERUSER")
    with pytest.raises(psycopg2.OperationalError, match=r"[Pp]eer authentication failed"):
        query(cluster.layout.url("somebody"), "SELECT 1")
    for folder in (cluster.layout.cluster, cluster.layout.sockets):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.stat().st_uid == postmaster.process.uids().effective != 0
    assert not query(cluster.url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    cluster.release()


def test_another_major_version_is_refused_in_one_line(made: Path) -> None:
    with running_postgres(made):
        pass
    (Layout(made).cluster / "PG_VERSION").write_text("16\n")
    with pytest.raises(ConfigurationError, match=r"PostgreSQL 16 .* 18.*pg_dump") as refusal:
        Cluster(made).acquire()
    assert "\n" not in str(refusal.value)
    assert str(Layout(made).cluster) in str(refusal.value)


def test_a_directory_that_is_no_cluster_is_refused(data_dir: Path) -> None:
    Layout(data_dir).cluster.mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="no PostgreSQL cluster"):
        Cluster(data_dir).acquire()


def test_a_data_directory_that_is_a_file_is_refused(data_dir: Path) -> None:
    (data_dir / "file").touch()
    (data_dir / "nowhere").symlink_to(data_dir / "file" / "below")
    for name in ("file", "nowhere"):
        with pytest.raises(ConfigurationError, match="--data-dir"):
            Cluster(data_dir / name).acquire()


def test_another_name_of_the_data_directory_leads_to_the_same(data_dir: Path) -> None:
    (data_dir / "link").symlink_to(data_dir / "real")
    assert Cluster(data_dir / "link").url == Cluster(data_dir / "real").url


def test_a_server_that_cannot_be_seen_is_not_joined(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, stranger = Cluster(made), Cluster(made)
    cluster.acquire()
    monkeypatch.setattr(postgres_cluster, "_STRANGER_PATIENCE", 0.0)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(Postmaster, "find", lambda *_: None)
        with pytest.raises(PostgresFailed, match="not among our processes"):
            stranger.acquire()
    assert query(cluster.url, "SELECT 1") == 1
    cluster.release()


def test_a_data_directory_out_of_reach_is_named(data_dir: Path) -> None:
    locked = data_dir / "locked"
    locked.mkdir()
    locked.chmod(0o700 if os.geteuid() == 0 else 0o500)
    with pytest.raises(ConfigurationError, match="--data-dir") as refusal:
        Cluster(locked / "data").acquire()
    assert str(locked) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_programs_out_of_reach_are_copied_once(data_dir: Path) -> None:
    package = postgres_install.find_install().parent
    home = data_dir / "home"
    programs = home / package.name / f"pginstall{postgres_install.MAJOR}"
    shutil.copytree(package / programs.name, programs, symlinks=True)
    shutil.copytree(package.with_name(f"{package.name}.libs"), home / f"{package.name}.libs")
    home.chmod(0o700)
    data = data_dir / "data"
    data.mkdir(mode=0o755)
    (data / "runtime-17.0").mkdir()
    cluster = Cluster(data, install=programs)
    used = cluster.acquire().process.exe()
    assert query(cluster.url, "SELECT 1") == 1
    cluster.release()
    copies = list(data.glob("runtime-*"))
    assert len(copies) == (1 if os.geteuid() == 0 else 0)
    assert Path(used).is_relative_to(copies[0] if copies else programs)
    if copies:
        made = copies[0].stat().st_ctime_ns
        cluster.acquire()
        cluster.release()
        assert [copy.stat().st_ctime_ns for copy in data.glob("runtime-*")] == [made]


@pytest.mark.parametrize("name", ["long" * 30, 'comma, space % and "quote"', "plus+and:colon@?&="])
def test_unusual_paths(data_dir: Path, name: str) -> None:
    cluster = Cluster(data_dir / name)
    cluster.acquire()
    try:
        assert query(cluster.url, "SELECT 1") == 1
        assert cluster.layout.sockets.stat().st_mode & 0o777 == 0o700
    finally:
        cluster.release()
    if not cluster.layout.sockets.is_relative_to(data_dir):
        cluster.layout.sockets.rmdir()


def test_a_socket_directory_of_somebody_elses_is_refused(data_dir: Path) -> None:
    cluster = Cluster(data_dir / ("long" * 30))
    elsewhere = data_dir / "elsewhere"
    elsewhere.mkdir(mode=0o777)
    cluster.layout.sockets.symlink_to(elsewhere)
    try:
        with pytest.raises(ConfigurationError, match="does not belong"):
            cluster.acquire()
    finally:
        cluster.layout.sockets.unlink()


def test_lock_files_that_name_another_program_are_not_believed(made: Path) -> None:
    cluster = Cluster(made)
    cluster.acquire()
    cluster.release()
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        for stale in (cluster.layout.cluster / "postmaster.pid", Path(f"{cluster.layout.socket}.lock")):
            stale.write_text(f"{bystander.pid}\n{cluster.layout.cluster}\n1700000000\n5432\n\n\n  1234  5678\nready\n")
            stale.chmod(0o644)
        assert cluster.acquire().pid != bystander.pid
        cluster.release()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_an_interrupted_creation_is_begun_anew(data_dir: Path) -> None:
    remains = data_dir / "postgres" / "cluster.new-abc"
    remains.mkdir(parents=True)
    if os.geteuid() == 0:
        remains.parent.chmod(0o711)
    (remains / "PG_VERSION").write_text("18\n")
    with running_postgres(data_dir) as url:
        assert query(url, "SELECT 1") == 1
    assert not remains.exists()

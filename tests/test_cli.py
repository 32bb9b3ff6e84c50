"""The script: what goes wrong is told in one line, and the process ends with a code that says so."""

from __future__ import annotations

import io
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import bcrypt
import psycopg2
import pytest

from ledger.cli import main
from ledger.services import postgres_install
from ledger.services.seeding import PEOPLE
from ledger.store import migrations
from tests.postgres.cluster import temporary_data_dir


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that the script ends with when it fails."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 1
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    return line


COMMAND = (sys.executable, "-c", "from ledger.cli import main; main()")
DOCS = Path(__file__).parents[1] / "docs"
ALICE, BOB, ADMIN = PEOPLE
PASSWORD = "correct horse battery"
NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"


def script(*arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Run the script as a process of its own, as a reactor runs but once."""
    return subprocess.run(
        [*COMMAND, *arguments],
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data directory with nothing in it."""
    folder = temporary_data_dir()
    yield folder
    shutil.rmtree(folder)


def test_verify_of_a_database_without_a_schema(empty_database_url: str) -> None:
    ended = script("verify", "--database", empty_database_url)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "ledger: the database lacks this version's schema: run `ledger migrate` first\n"


def test_verify_of_an_empty_journal(database_url: str) -> None:
    ended = script("verify", "--database", database_url)
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        0,
        '{"ok":true,"head":0,"checked":0,"first_failure":null}\n',
        "",
    )


@pytest.mark.parametrize("command", ["verify", "migrate"])
def test_initdb_fails(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (data_dir / "bin").mkdir(mode=0o755)
    for name in ("initdb", "postgres"):
        program = data_dir / "bin" / name
        program.write_text('#!/bin/sh\n[ "$1" = --version ] && exit\necho "initdb: error: no room" >&2\nexit 1\n')
        program.chmod(0o755)
    monkeypatch.setattr(postgres_install, "find_install", lambda: data_dir)
    assert told(capsys, command, "--data-dir", str(data_dir)) == "ledger: initdb failed: initdb: error: no room"


def test_another_process_migrates_for_too_long(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(migrations, "PATIENCE", 0.0)
    with closing(psycopg2.connect(empty_database_url)) as other, other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (migrations.LOCK_KEY,))
        line = told(capsys, "migrate", "--database", empty_database_url)
    assert line == "ledger: another process has been migrating the database for too long"


def rows(url: str, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
    """Run a statement, and return its rows."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, arguments or None)
        return list(cursor.fetchall()) if cursor.description else []


def everything(url: str) -> list[list[tuple[Any, ...]]]:
    """All that a command may change."""
    return [rows(url, f"SELECT * FROM {table} ORDER BY id") for table in ("users", "accounts", "journal", "sessions")]


def seed(url: str) -> list[str]:
    """Run `ledger seed`, and return what it says of each user."""
    ended = script("seed", "--yes", "--database", url)
    assert (ended.returncode, ended.stderr) == (0, "")
    *lines, credentials, attempt = ended.stdout.splitlines()
    assert credentials == (
        "Log in with: alice@example.com password123!, bob@example.com password123!, admin@example.com admin123!"
    )
    assert attempt.startswith("Try: curl -s http://127.0.0.1:8080/api/auth/login -d ")
    return lines


def create_admin(url: str, typed: str, email: str = "Root@Example.com") -> subprocess.CompletedProcess[str]:
    """Run `ledger create-admin`, given a text on its standard input."""
    return script("create-admin", "--database", url, "--email", email, "--name", " Root ", typed=typed)


NOTHING_TO_DO = [f"{person.email}: nothing to do" for person in PEOPLE]


def test_seed(database_url: str) -> None:
    assert seed(database_url) == [
        "alice@example.com: made with 1000 USD",
        "bob@example.com: made with 500 USD",
        "admin@example.com: made",
    ]
    users = rows(database_url, "SELECT email, full_name, role, status, verified FROM users ORDER BY id")
    assert users == [
        ("alice@example.com", "Alice Example", "user", "ACTIVE", True),
        ("bob@example.com", "Bob Example", "user", "ACTIVE", True),
        ("admin@example.com", "Admin User", "admin", "ACTIVE", True),
    ]
    for person in PEOPLE:
        ((kept,),) = rows(database_url, "SELECT password_hash FROM users WHERE email = %s", person.email)
        assert bcrypt.checkpw(person.password.encode(), kept.encode())
    accounts = """SELECT email, type, asset, balance FROM accounts JOIN users ON users.id = user_id
                  ORDER BY accounts.id"""
    assert rows(database_url, accounts) == [
        ("alice@example.com", "CHECKING", "USD/2", 100_000),
        ("alice@example.com", "SAVINGS", "USD/2", 0),
        ("bob@example.com", "CHECKING", "USD/2", 50_000),
        ("admin@example.com", "CHECKING", "USD/2", 0),
    ]
    keys = [("seed:alice@example.com",), ("seed:bob@example.com",)]
    assert rows(database_url, "SELECT key FROM journal ORDER BY seq") == keys
    before = everything(database_url)
    assert seed(database_url) == NOTHING_TO_DO
    assert everything(database_url) == before
    assert script("verify", "--database", database_url).returncode == 0


def test_seed_brings_nobody_back(database_url: str) -> None:
    seed(database_url)
    rows(database_url, "UPDATE users SET password_hash = 'hers', email = 'a@example.com' WHERE id = %s", ALICE.id)
    rows(database_url, "UPDATE users SET status = 'DELETED' WHERE id = %s", BOB.id)
    rows(database_url, "UPDATE users SET role = 'user' WHERE id = %s", ADMIN.id)
    before = everything(database_url)
    assert seed(database_url) == NOTHING_TO_DO
    assert everything(database_url) == before


def test_seed_leaves_alone_who_has_the_address(database_url: str) -> None:
    rows(
        database_url,
        "INSERT INTO users (id, email, full_name, password_hash) VALUES (gen_random_uuid(), %s, 'A', '!')",
        ALICE.email,
    )
    assert seed(database_url)[0] == NOTHING_TO_DO[0]
    assert rows(database_url, "SELECT full_name FROM users WHERE email = %s", ALICE.email) == [("A",)]
    assert rows(database_url, "SELECT key FROM journal") == [("seed:bob@example.com",)]


def test_seed_finishes_what_was_cut_off(database_url: str) -> None:
    rows(
        database_url,
        """INSERT INTO users (id, email, full_name, password_hash) VALUES (%s, %s, 'Alice', '!');
           INSERT INTO accounts (id, user_id, asset, type) VALUES (%s, %s, 'JPY/0', 'CHECKING')""",
        ALICE.id,
        ALICE.email,
        ALICE.account_id,
        ALICE.id,
    )
    # The world of its asset is made with the first account that is opened in it: here, the savings.
    assert seed(database_url)[0] == "alice@example.com: made with 1000 USD"
    held = rows(database_url, "SELECT type, asset, balance FROM accounts WHERE user_id = %s ORDER BY id", ALICE.id)
    assert held == [("CHECKING", "JPY/0", 1_000), ("SAVINGS", "JPY/0", 0)]


def test_seed_asks_before_it_touches_an_external_database(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LEDGER_DATABASE", database_url)
    with pytest.raises(SystemExit) as end:
        main(("seed",))
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "ledger: seed: anyone can log in as the sample users; with --database, add --yes to make them\n"
    )
    assert rows(database_url, "SELECT id FROM users") == []


@pytest.mark.parametrize("command", [("seed", "--yes"), ("create-admin", "--email", "a@example.com", "--name", "A")])
def test_an_external_database_without_a_schema(empty_database_url: str, command: tuple[str, ...]) -> None:
    ended = script(*command, "--database", empty_database_url, typed=f"{PASSWORD}\n")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "ledger: the database lacks this version's schema: run `ledger migrate` first\n"


def test_a_database_that_is_away() -> None:
    ended = script("seed", "--yes", "--database", NOWHERE)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("ledger: ")


def test_create_admin(database_url: str) -> None:
    ended = create_admin(database_url, f"{PASSWORD}\nanother line\n")
    assert (ended.returncode, ended.stderr) == (0, "")
    columns = "id::text, email, full_name, role, status, verified, password_hash"
    ((user_id, *said, kept),) = rows(database_url, f"SELECT {columns} FROM users")
    assert said == ["root@example.com", "Root", "admin", "ACTIVE", True]
    assert bcrypt.checkpw(PASSWORD.encode(), kept.encode())
    assert ended.stdout == f"root@example.com is an admin now, with the id {user_id}.\n"
    assert rows(database_url, "SELECT type, asset FROM accounts WHERE user_id = %s", user_id) == [("CHECKING", "USD/2")]
    written = rows(database_url, "SELECT event, endpoint, details ->> 'id' FROM audit_log")
    assert written == [("admin_action", "ledger create-admin", user_id)]
    again = create_admin(database_url, f"{PASSWORD}\n", "root@example.com")
    assert (again.returncode, again.stdout, again.stderr) == (1, "", "ledger: The e-mail address is taken\n")


RULE = "The password must have at least 15 characters, and at most 72 bytes in UTF-8"


@pytest.mark.parametrize("typed", ["", "\n", "fourteen chars\n", f"{'é' * 37}\n"])
def test_create_admin_with_no_password_for_one(
    typed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    line = told(capsys, "create-admin", "--database", NOWHERE, "--email", "root@example.com", "--name", "Root")
    assert line == f"ledger: {RULE}"


@pytest.mark.parametrize(
    ("email", "name", "line"),
    [("nobody", "Root", "The e-mail address is not valid"), ("a@example.com", "A" * 256, "The name is not valid")],
)
def test_create_admin_of_nobody(email: str, name: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("create-admin", "--database", NOWHERE, "--email", email, "--name", name)
    assert told(capsys, *arguments) == f"ledger: {line}"


@pytest.mark.parametrize(
    ("second", "code", "line"),
    [(PASSWORD, 0, " is an admin now"), ("something else", 1, "ledger: The passwords differ")],
)
def test_create_admin_at_a_terminal(database_url: str, second: str, code: int, line: str) -> None:
    ours, theirs = pty.openpty()
    with open(ours, "r+b", buffering=0) as terminal:
        arguments = ("create-admin", "--database", database_url, "--email", "root@example.com", "--name", "Root")
        child = subprocess.Popen(
            [*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        try:
            shown = read_until(terminal, b"Password: ")
            terminal.write(PASSWORD.encode() + b"\n")
            shown += read_until(terminal, b"Once more: ")
            terminal.write(second.encode() + b"\n")
            shown += read_until(terminal, line.encode())
            assert child.wait(60) == code
        finally:
            child.kill()
            child.wait()
    assert PASSWORD.encode() not in shown
    assert len(rows(database_url, "SELECT id FROM users")) == (code == 0)


def read_until(terminal: Any, words: bytes) -> bytes:
    """What a terminal shows, up to these words."""
    shown = b""
    while words not in shown:
        shown += terminal.read(1024)
    return shown


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "name a command: migrate, verify, seed, create-admin, routes, errors"),
        (("create-admin", "--name", "A"), "create-admin: --email is missing"),
        (("create-admin", "--email", "a@example.com"), "create-admin: --name is missing"),
    ],
)
def test_usage_errors(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], line: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert capsys.readouterr().err == f"ledger: {line}\n"


def test_pages_need_no_database(capsys: pytest.CaptureFixture[str]) -> None:
    main(("routes", "--markdown"))
    assert capsys.readouterr().out == (DOCS / "routes.md").read_text()
    main(("errors",))
    assert capsys.readouterr().out == (DOCS / "errors.md").read_text()


def test_routes_for_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def who_may_credit(*options: str) -> list[str]:
        main(("routes", *options))
        (line,) = (line for line in capsys.readouterr().out.splitlines() if " /credit " in line)
        return line.split()[2:7]

    assert who_may_credit() == ["–", "own", "own", "own", "any"]
    assert who_may_credit("--self-funding", "off") == ["–", "–", "–", "–", "any"]

"""What the database itself refuses, and who may write to the tables of the ledger at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import psycopg2
import pytest

from ledger.domain.accounts import world_id
from tests.postgres.cluster import DatabaseServer

ONE = "01980a2e-7c1f-7d3a-9b5e-4f2d6c8a1e01"
WORLD = world_id("USD/2")
RECORD = "INSERT INTO journal (seq, id, kind, posted_at, effective_at, body, hash) VALUES "
ENTRY = 'INSERT INTO transactions (id, account_id, seq, amount, type, balance, held, version, "timestamp") VALUES '


def record(seq: int) -> str:
    """A row of the journal."""
    return f"({seq}, '{uuid4()}', 'credit', now(), now(), '{{}}', sha256(''))"


def entry(account: str, seq: int, amount: int, kind: str, version: int = 1) -> str:
    """A row of the transactions."""
    return f"('{uuid4()}', '{account}', {seq}, {amount}, '{kind}', 0, 0, {version}, now())"


@pytest.fixture
def cursor(database_url: str) -> Iterator[Any]:
    """A session as the server has it, with two accounts and one record."""
    with closing(psycopg2.connect(database_url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO accounts (id, asset, type) VALUES ('{WORLD}', 'USD/2', 'WORLD')")
            cursor.execute(f"INSERT INTO accounts (id, asset, type) VALUES ('{ONE}', 'USD/2', 'CHECKING')")
            cursor.execute(RECORD + record(1))
            cursor.execute(ENTRY + entry(WORLD, 1, 5, "debit") + ", " + entry(ONE, 1, 5, "credit"))
            yield cursor


REFUSED = [
    "UPDATE journal SET kind = 'debit'",
    "UPDATE journal SET kind = kind WHERE false",
    "DELETE FROM journal",
    "TRUNCATE journal",
    "UPDATE transactions SET amount = 7",
    "DELETE FROM transactions WHERE amount = 5",
    "TRUNCATE transactions",
    "DELETE FROM accounts",
    "TRUNCATE accounts CASCADE",
    "UPDATE accounts SET asset = 'EUR/2'",
    "UPDATE accounts SET type = 'WORLD'",
    "UPDATE accounts SET id = gen_random_uuid()",
    "UPDATE accounts SET user_id = NULL",
    "UPDATE accounts SET created_at = now()",
]


@pytest.mark.parametrize("statement", REFUSED)
def test_what_is_in_the_ledger_stays(cursor: Any, database_server: DatabaseServer, statement: str) -> None:
    with pytest.raises(psycopg2.Error) as refused:
        cursor.execute(statement)
    assert refused.value.pgcode == "23001"
    database = cursor.connection.info.dbname
    with pytest.raises(psycopg2.Error, match="stays"):  # nor does the superuser change it by accident
        database_server.execute(statement, database=database)


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        (RECORD + record(3), "23000"),
        (RECORD + record(0), "23514"),
        (RECORD + record(2) + ", " + record(4), "23000"),
        (RECORD + record(1), "23505"),
        (ENTRY + entry(ONE, 2, 5, "credit", 2), "23000"),
        (ENTRY + entry(WORLD, 2, 4, "debit", 2) + ", " + entry(ONE, 2, 5, "credit", 2), "23000"),
        (ENTRY + entry(WORLD, 2, 5, "debit", 2) + ", " + entry(ONE, 3, 5, "credit", 2), "23000"),
        (ENTRY + entry(WORLD, 2, 5, "debit", 1) + ", " + entry(ONE, 2, 5, "credit", 2), "23505"),
        (ENTRY + entry(WORLD, 2, 0, "debit", 2) + ", " + entry(ONE, 2, 0, "credit", 2), "23514"),
        (f"UPDATE accounts SET balance = -1 WHERE id = '{ONE}'", "23514"),
        (f"UPDATE accounts SET held = 1 WHERE id = '{ONE}'", "23514"),
        (f"UPDATE accounts SET credit_limit = -1 WHERE id = '{ONE}'", "23514"),
        (f"UPDATE accounts SET status = 'GONE' WHERE id = '{ONE}'", "23514"),
        (f"INSERT INTO accounts (id, asset, type) VALUES ('{uuid4()}', 'usd', 'CHECKING')", "23514"),
    ],
)
def test_what_would_break_the_rules_is_refused(cursor: Any, statement: str, code: str) -> None:
    with pytest.raises(psycopg2.Error) as refused:
        cursor.execute(statement)
    assert refused.value.pgcode == code


def test_what_keeps_the_rules_is_taken(cursor: Any) -> None:
    cursor.execute(RECORD + record(2) + ", " + record(3))
    cursor.execute(ENTRY + entry(WORLD, 2, 9, "debit", 2) + ", " + entry(ONE, 2, 9, "credit", 2))
    cursor.execute(f"UPDATE accounts SET balance = -9, version = 2 WHERE id = '{WORLD}'")
    cursor.execute("SELECT count(*) FROM journal")
    assert cursor.fetchone() == (3,)


def test_a_key_stands_once_in_a_scope(cursor: Any) -> None:
    columns = "seq, id, kind, scope, key, posted_at, effective_at, body, hash"
    statement = f"INSERT INTO journal ({columns}) VALUES (%s, %s, 'x', %s, %s, now(), now(), '', sha256(''))"
    cursor.execute(statement, (2, str(uuid4()), ONE, "k"))
    cursor.execute(statement, (3, str(uuid4()), WORLD, "k"))
    with pytest.raises(psycopg2.Error) as twice:
        cursor.execute(statement, (4, str(uuid4()), ONE, "k"))
    assert twice.value.pgcode == "23505"
    for scope, key in ((ONE, None), (None, "k")):
        with pytest.raises(psycopg2.Error) as half:
            cursor.execute(statement, (4, str(uuid4()), scope, key))
        assert half.value.pgcode == "23514"

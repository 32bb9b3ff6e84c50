"""Only the writer changes what the journal decides on: no module but its own writes those tables."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import ledger

ROOT: Final = Path(ledger.__path__[0])
MODULES: Final = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))

WRITERS: Final = {
    "accounts",
    "holds",
    "reversed_transfers",
    "backdated_entries",
    "closed_periods",
    "journal",
    "transactions",
    "game_users",
    "game_undone",
    "payments",
}
OWN: Final = {"store/journal_rows.py", "store/writes.py"}
# An account may be opened, and a payment made, outside of the journal: nobody knows its id before that is committed.
MAY: Final = {
    ("store/accounts.py", "INSERT INTO", "accounts"),
    ("store/payments.py", "INSERT INTO", "payments"),
}

# A text whose value is not known before it runs; as the name of a table it may be any of them.
SOMETHING: Final = "\N{REPLACEMENT CHARACTER}"

_NAME = rf'(?:only\s+)?((?:"?[\w{SOMETHING}]+"?\s*\.\s*)?"?[\w{SOMETHING}]+"?)'
_WRITE = re.compile(
    rf"\b(insert\s+into|update|delete\s+from|truncate(?:\s+table)?|merge\s+into|copy|alter\s+table|drop\s+table)\s+{_NAME}",
    re.IGNORECASE,
)
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_NO_TABLE = {"set", "of", "on"}  # DO UPDATE SET; FOR UPDATE OF


def texts_of(source: str) -> Iterator[str]:
    """Every text in a module, put together as far as it can be told, those that are no SQL included."""

    def text_of(node: ast.expr) -> str | None:
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else None
        if isinstance(node, ast.JoinedStr):
            return "".join(map(told, node.values))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
            if text_of(node.left) is None and text_of(node.right) is None:
                return None
            if isinstance(node.op, ast.Mod):
                return told(node.left).replace("%s", SOMETHING)
            return told(node.left) + told(node.right)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            text = text_of(node.func.value)
            if text is not None and node.func.attr in ("format", "replace"):
                return re.sub(r"\{\w*\}", SOMETHING, text)
        return None

    def told(node: ast.expr) -> str:
        text = text_of(node)
        return SOMETHING if text is None else text

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.expr) and (text := text_of(node)) is not None:
            yield text


def writes_of(source: str) -> set[tuple[str, str]]:
    """What a module does to tables, and to which; SOMETHING where the name is not told."""
    found = set()
    for text in texts_of(source):
        for verb, name in _WRITE.findall(_COMMENT.sub(" ", text)):
            table = re.split(r"\s*\.\s*", name)[-1].strip('"').lower()
            if table not in _NO_TABLE:
                found.add((" ".join(verb.upper().split()), table))
    return found


def forbidden(module: str, source: str) -> set[tuple[str, str]]:
    """What a module must not do."""
    if module in OWN:
        return set()
    return {
        (verb, table)
        for verb, table in writes_of(source)
        if (table in WRITERS or SOMETHING in table) and (module, verb, table) not in MAY
    }


@pytest.mark.parametrize("module", MODULES)
def test_no_other_module_writes_the_writers_tables(module: str) -> None:
    assert forbidden(module, (ROOT / module).read_text()) == set()


def test_the_writers_own_modules_write_them_all() -> None:
    written = {table for module in OWN for _, table in writes_of((ROOT / module).read_text())}
    assert written >= WRITERS
    assert {table for _, table in writes_of((ROOT / "store/accounts.py").read_text())} == {"accounts"}


@pytest.mark.parametrize("table", sorted(WRITERS))
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO {} (id) VALUES (%s)",
        "WITH gone AS (SELECT 1) UPDATE {} SET id = 1",
        "update only\n    {} as a set held = 0",
        "DELETE FROM public.{} WHERE true",
        'UPDATE "{}" AS t SET x = 1',
        'DELETE FROM ONLY "public" . "{}"',
        "SELECT 1; /* and */ TRUNCATE /* now */ TABLE {}",
        "TRUNCATE {}",
        "MERGE INTO {} USING x ON true",
        "COPY {} FROM STDIN",
        "UPDATE -- a comment\n {} SET x = 1",
        "ALTER TABLE {} DISABLE TRIGGER ALL",
    ],
)
def test_it_finds_them(table: str, statement: str) -> None:
    sql = statement.format(table)
    for source in (
        f"run({sql!r})",
        f"async def work():\n    await session.run({sql!r}, (1,))",
        f"run(f{sql!r} ' ' + condition)",
        f"X = {sql[:9]!r} {sql[9:]!r}",
        f"X = {sql[:9]!r} + {sql[9:]!r}",
        f"X = {{'a': f{sql!r}}}",
        f"run({sql!r}.format(x=1))",
    ):
        for module in ("services/anything.py", "store/wallets.py", "cli.py"):
            assert {found for _, found in forbidden(module, source)} == {table}, source
        assert forbidden("store/writes.py", source) == set()


@pytest.mark.parametrize(
    "source",
    [
        "run(f'UPDATE {table} SET x = 1')",
        "run('UPDATE ' + table + ' SET x = 1')",
        "run('DELETE FROM %s' % table)",
        "run('INSERT INTO {} VALUES (1)'.format(table))",
        "run(f'TRUNCATE public.{table}')",
    ],
)
def test_a_table_that_is_not_told_may_be_any(source: str) -> None:
    assert {table for _, table in forbidden("store/anything.py", source)} == {SOMETHING}


@pytest.mark.parametrize(
    "source",
    [
        "run('UPDATE users SET status = %s')",
        "run('INSERT INTO account_tokens (a) SELECT id FROM accounts ON CONFLICT (a) DO UPDATE SET a = 1')",
        "run('SELECT held FROM accounts AS a FOR UPDATE OF a')",
        "run('SELECT 1 FROM holds')",
        "run('DELETE FROM sessions USING accounts')",
        "x = 'to update accounting'",
    ],
)
def test_it_lets_the_rest_be(source: str) -> None:
    assert forbidden("store/anything.py", source) == set()


def test_to_open_an_account_is_all_that_its_module_may_do() -> None:
    assert forbidden("store/accounts.py", "run('INSERT INTO accounts (id) VALUES (1)')") == set()
    assert forbidden("store/accounts.py", "run('UPDATE accounts SET held = 0')") == {("UPDATE", "accounts")}
    assert forbidden("store/accounts.py", "run('INSERT INTO holds (id) VALUES (1)')") == {("INSERT INTO", "holds")}
    assert forbidden("store/users.py", "run('INSERT INTO accounts (id) VALUES (1)')") == {("INSERT INTO", "accounts")}

"""Imports point one way: from the surface down to the domain, and what is dangerous has one door."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins

import ledger

ROOT = Path(ledger.__path__[0])
PLUGIN = ROOT.parent / "twisted" / "plugins" / "ledger_plugin.py"

# Each floor may import itself and the floors that it names; loose modules stand beside the floor they belong to.
FLOORS = {
    "domain": set[str](),
    "version": set[str](),
    "config": {"domain"},
    "logs": {"domain", "services"},
    "store": {"domain"},
    "pubsub": {"domain"},
    "services": {"domain", "store", "pubsub", "config", "version"},
    "resources": {"domain", "store", "pubsub", "services", "config", "version"},
    "options": {"domain", "config", "version"},
    "app": {"domain", "store", "pubsub", "services", "resources", "config", "version"},
    "tap": {"domain", "services", "app", "config", "options", "logs", "version"},
    "cli": {"domain", "store", "services", "resources", "app", "config", "options", "logs", "version"},
    "games": {"domain", "store"},
}
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor_of(path: Path) -> str:
    """The floor that a module stands on."""
    return path.parts[0].removesuffix(".py")


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_point_down(module: Path) -> None:
    floor = floor_of(module)
    for name in imports_of(ROOT / module):
        parts = name.split(".")
        if parts[0] == "ledger" and len(parts) > 1:
            assert parts[1] in FLOORS[floor] | {floor}, f"{module} imports {name}"


FORBIDDEN = {
    "domain": {"twisted", "psycopg2", "txpostgres", "klein", "autobahn", "asyncio", "time", "random", "secrets", "os"},
    "store": {"klein", "autobahn", "asyncio"},
    "pubsub": {"psycopg2", "txpostgres", "klein", "asyncio"},
    "services": {"psycopg2", "txpostgres", "klein", "autobahn", "asyncio"},
    "resources": {"psycopg2", "txpostgres", "autobahn", "asyncio"},
}
# The cluster's own administration, before there is a pool: it runs in a thread, and knows nothing of the ledger.
EXCEPT = {("services", "postgres_cluster.py", "psycopg2")}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_what_a_floor_may_not_know(module: Path) -> None:
    floor = floor_of(module)
    known = {name.split(".")[0] for name in imports_of(ROOT / module)}
    found = known & FORBIDDEN.get(floor, {"psycopg2", "txpostgres", "asyncio"})
    assert {name for name in found if (floor, module.name, name) not in EXCEPT} == set()


def test_the_driver_has_one_door() -> None:
    asynchronous = {module.as_posix() for module in MODULES if "txpostgres" in "".join(imports_of(ROOT / module))}
    assert asynchronous == {"store/postgres.py"}


def test_the_plugin_knows_nothing_of_the_application() -> None:
    assert {name.split(".")[0] for name in imports_of(PLUGIN)} == {"twisted"}
    assert not (PLUGIN.parent / "__init__.py").exists()
    assert not (PLUGIN.parent.parent / "__init__.py").exists()


def test_twistd_finds_the_plugin() -> None:
    makers: list[Any] = list(getPlugins(IServiceMaker))
    assert [maker.module for maker in makers if maker.tapname == "ledger"] == ["ledger.tap"]


def test_the_application_is_not_imported_to_find_it() -> None:
    code = """
import sys
from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
assert "ledger" in [maker.tapname for maker in getPlugins(IServiceMaker)]
assert not [name for name in sys.modules if name.startswith("ledger.")]
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent, timeout=60)

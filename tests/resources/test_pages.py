"""The pages that are made from the code, and whether docs/ holds them as they are."""

from __future__ import annotations

from pathlib import Path

from ledger.domain.errors import CATALOGUE
from ledger.resources.error_page import errors_page
from ledger.resources.route_page import routes_page, routes_text
from ledger.resources.routes import all_endpoints
from tests.resources.backend import MemoryBackend
from tests.resources.harness import NOW

DOCS = Path(__file__).parents[2] / "docs"
ENDPOINTS = all_endpoints(MemoryBackend(), lambda: NOW)


def test_the_page_of_errors_is_up_to_date() -> None:
    assert (DOCS / "errors.md").read_text() == errors_page(), "renew it: ledger errors > docs/errors.md"


def test_the_page_of_routes_is_up_to_date() -> None:
    page = routes_page(ENDPOINTS)
    assert (DOCS / "routes.md").read_text() == page, "renew it: ledger routes --markdown > docs/routes.md"


def test_every_reason_has_its_line() -> None:
    lines = errors_page().splitlines()
    for reason in CATALOGUE:
        assert len([line for line in lines if line.startswith(f"| `{reason}` |")]) == 1
    assert (
        "| `invalid_sort` | validation | `validation_error` | 400 | The sort field is not known | no | – | – |" in lines
    )
    assert next(line for line in lines if line.startswith("| `timeout` |")).endswith("| yes | 3 | 1000 ms |")


def test_every_path_has_its_line() -> None:
    lines = routes_page(ENDPOINTS).splitlines()
    for endpoint in ENDPOINTS:
        for path in endpoint.paths:
            assert len([line for line in lines if line.startswith(f"| {endpoint.method} | `{path}` |")]) == 1
    (balance,) = (line for line in lines if line.startswith("| GET | `/balance` |"))
    assert balance == "| GET | `/balance` | – | own | own | any | any | The balance of a user's account |"


def test_the_terminal_has_the_same_table_in_columns() -> None:
    head, *rows = routes_text(ENDPOINTS).splitlines()
    assert len(rows) == sum(len(endpoint.paths) for endpoint in ENDPOINTS)
    column = head.index("summary")
    assert all(row[column - 2 : column] == "  " and row[column] != " " for row in rows)
    assert not any(row.endswith(" ") for row in rows)

"""The endpoints and who may use them, as a page for people and as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ledger.domain.policy import ROLES, TABLE, Reach
from ledger.resources.endpoint import Endpoint

_HEAD: Final = """\
# Routes

Every endpoint and who may use it: `own` for what is the caller's own, `any` for everything, `–` for not at all. Account
tokens act for their one account. `ledger routes` prints the same table, `ledger routes --markdown` this page, from what
the endpoints declare. What is asked and answered is told by `GET /api/openapi.json`, and shown at `/docs`.

The live streams, `/ws` and `GET /api/events`, are told in [api.md](api.md).

"""
_COLUMNS: Final = ("method", "path", "anyone", "account token", "user", "support", "admin", "summary")
_REACHES: Final = {Reach.NONE: "–", Reach.OWN: "own", Reach.ANY: "any"}


def routes_page(endpoints: Iterable[Endpoint]) -> str:
    """Return the page as Markdown."""
    rows = [[method, f"`{path}`", *rest] for method, path, *rest in _rows(endpoints)]
    lines = [_COLUMNS, ["---"] * len(_COLUMNS), *rows]
    return _HEAD + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def routes_text(endpoints: Iterable[Endpoint]) -> str:
    """Return the table with its columns aligned."""
    lines = [list(_COLUMNS), *_rows(endpoints)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "".join(f"{line.rstrip()}\n" for line in padded)


def _rows(endpoints: Iterable[Endpoint]) -> list[list[str]]:
    rows = []
    for endpoint in endpoints:
        reaches = [_REACHES[TABLE[endpoint.policy][role]] for role in ROLES]
        rows += [[endpoint.method, path, *reaches, endpoint.summary] for path in endpoint.paths]
    return rows

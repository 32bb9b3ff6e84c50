"""Rows that records bring to further tables: each kind of row has one set-based statement over one JSON array."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from ledger.domain.commands import Sealed
from ledger.domain.journal import canonical
from ledger.store.prepared import Prepared

# name of the write, as drafts use it -> a statement over %(rows)s::json, an array of the rows
STATEMENTS: Final[dict[str, str]] = {}


def further_rows(batch: Sequence[Sealed]) -> dict[str, str]:
    """Return the rows that a batch brings to further tables: name of the write -> JSON array."""
    rows: dict[str, list[Any]] = {}
    for sealed in batch:
        for name, row in sealed.writes:
            rows.setdefault(name, []).append(row)
    return {name: canonical(items).decode() for name, items in rows.items()}


@lru_cache
def statement(name: str) -> Prepared:
    """Return the statement of a write; its parameter bears the write's name."""
    return Prepared(f"write_{name}", STATEMENTS[name].replace("%(rows)s", f"%({name})s"))

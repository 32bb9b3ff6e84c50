"""Rows that records bring to further tables: each kind of row has one set-based statement over one JSON array."""

from collections.abc import Sequence
from typing import Any, Final

from ledger.domain.commands import Sealed
from ledger.domain.journal import canonical

# name of the write, as drafts use it -> a statement over %s, a JSON array of the rows
STATEMENTS: Final[dict[str, str]] = {}


def extra_writes(batch: Sequence[Sealed]) -> dict[str, tuple[str, str]]:
    """Return the statements that a batch's further rows need: name -> (SQL, its JSON parameter)."""
    rows: dict[str, list[Any]] = {}
    for sealed in batch:
        for name, row in sealed.writes:
            rows.setdefault(name, []).append(row)
    return {name: (STATEMENTS[name], canonical(items).decode()) for name, items in rows.items()}

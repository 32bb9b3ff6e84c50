"""The error catalogue as a page for people."""

from __future__ import annotations

from ledger.domain.errors import CATALOGUE

_HEAD = """\
# Errors

Every reason that a request can be refused with. `ledger errors` writes this page from the catalogue in
`ledger/domain/errors.py`.

An error is `{"error": {"type", "message", "code", "reason", "details", "timestamp", "correlation_id"}}`: `code` is the
status, `reason` is for programs, `details` names the `field` where there is one. What is retryable may succeed when the
same request is made again: up to so many more times, the first of them after the delay, each next one after twice as
long; where the answer has a `Retry-After`, not before that. Give such requests an `Idempotency-Key`, and they are done
once however often they are made.

| reason | category | type | status | message | retryable | attempts | delay |
|---|---|---|---|---|---|---|---|
"""


def errors_page() -> str:
    """Return the page as Markdown."""
    rows = []
    for name, row in CATALOGUE.items():
        category = row.category
        retry = ("yes", str(category.retries), f"{category.delay_ms} ms") if category.retryable else ("no", "–", "–")
        cells = (
            f"`{name}`",
            category.name.lower(),
            f"`{category.wire_type}`",
            str(category.status),
            row.message,
            *retry,
        )
        rows.append(f"| {' | '.join(cells)} |\n")
    return _HEAD + "".join(rows)

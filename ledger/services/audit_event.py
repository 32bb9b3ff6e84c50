"""What the audit log is told, and the row that it becomes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from ledger.domain.masking import masked, names_a_secret
from ledger.store.audit import AuditRow

_LONGEST: Final = 255
_GLANCE: Final = 4_096  # what is looked at of a text: half of a secret would not be seen for one
_MOST_DETAILS: Final = 16

_is_uuid = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z").match

Event = Literal["authentication_failed", "authorization_failed", "rate_limited", "admin_action"]


class AuditEvent(msgspec.Struct, frozen=True):
    """What happened to whom; of `details` what is small, plain and no secret is kept."""

    event: Event
    reason: str | None = None
    endpoint: str | None = None
    actor_kind: str | None = None
    actor_id: str | None = None
    address: str | None = None
    correlation_id: str | None = None
    details: Mapping[str, Any] = {}


def row_of(event: AuditEvent, row_id: str, now: float) -> AuditRow:
    """Return the row that is written for an event; nothing that PostgreSQL refuses or that looks secret is in it."""
    return AuditRow(
        id=row_id,
        at=now,
        until=now,
        event=event.event,
        reason=_text(event.reason),
        endpoint=_text(event.endpoint),
        actor_kind=_text(event.actor_kind),
        actor_id=event.actor_id if event.actor_id is not None and _is_uuid(event.actor_id) else None,
        address=_text(event.address),
        correlation_id=_text(event.correlation_id),
        count=1,
        details=_details(event.details),
    )


def _text(value: str | None) -> str | None:
    if value is None:
        return None
    return masked(value[:_GLANCE].replace("\0", "").encode("utf-8", "replace").decode())[:_LONGEST]


def _details(details: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, value in details.items():
        if len(told) == _MOST_DETAILS:
            break
        if not names_a_secret(name) and (plain := _plain(value)) is not None:
            told[_text(name) or ""] = plain
    return told


def _plain(value: Any) -> Any:
    """Return a value as it is kept, or None for what is not kept."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_text(item) for item in list(value)[:_MOST_DETAILS] if isinstance(item, str)]
    return None

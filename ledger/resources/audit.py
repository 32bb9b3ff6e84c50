"""The audit log, for admins to read."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from uuid import UUID

import msgspec

from ledger.domain.addresses import normal
from ledger.domain.errors import Refused
from ledger.domain.policy import Action, Caller
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.resources.paging import KeysetQuery, limit_of, place_of, stretch
from ledger.resources.reading import Id, Moment, Text
from ledger.services.audit import Audit, Event
from ledger.store.audit import AuditFilter, AuditLine


class AuditQuery(KeysetQuery, frozen=True, kw_only=True):
    """Which events: of a kind, by an actor, from an address, and begun within a time that does not hold its end."""

    event: Event | None = None
    actor_id: Id | None = None
    address: Text | None = None
    since: Moment | None = msgspec.field(name="from", default=None)
    before: Moment | None = msgspec.field(name="to", default=None)


class Place(msgspec.Struct, frozen=True):
    """A row in the list."""

    at: Moment
    id: UUID


class AuditEndpoints:
    """GET /api/audit."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare it."""
        return (
            Endpoint(
                "GET",
                "/api/audit",
                self.read,
                summary="What the audit log holds, newest first",
                policy=Action.READ_AUDIT,
                query=AuditQuery,
                answer=list[AuditLine],
                refuses=(
                    "insufficient_permissions",
                    "invalid_request",
                    "invalid_pagination",
                    "invalid_cursor",
                    "invalid_uuid_format",
                    "invalid_datetime_format",
                    "service_unavailable",
                ),
            ),
        )

    async def read(self, _caller: Caller, call: Call[None, AuditQuery]) -> Answer:
        """Read the rows after a place, and one more to see whether there are any."""
        query = call.query
        limit, place = limit_of(query), _place(query.cursor)
        address = query.address and normal(query.address)
        wanted = AuditFilter(query.event, query.actor_id, address, query.since, query.before)
        after = None if place is None else (place.at.isoformat(), str(place.id))
        told, metadata = stretch(await self._audit.read(wanted, after, limit + 1), limit, _cursor)
        return Answer(told, metadata=metadata)


def _cursor(line: AuditLine) -> str:
    place = msgspec.json.encode({"at": line.at, "id": line.id})
    return urlsafe_b64encode(place).decode().rstrip("=")


def _place(cursor: str | None) -> Place | None:
    if cursor is None:
        return None
    try:
        place = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except ValueError:
        raise Refused("invalid_cursor", field="cursor") from None
    return place_of(place, Place)

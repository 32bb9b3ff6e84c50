"""The live streams in the OpenAPI document: no endpoints declare them, for they do not end with an answer."""

from __future__ import annotations

from typing import Final

from ledger.domain.errors import CATALOGUE, Reason
from ledger.resources.responses import responses
from ledger.resources.schemas import Schema

_TOPICS: Final = 1000

LIVE_TAG: Final[Schema] = {
    "name": "live",
    "description": (
        "Balances as they change, each change once and in order, after its commit.\n\n"
        "Topics are `users:<user_id>`, `accounts:<account_id>` and, for admins and support, `balance_updated`.\n\n"
        "A **WebSocket** at `/ws` takes the `Authorization` header or, within 5 s, a first message "
        '`{"type": "auth", "token": …}`; then `{"type": "subscribe", "topic": …, "since": SEQ?}`, '
        '`{"type": "unsubscribe", "topic": …}` and `{"type": "ping"}`. It answers `subscribed`, `unsubscribed`, `pong` '
        "and `balance_updated`, and tells what it refuses in `error`. It closes with 4401 when the token stops, "
        "4408 when the client does not keep up, 4503 when the server stops."
    ),
}
_REFUSES: Final = (
    "invalid_request",
    "missing_fields",
    "invalid_uuid_format",
    "invalid_cursor",
    "invalid_token",
    "token_expired",
    "invalid_token_type",
    "insufficient_permissions",
    "unauthorized_access",
    "account_not_found",
    "rate_limit_exceeded",
    "internal_server_error",
    "service_unavailable",
)


def events_operation(correlation: Schema) -> Schema:
    """Return the operation of GET /api/events."""
    refused: dict[int, list[Reason]] = {}
    for reason in _REFUSES:
        refused.setdefault(CATALOGUE[reason].category.status, []).append(CATALOGUE[reason])
    return {
        "operationId": "get_api_events",
        "summary": "Changes of balances as server-sent events",
        "description": (
            "Each event is a `balance_updated` message with the id `SEQ:PART`. A stream goes on until the client or "
            "the server ends it, the latter after `event: close` with its reason."
        ),
        "tags": [LIVE_TAG["name"]],
        "security": [{"bearer": []}],
        "parameters": [
            {
                "name": "topics",
                "in": "query",
                "required": True,
                "description": "What to follow.",
                "style": "form",
                "explode": False,
                "schema": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": _TOPICS},
            },
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "The id of the last event that was seen: the stream goes on after it.",
                "schema": {"type": "string", "pattern": "^[0-9]+(:[0-9]+)?$"},
            },
            correlation,
        ],
        "responses": responses(refused, {200: {"text/event-stream": {"schema": {"type": "string"}}}}, limited=True),
    }

"""The answers of an endpoint as its OpenAPI document tells them: what it says, what it refuses, and the headers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from ledger.domain.errors import CATALOGUE, Reason
from ledger.domain.policy import ROLES, TABLE, Reach
from ledger.resources.answers import REASONS
from ledger.resources.endpoint import Endpoint
from ledger.resources.schemas import Schema, is_id

_PARAMETER = re.compile(r"(\w+)>")
_ERROR: Final = {"$ref": "#/components/schemas/Error"}

ERROR_SCHEMA: Final[Schema] = {
    "title": "Error",
    "description": "Why a request was refused: `reason` is for programs, `message` for people.",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["type", "message", "code", "reason", "details", "timestamp", "correlation_id"],
            "properties": {
                "type": {"type": "string"},
                "message": {"type": "string"},
                "code": {"type": "integer", "description": "The HTTP status."},
                "reason": {"type": "string"},
                "details": {
                    "type": "object",
                    "properties": {"field": {"type": "string", "description": "The field that is to blame."}},
                },
                "timestamp": {"type": "string", "format": "date-time"},
                "correlation_id": {"type": "string"},
            },
        }
    },
}

HEADERS: Final[Mapping[str, Schema]] = {
    "X-Correlation-ID": {
        "description": "The request's correlation id, or the one that was made for it.",
        "required": True,
        "schema": {"type": "string", "minLength": 1, "maxLength": 128},
    },
    "X-RateLimit-Limit": {
        "description": "How many requests a client may make in a window; left out where there is no limit.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "X-RateLimit-Remaining": {
        "description": "How many of them are left.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "X-RateLimit-Reset": {
        "description": "When more will be, in seconds since 1970.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "Retry-After": {
        "description": "After how many seconds it is worth trying again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {
        "description": "How to authenticate.",
        "required": True,
        "schema": {"type": "string", "const": "Bearer"},
    },
    "Idempotent-Replayed": {
        "description": "There where this is the first answer to an idempotency key, given again.",
        "schema": {"type": "string", "const": "true"},
    },
}
_LIMITS: Final = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
_TOKEN_REASONS: Final = ("invalid_token", "token_expired", "invalid_token_type")
_REFUSAL_HEADERS: Final = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}


def reasons(endpoint: Endpoint, of_fields: Iterable[str] = ()) -> dict[int, list[Reason]]:
    """Return what an endpoint, and the way to it, can refuse with, by status; `of_fields` come with its types."""
    if endpoint.dialect is not None:
        return {}
    names = {*endpoint.refuses, *of_fields, "internal_server_error", "service_unavailable"}
    row = TABLE[endpoint.policy]
    if not endpoint.is_open:
        names |= set(_TOKEN_REASONS)
        if any(row[role] is Reach.NONE for role in ROLES if role != "anyone"):
            names.add("insufficient_permissions")
    elif endpoint.knows_caller:
        names |= set(_TOKEN_REASONS)
    if endpoint.rate_limited:
        names.add("rate_limit_exceeded")
    if endpoint.body is not None:
        names.add("payload_too_large")
    if endpoint.idempotent:
        names |= {"invalid_idempotency_key", "duplicate_transaction"}
    if "<" in endpoint.path:
        names.add("resource_not_found")
        if any(is_id(name) for name in _PARAMETER.findall(endpoint.path)):
            names.add("invalid_uuid_format")
    found: dict[int, list[Reason]] = {}
    for name in sorted(names, key=list(CATALOGUE).index):
        found.setdefault(CATALOGUE[name].category.status, []).append(CATALOGUE[name])
    return found


def responses(
    refused: Mapping[int, list[Reason]], answers: Mapping[int, Schema], *, limited: bool, replays: bool = False
) -> dict[str, Schema]:
    """Return all responses of an operation; `answers` are the contents of those that are not refusals, by status."""
    found: dict[int, Schema] = {}
    for status, content in answers.items():
        response = _response(REASONS[status].decode(), content, limited)
        if replays:
            response["headers"] |= _headers("Idempotent-Replayed")
        found[status] = response
    for status, rows in refused.items():
        if status in answers:
            schemas = [answers[status]["application/json"]["schema"], _refusal(status, rows)]
            found[status]["content"] = {"application/json": {"schema": {"anyOf": schemas}}}
        else:
            found[status] = _refused(status, rows, limited)
    return {str(status): _named(found[status]) for status in sorted(found)}


def common_responses() -> dict[str, Schema]:
    """Return the responses that many operations share, by their names among the components."""
    return dict(_COMMON)


def enveloped_schema(data: Schema, metadata: Schema | None) -> Schema:
    """Return the schema of a success in its envelope."""
    properties = {
        "data": data,
        "success": {"type": "boolean", "const": True},
        "timestamp": {"type": "string", "format": "date-time"},
        "correlation_id": {"type": "string"},
    }
    if metadata is not None:
        properties["metadata"] = metadata
    return {"type": "object", "required": list(properties), "properties": properties}


def _refusal(status: int, rows: Iterable[Reason]) -> Schema:
    rows = list(rows)
    error = {
        "type": {"enum": sorted({row.category.wire_type for row in rows})},
        "code": {"const": status},
        "reason": {"enum": [row.name for row in rows]},
    }
    return {"allOf": [_ERROR, {"properties": {"error": {"properties": error}}}]}


def _response(description: str, content: Schema, limited: bool) -> Schema:
    names = ("X-Correlation-ID", *_LIMITS) if limited else ("X-Correlation-ID",)
    return {"description": description, "headers": _headers(*names), "content": content}


def _headers(*names: str) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _refused(status: int, rows: Iterable[Reason], limited: bool) -> Schema:
    rows = tuple(rows)
    content = {"application/json": {"schema": _refusal(status, rows)}}
    response = _response("\n".join(f"- `{row.name}`: {row.message}" for row in rows), content, limited)
    if status in _REFUSAL_HEADERS:
        response["headers"] |= _headers(_REFUSAL_HEADERS[status])
    return response


def _named(response: Schema) -> Schema:
    for name, common in _COMMON.items():
        if response == common:
            return {"$ref": f"#/components/responses/{name}"}
    return response


_COMMON: Final = {
    name: _refused(CATALOGUE[names[0]].category.status, [CATALOGUE[reason] for reason in names], limited=True)
    for name, names in {
        "Unauthorized": _TOKEN_REASONS,
        "TooLarge": ("payload_too_large",),
        "TooMany": ("rate_limit_exceeded",),
        "Failed": ("internal_server_error",),
        "Unavailable": ("service_unavailable",),
    }.items()
}

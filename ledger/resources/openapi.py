"""The OpenAPI 3.1 document of the API, made from what its endpoints declare."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from ledger.domain.policy import ROLES, TABLE, Action, Reach, is_open
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.resources.openapi_live import LIVE_TAG, events_operation
from ledger.resources.paging import KeysetMetadata, KeysetQuery, OffsetMetadata, OffsetQuery
from ledger.resources.responses import ERROR_SCHEMA, HEADERS, common_responses, enveloped_schema, reasons, responses
from ledger.resources.schemas import UUID, Schema, answer_schemas, is_id, parameters, reasons_of, request_schemas
from ledger.version import VERSION

PATH: Final = "/api/openapi.json"

_DESCRIPTION: Final = """\
A ledger: users, their accounts, and money that moves between them, each move one record of one journal.

Successes stand in an envelope, `{"data": …, "success": true, "timestamp": …, "correlation_id": …}`; refusals are
`{"error": {"type", "message", "code", "reason", "details", "timestamp", "correlation_id"}}`. Money is a decimal text in
answers, and a text or a number in requests. Unknown fields are ignored."""

_PARAMETER = re.compile(r"<(?:\w+(?:\([^)]*\))?:)?(\w+)>")
_WORDS = re.compile(r"\w+")
_NAME: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": 255}
_NAMES: Final = {"account": "account tokens", "user": "users", "support": "support", "admin": "admins"}

_KEY: Final[Schema] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key with the same request gets the first answer again; with another request, 409.",
    "schema": {"type": "string", "pattern": r"^[!-~]([ -~]{0,253}[!-~])?$", "minLength": 1, "maxLength": 255},
}
_CORRELATION: Final[Schema] = {
    "name": "X-Correlation-ID",
    "in": "header",
    "description": "Repeated in the answer and in the log, if it is 1 to 128 printable ASCII characters.",
    "schema": {"type": "string"},
}
_PARAMETERS: Final = {"IdempotencyKey": _KEY, "CorrelationId": _CORRELATION}
_SECURITY: Final = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An access token, as logging in gives it, or an account's token.",
    }
}


class DocumentEndpoints:
    """GET /api/openapi.json."""

    def __init__(self, others: Iterable[Endpoint], *, at_once: bool = True) -> None:
        """`at_once`: the document is made now, and not when it is first asked for, which would keep others waiting."""
        self._endpoints = (*others, self._own())
        self._document = self._made() if at_once else None

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare it."""
        return self._endpoints[-1:]

    async def read(self, _caller: None, _call: Call[None, None]) -> Answer:
        """Return what was made when the server started."""
        if self._document is None:
            self._document = self._made()
        return Answer(self._document)

    def _made(self) -> msgspec.Raw:
        return msgspec.Raw(msgspec.json.encode(openapi(self._endpoints)))

    def _own(self) -> Endpoint:
        return Endpoint(
            "GET",
            PATH,
            self.read,
            summary="This document",
            policy=Action.READ_DOCUMENTS,
            answer=dict[str, Any],
            envelope=False,
        )


def openapi(endpoints: Sequence[Endpoint]) -> Schema:
    """Return the document; every path of an endpoint is an operation of its own."""
    bodies = tuple(dict.fromkeys(kind for one in endpoints if (kind := _sent(one)) is not None))
    types = tuple(dict.fromkeys(kind for one in endpoints for kind in (one.answer, _metadata(one)) if kind is not None))
    body_schemas, sent = request_schemas(bodies)
    type_schemas, said = answer_schemas(types)
    if twice := sent.keys() & said.keys():
        raise ValueError(f"types of one name in requests and answers: {sorted(twice)}")
    schema_of = dict(zip((*bodies, *types), (*body_schemas, *type_schemas), strict=True))

    paths: dict[str, Schema] = {}
    for endpoint in endpoints:
        for path in endpoint.paths:
            template = _PARAMETER.sub(r"{\1}", path)
            operations = paths.setdefault(template, {})
            operations[endpoint.method.lower()] = _operation(endpoint, path, template, schema_of)
    paths["/api/events"] = {"get": events_operation(_CORRELATION_REF)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Ledger", "version": VERSION, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "tags": [*_tags(endpoints), LIVE_TAG],
        "paths": paths,
        "components": {
            "schemas": {**sent, **said, "Error": ERROR_SCHEMA},
            "responses": common_responses(),
            "headers": HEADERS,
            "parameters": _PARAMETERS,
            "securitySchemes": _SECURITY,
        },
    }


_CORRELATION_REF: Final = {"$ref": "#/components/parameters/CorrelationId"}
_KEY_REF: Final = {"$ref": "#/components/parameters/IdempotencyKey"}


def _operation(endpoint: Endpoint, path: str, template: str, schema_of: dict[Any, Schema]) -> Schema:
    operation: Schema = {
        "operationId": "_".join((endpoint.method.lower(), *_WORDS.findall(template))),
        "summary": endpoint.summary,
        "description": _description(endpoint, path),
        "tags": [_tag(endpoint)],
        "security": [] if endpoint.is_open else [{"bearer": []}],
        "parameters": _parameters(endpoint, path),
        "responses": responses(
            reasons(endpoint, (*reasons_of(endpoint.body), *reasons_of(endpoint.query))),
            _answers(endpoint, schema_of),
            limited=endpoint.rate_limited,
            replays=endpoint.idempotent,
        ),
    }
    if endpoint.is_open and endpoint.knows_caller:
        operation["security"] = [{}, {"bearer": []}]
    if (sent := _sent(endpoint)) is not None:
        content = {"application/json": {"schema": schema_of[sent]}}
        is_required = endpoint.read_body is None or not endpoint.read_body.may_be_empty
        operation["requestBody"] = {"required": is_required, "content": content}
    return operation


def _parameters(endpoint: Endpoint, path: str) -> list[Schema]:
    found: list[Schema] = [
        {"name": name, "in": "path", "required": True, "schema": dict(UUID if is_id(name) else _NAME)}
        for name in _PARAMETER.findall(path)
    ]
    if endpoint.query is not None:
        found += parameters(endpoint.query, "query")
    if endpoint.idempotent:
        found.append(_KEY_REF)
    if endpoint.header is not None:
        found.append({"name": endpoint.header, "in": "header", "required": True, "schema": {"type": "string"}})
    return [*found, _CORRELATION_REF]


def _sent(endpoint: Endpoint) -> type[msgspec.Struct] | None:
    return endpoint.documents or endpoint.body


def _answers(endpoint: Endpoint, schema_of: dict[Any, Schema]) -> dict[int, Schema]:
    schema = {} if endpoint.answer is None else schema_of[endpoint.answer]
    if endpoint.envelope:
        kind = _metadata(endpoint)
        schema = enveloped_schema(schema, None if kind is None else schema_of[kind])
    statuses = (endpoint.status, *endpoint.also)
    further = {name: {"schema": {"type": "string"}} for name in endpoint.further_types}
    return {status: {endpoint.media_type: {"schema": schema}, **further} for status in statuses}


def _metadata(endpoint: Endpoint) -> type[msgspec.Struct] | None:
    """Return the type of what lists tell besides, which follows from how they are asked for."""
    if endpoint.query is not None and issubclass(endpoint.query, OffsetQuery):
        return OffsetMetadata
    if endpoint.query is not None and issubclass(endpoint.query, KeysetQuery):
        return KeysetMetadata
    return None


def _description(endpoint: Endpoint, path: str) -> str:
    lines = [(endpoint.handler.__doc__ or "").strip(), _who(endpoint.policy)]
    if path != endpoint.path:
        lines.append(f"The same as `{endpoint.path}`.")
    return "\n\n".join(line for line in lines if line)


def _who(action: Action) -> str:
    if is_open(action):
        return "Open to anyone."
    row = TABLE[action]
    reaches = {reach: [_NAMES[role] for role in ROLES if role in _NAMES and row[role] is reach] for reach in Reach}
    parts = [f"{', '.join(reaches[Reach.OWN])} for what is their own"] if reaches[Reach.OWN] else []
    parts += [f"{', '.join(reaches[Reach.ANY])} for everything"] if reaches[Reach.ANY] else []
    return f"Who may {action.value}: {'; '.join(parts)}."


def _tag(endpoint: Endpoint) -> str:
    return endpoint.handler.__module__.rpartition(".")[2].replace("_", "-")


def _tags(endpoints: Iterable[Endpoint]) -> list[Schema]:
    modules = {_tag(endpoint): endpoint.handler.__module__ for endpoint in endpoints}
    return [{"name": tag, "description": sys.modules[module].__doc__ or ""} for tag, module in modules.items()]

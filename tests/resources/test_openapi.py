"""The OpenAPI document: valid, complete, and true to what the endpoints declare."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
import pytest
from openapi_spec_validator import validate

from ledger.domain.errors import CATALOGUE
from ledger.domain.policy import Action
from ledger.domain.secret import Secret
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.resources.openapi import DocumentEndpoints, openapi
from ledger.resources.paging import KeysetQuery, OffsetQuery
from ledger.resources.reading import Id, Money, Text
from ledger.resources.routes import all_endpoints
from tests.resources.backend import MemoryBackend
from tests.resources.harness import NOW, Server

ENDPOINTS = all_endpoints(MemoryBackend(), lambda: NOW)


class Wish(msgspec.Struct, frozen=True):
    """What is sent."""

    user_id: Id
    amount: Money
    password: Secret
    note: Text | None = None
    kind: Literal["a", "b"] = "a"


class Filter(msgspec.Struct, frozen=True):
    """What is looked for."""

    size: Annotated[int, msgspec.Meta(ge=1, description="How many.")]
    status: str | None = None


class Part(msgspec.Struct, frozen=True):
    """A part of what is answered."""

    account_id: str | None
    balance: str
    correlation_id: str


class Sparse(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is answered only in part."""

    name: str
    parts: list[Part] | None = None


class Told(msgspec.Struct, frozen=True):
    """What is answered."""

    id: str
    created_at: str
    parts: list[Part]
    sparse: Sparse
    by_name: dict[str, Part]
    status: str = "new"


class Listed(OffsetQuery, frozen=True, kw_only=True):
    """Which page of what."""

    status: str | None = None


async def list_things(_caller: Any, _call: Call[None, Any]) -> Answer:
    """List things."""
    return Answer([])


def listing(path: str, query: type[msgspec.Struct]) -> Endpoint:
    """An endpoint that lists things."""
    return Endpoint("GET", path, list_things, "List things", Action.READ_AUDIT, query=query, answer=list[Part])


class Things:
    """Endpoints of every shape."""

    async def make(self, _caller: Any, _call: Call[Wish, None]) -> Answer:
        """Make a thing."""
        return Answer({})

    async def find(self, _caller: Any, _call: Call[None, Filter]) -> Answer:
        """Find things."""
        return Answer({})

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare them."""
        return (
            Endpoint(
                "POST",
                "/api/things/<id>/parts/<string:part_id>",
                self.make,
                summary="Make a thing",
                policy=Action.MANAGE_USERS,
                aliases=("/things/<id>/parts/<part_id>",),
                body=Wish,
                answer=Told,
                status=201,
                refuses=("user_not_found", "insufficient_funds"),
                idempotent=True,
            ),
            Endpoint(
                "GET",
                "/api/things",
                self.find,
                summary="Find things",
                policy=Action.SEE_HEALTH,
                knows_caller=True,
                query=Filter,
                answer=list[Told],
                refuses=("service_unavailable",),
                envelope=False,
                rate_limited=False,
            ),
        )


@pytest.fixture(scope="module")
def whole() -> Any:
    """The document of the server, as it goes out."""
    return json.loads(msgspec.json.encode(openapi(ENDPOINTS)))


@pytest.fixture(scope="module")
def things() -> Any:
    """The document of the things."""
    document = json.loads(msgspec.json.encode(openapi(Things().endpoints())))
    validate(document)
    return document


def every(node: Any, name: str) -> Iterator[Any]:
    """Give every value of that name in a document."""
    if isinstance(node, dict):
        if name in node:
            yield node[name]
        for content in node.values():
            yield from every(content, name)
    elif isinstance(node, list):
        for content in node:
            yield from every(content, name)


def at(document: Any, reference: str) -> Any:
    """Return what a reference points to; it must be there."""
    assert reference.startswith("#/")
    for part in reference[2:].split("/"):
        document = document[part]
    return document


def refusals(document: Any, operation: Any) -> set[tuple[int, str]]:
    """Return what an operation refuses with, as (status, reason)."""
    found = set()
    for status, response in operation["responses"].items():
        response = at(document, response["$ref"]) if "$ref" in response else response
        schema = response["content"].get("application/json", {"schema": {}})["schema"]
        for part in schema.get("anyOf", [schema]):
            if "allOf" in part:
                found |= {
                    (int(status), reason)
                    for reason in part["allOf"][1]["properties"]["error"]["properties"]["reason"]["enum"]
                }
    return found


def test_it_is_valid(whole: Any) -> None:
    validate(whole)


def test_every_path_of_every_endpoint_is_an_operation_of_its_own(whole: Any) -> None:
    declared = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path), endpoint.method.lower())
        for endpoint in ENDPOINTS
        for path in endpoint.paths
    }
    told = {(path, method) for path, methods in whole["paths"].items() for method in methods}
    assert told == declared | {("/api/events", "get")}
    assert ("/credit", "post") in told
    assert ("/api/credit", "post") in told


def test_operations_have_names_of_their_own_that_follow_from_their_paths(whole: Any) -> None:
    names = list(every(whole["paths"], "operationId"))
    assert len(names) == len(set(names))
    assert whole["paths"]["/api/credit"]["post"]["operationId"] == "post_api_credit"


def test_everything_that_is_referred_to_is_there(whole: Any) -> None:
    references = list(every(whole, "$ref"))
    assert references
    for reference in references:
        assert at(whole, reference)
    tags = {tag["name"] for tag in whole["tags"]}
    assert all(tag in tags for tags_of in every(whole["paths"], "tags") for tag in tags_of)


def test_no_pattern_is_of_python_alone(whole: Any) -> None:
    patterns = list(every(whole, "pattern"))
    assert patterns
    assert not [pattern for pattern in patterns if r"\Z" in pattern or r"\A" in pattern or "(?P" in pattern]


def test_every_declared_refusal_stands_under_its_status(whole: Any) -> None:
    for endpoint in ENDPOINTS:
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", endpoint.path)
        told = refusals(whole, whole["paths"][path][endpoint.method.lower()])
        assert told >= {(CATALOGUE[reason].category.status, reason) for reason in endpoint.refuses}, endpoint.name


def test_what_the_way_to_an_endpoint_refuses_is_told_too(things: Any) -> None:
    told = refusals(things, things["paths"]["/api/things/{id}/parts/{part_id}"]["post"])
    assert told == {
        (400, "invalid_request"),
        (400, "missing_fields"),
        (400, "invalid_amount_format"),
        (400, "invalid_uuid_format"),
        (400, "invalid_idempotency_key"),
        (401, "invalid_token"),
        (401, "token_expired"),
        (401, "invalid_token_type"),
        (403, "insufficient_permissions"),
        (404, "resource_not_found"),
        (404, "user_not_found"),
        (409, "duplicate_transaction"),
        (413, "payload_too_large"),
        (422, "insufficient_funds"),
        (429, "rate_limit_exceeded"),
        (500, "internal_server_error"),
        (503, "service_unavailable"),
    }


def test_who_is_open_to_anyone_but_looks_at_tokens_refuses_bad_ones(things: Any) -> None:
    operation = things["paths"]["/api/things"]["get"]
    told = refusals(things, operation)
    assert (401, "invalid_token") in told
    assert not {status for status, _ in told} & {403, 413, 429}
    assert operation["security"] == [{}, {"bearer": []}]


def test_security_follows_from_the_policy(things: Any, whole: Any) -> None:
    assert things["paths"]["/api/things/{id}/parts/{part_id}"]["post"]["security"] == [{"bearer": []}]
    assert whole["paths"]["/users"]["post"]["security"] == []
    assert whole["paths"]["/balance"]["get"]["security"] == [{"bearer": []}]


def test_parameters_are_those_of_path_query_and_headers(things: Any) -> None:
    make = things["paths"]["/api/things/{id}/parts/{part_id}"]["post"]["parameters"]
    assert [(one["name"], one["in"], one["schema"]["format"]) for one in make[:2]] == [
        ("id", "path", "uuid"),
        ("part_id", "path", "uuid"),
    ]
    assert [at(things, one["$ref"])["name"] for one in make[2:]] == ["Idempotency-Key", "X-Correlation-ID"]
    size, status, correlation = things["paths"]["/api/things"]["get"]["parameters"]
    assert size == {
        "name": "size",
        "in": "query",
        "required": True,
        "description": "How many.",
        "schema": {"type": "integer", "minimum": 1},
    }
    assert status == {"name": "status", "in": "query", "required": False, "schema": {"type": "string"}}
    assert at(things, correlation["$ref"])["in"] == "header"


def test_a_parameter_that_is_no_id_is_a_text(whole: Any) -> None:
    operation = whole["paths"]["/api/games/users/{name}"]["patch"]
    name = operation["parameters"][0]
    assert (name["name"], name["in"], name["schema"]["type"]) == ("name", "path", "string")
    assert "format" not in name["schema"]
    assert (400, "invalid_uuid_format") not in refusals(whole, operation)


def test_what_is_answered_in_another_dialect_is_no_refusal(whole: Any) -> None:
    bet = whole["paths"]["/transaction/bet"]["post"]
    assert list(bet["responses"]) == ["200"]
    assert bet["security"] == []
    assert (bet["parameters"][0]["name"], bet["parameters"][0]["in"]) == ("X-Hub88-Signature", "header")
    form = at(whole, bet["requestBody"]["content"]["application/json"]["schema"]["$ref"])
    assert form["required"] == ["user", "request_uuid", "transaction_uuid", "currency", "amount"]


def test_what_is_sent(things: Any) -> None:
    content = things["paths"]["/things/{id}/parts/{part_id}"]["post"]["requestBody"]["content"]
    wish = at(things, content["application/json"]["schema"]["$ref"])
    assert wish["required"] == ["user_id", "amount", "password"]
    assert wish["properties"]["amount"]["type"] == ["string", "number"]
    assert wish["properties"]["password"] == {"type": "string", "format": "password", "writeOnly": True, "minLength": 1}
    assert wish["properties"]["user_id"]["format"] == "uuid"
    assert wish["properties"]["note"] == {"anyOf": [{"type": "string", "maxLength": 255}, {"type": "null"}]}
    assert wish["properties"]["kind"] == {"enum": ["a", "b"], "default": "a"}


def test_what_is_answered(things: Any) -> None:
    schemas = things["components"]["schemas"]
    told, part, sparse = schemas["Told"], schemas["Part"], schemas["Sparse"]
    assert told["required"] == ["id", "created_at", "parts", "sparse", "by_name", "status"]
    assert told["properties"]["id"] == {"type": "string", "format": "uuid"}
    assert told["properties"]["created_at"] == {"type": "string", "format": "date-time"}
    assert told["properties"]["status"] == {"type": "string"}
    assert part["properties"]["account_id"]["anyOf"][0] == {"type": "string", "format": "uuid"}
    assert part["properties"]["correlation_id"] == {"type": "string"}
    assert re.fullmatch(part["properties"]["balance"]["pattern"], "-50.00")
    assert not re.fullmatch(part["properties"]["balance"]["pattern"], "5e1")
    assert sparse["required"] == ["name"]


def test_a_success_stands_in_its_envelope_unless_it_is_plain(things: Any) -> None:
    make = things["paths"]["/api/things/{id}/parts/{part_id}"]["post"]["responses"]["201"]
    schema = make["content"]["application/json"]["schema"]
    assert schema["required"] == ["data", "success", "timestamp", "correlation_id"]
    assert schema["properties"]["data"] == {"$ref": "#/components/schemas/Told"}
    find = things["paths"]["/api/things"]["get"]["responses"]["200"]
    assert find["content"]["application/json"]["schema"] == {
        "type": "array",
        "items": {"$ref": "#/components/schemas/Told"},
    }


def test_lists_tell_where_they_stand() -> None:
    document = openapi((listing("/pages", Listed), listing("/stretches", KeysetQuery)))
    for path, name in (("/pages", "OffsetMetadata"), ("/stretches", "KeysetMetadata")):
        schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema["properties"]["metadata"] == {"$ref": f"#/components/schemas/{name}"}
        assert "metadata" in schema["required"]
    page = document["paths"]["/pages"]["get"]["parameters"][0]
    assert page["schema"] == {"type": "integer", "minimum": 1, "default": 1}


def test_responses_tell_their_headers(things: Any) -> None:
    responses = things["paths"]["/api/things/{id}/parts/{part_id}"]["post"]["responses"]
    limits = {"X-Correlation-ID", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"}

    def headers(response: Any) -> set[str]:
        return set((at(things, response["$ref"]) if "$ref" in response else response)["headers"])

    assert headers(responses["201"]) == limits | {"Idempotent-Replayed"}
    assert headers(responses["401"]) == limits | {"WWW-Authenticate"}
    assert headers(responses["429"]) == limits | {"Retry-After"}
    assert headers(responses["503"]) == limits | {"Retry-After"}
    assert headers(things["paths"]["/api/things"]["get"]["responses"]["200"]) == {"X-Correlation-ID"}


def test_types_of_one_name_are_not_mixed_up() -> None:
    sent = msgspec.defstruct("Told", [("name", str)])
    first, second = Things().endpoints()
    clash = Endpoint("PUT", "/x", first.handler, summary="", policy=first.policy, body=sent)
    with pytest.raises(ValueError, match="Told"):
        openapi((first, second, clash))


def test_the_live_streams_are_told(whole: Any) -> None:
    events = whole["paths"]["/api/events"]["get"]
    assert list(events["responses"]["200"]["content"]) == ["text/event-stream"]
    assert "/ws" in next(tag["description"] for tag in whole["tags"] if tag["name"] == "live")


def test_it_is_served_as_it_is_without_an_envelope() -> None:
    things = Things().endpoints()
    server = Server(endpoints=(*things, *DocumentEndpoints(things).endpoints()))
    reply = server.ask("GET", "/api/openapi.json", token=None)
    assert reply.status == 200
    assert reply.header("Content-Type") == "application/json"
    assert reply.json["openapi"] == "3.1.0"
    assert set(reply.json["paths"]) >= {"/api/things", "/api/openapi.json"}
    assert server.ask("GET", "/api/openapi.json", token=None).body == reply.body

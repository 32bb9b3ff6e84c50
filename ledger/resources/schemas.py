"""JSON Schemas of what requests and answers hold, made from their types."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from ledger.domain.secret import Secret

Schema = dict[str, Any]

WHERE: Final = "#/components/schemas/{name}"
UUID: Final[Schema] = {"type": "string", "format": "uuid"}
SECRET: Final[Schema] = {"type": "string", "format": "password", "writeOnly": True}
INSTANT: Final[Schema] = {"format": "date-time"}
MONEY: Final[Schema] = {"pattern": r"^-?[0-9]+(\.[0-9]+)?$", "examples": ["50.00"]}

_ID = re.compile(r"id|.+_id")

# What a text in an answer is, by the name it has everywhere; a type that says more about itself has its own way.
_MEANINGS: Final[tuple[tuple[re.Pattern[str], Schema], ...]] = (
    (re.compile(r"correlation_id"), {}),
    (_ID, {"format": "uuid"}),
    (re.compile(r"at|until|timestamp|as_of|.+_at"), INSTANT),
    (re.compile(r"amount|balance|available|captured|.+_amount|.+_balance"), MONEY),
)
_PARTS: Final = ("anyOf", "items", "additionalProperties", "prefixItems")


def request_schemas(types: Iterable[type[msgspec.Struct]]) -> tuple[list[Schema], dict[str, Schema]]:
    """Return the schemas of what clients send, and the components that these refer to."""
    found, components = _schemas(types)
    for schema in components.values():
        properties = schema.get("properties", {})
        for name, content in properties.items():
            if content.get("default", 0) is None:
                del content["default"]  # it says no more than that the field may be left out
            if name in schema["required"] and content.get("type") == "string" and "pattern" not in content:
                content.setdefault("minLength", 1)
    return found, components


def answer_schemas(types: Iterable[Any]) -> tuple[list[Schema], dict[str, Schema]]:
    """Return the schemas of what clients are answered, and the components that these refer to."""
    types = tuple(types)
    found, components = _schemas(types)
    sparse = {kind.__name__ for kind in _structs(types) if kind.__struct_config__.omit_defaults}
    for name, schema in components.items():
        properties = schema.get("properties", {})
        if schema.get("type") == "object" and name not in sparse:
            schema["required"] = list(properties)
        for field, content in properties.items():
            content.pop("default", None)
            _say_what_it_means(field, content)
    return found, components


def parameters(kind: type[msgspec.Struct], place: str) -> list[Schema]:
    """Return the fields of a type as parameters, as the fields of a query string are."""
    (_, components) = _schemas((kind,))
    schema = components[kind.__name__]
    return [
        {
            "name": name,
            "in": place,
            "required": name in schema["required"],
            **_described(_without_null(content)),
        }
        for name, content in schema["properties"].items()
    ]


def is_id(name: str) -> bool:
    """Whether a text of that name is a UUID."""
    return _ID.fullmatch(name) is not None


def reasons_of(kind: type[msgspec.Struct] | None) -> set[str]:
    """Return the reasons that what is sent of a type can be refused with for its form alone."""
    if kind is None:
        return set()
    fields = msgspec.structs.fields(kind)
    found = {"invalid_request"} | ({"missing_fields"} if any(field.required for field in fields) else set())
    for info in _walk([msgspec.inspect.type_info(kind)]):
        if isinstance(info, msgspec.inspect.Metadata) and info.extra and "reason" in info.extra:
            found.add(str(info.extra["reason"]))
    return found


def _schemas(types: Iterable[Any]) -> tuple[list[Schema], dict[str, Schema]]:
    found, components = msgspec.json.schema_components(types, schema_hook=_custom, ref_template=WHERE)
    for schema in (*found, *components.values()):
        _tidy(schema)
    return list(found), components


def _custom(kind: type) -> Schema:
    if kind is not Secret:
        raise TypeError(f"there is no schema for {kind!r}")
    return dict(SECRET)


def _tidy(schema: Any) -> None:
    """Write patterns as JSON Schema has them, where `$` is the end and `\\Z` is nothing; a type that is told rules."""
    if isinstance(schema, dict):
        if "type" in schema:
            schema.pop("anyOf", None)
        if isinstance(pattern := schema.get("pattern"), str) and pattern.endswith(r"\Z"):
            schema["pattern"] = pattern.removesuffix(r"\Z") + "$"
        for content in schema.values():
            _tidy(content)
    elif isinstance(schema, list):
        for content in schema:
            _tidy(content)


def _without_null(schema: Schema) -> Schema:
    """Return the schema of a parameter, which is left out rather than null."""
    schema = {name: content for name, content in schema.items() if (name, content) != ("default", None)}
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    if len(options) != 1:
        return schema
    return {**{name: content for name, content in schema.items() if name != "anyOf"}, **options[0]}


def _described(schema: Schema) -> Schema:
    """Return a parameter's schema with its description where parameters have theirs."""
    description = schema.pop("description", None)
    return {"schema": schema} if description is None else {"description": description, "schema": schema}


def _say_what_it_means(field: str, schema: Schema) -> None:
    if schema.get("type") == "string" and not schema.keys() & {"format", "pattern", "enum"}:
        for name, meaning in _MEANINGS:
            if name.fullmatch(field):
                schema.update(meaning)
                return
    for part in _PARTS:
        inner = schema.get(part)
        for content in inner if isinstance(inner, list) else (inner,):
            if isinstance(content, dict):
                _say_what_it_means(field, content)


def _structs(types: Iterable[Any]) -> set[type[msgspec.Struct]]:
    """Return all Structs that these types are made of."""
    infos = _walk(msgspec.inspect.multi_type_info(types))
    return {info.cls for info in infos if isinstance(info, msgspec.inspect.StructType)}


def _walk(infos: Iterable[msgspec.inspect.Type]) -> Iterator[msgspec.inspect.Type]:
    """Give all types that these are made of, themselves included."""
    seen: set[type[msgspec.Struct]] = set()
    waiting = list(infos)
    while waiting:
        info = waiting.pop()
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls in seen:
                continue
            seen.add(info.cls)
            waiting += [field.type for field in info.fields]
        for name in ("type", "item_type", "item_types", "types", "key_type", "value_type"):
            part = getattr(info, name, ())
            waiting += part if isinstance(part, tuple) else (part,)
        yield info

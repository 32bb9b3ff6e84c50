"""Pages of lists: what may be asked for, and where a page stands."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from ledger.domain.errors import Refused
from ledger.resources.paging import (
    LARGEST,
    KeysetQuery,
    OffsetQuery,
    Window,
    limit_of,
    order_of,
    place_of,
    stretch,
    window,
)
from ledger.resources.reading import Id, Reader
from tests.strategies import examples

READ = Reader(OffsetQuery)
READ_KEYSET = Reader(KeysetQuery)
FIELDS = ("email", "role", "created_at")
BAD_NUMBERS = (
    "0",
    "-1",
    "00",
    "+1",
    "1.0",
    "1e3",
    "abc",
    "",
    " 1",
    "1 ",
    "true",
    "null",
    "0x10",
    "٣",
    "1_000",
    "9" * 1_001,
)


class Place(msgspec.Struct, frozen=True):
    """A place as lists have it."""

    at: Annotated[datetime, Meta(tz=True)]
    id: Id


def refusal(work: Any, *arguments: Any) -> tuple[str, Any]:
    """What some work is refused with, and the field to blame."""
    with pytest.raises(Refused) as refused:
        work(*arguments)
    return refused.value.reason, refused.value.details.get("field")


def test_what_is_left_out_is_the_first_page_of_twenty() -> None:
    assert window(READ.query(b"")) == Window(1, 20)
    assert limit_of(READ_KEYSET.query(b"")) == 20


@pytest.mark.parametrize("name", ["page", "page_size"])
@pytest.mark.parametrize("value", BAD_NUMBERS)
def test_what_is_not_a_positive_integer(name: str, value: str) -> None:
    query = f"{name}={quote(value)}".encode()
    assert refusal(lambda: window(READ.query(query))) == ("invalid_pagination", name)


@pytest.mark.parametrize("value", BAD_NUMBERS)
def test_a_limit_that_is_not_a_positive_integer(value: str) -> None:
    query = f"limit={quote(value)}".encode()
    assert refusal(lambda: limit_of(READ_KEYSET.query(query))) == ("invalid_pagination", "limit")


def test_more_than_the_largest_is_the_largest() -> None:
    huge = "9" * 1_000
    assert window(READ.query(f"page=007&page_size={huge}".encode())) == Window(7, LARGEST)
    assert window(READ.query(b"page_size=101")).page_size == LARGEST
    assert limit_of(READ_KEYSET.query(f"limit={huge}".encode())) == LARGEST
    far = window(READ.query(f"page={huge}".encode()))
    pagination = far.metadata(5).pagination
    assert (pagination.page, pagination.has_next, pagination.has_prev) == (int(huge), False, True)
    assert msgspec.json.encode(pagination).startswith(b'{"page":999')


@given(st.integers(1, 30), st.integers(1, 100), st.integers(0, 500))
@examples(200)
def test_where_a_page_stands(page: int, size: int, total: int) -> None:
    items = range(total)
    here = Window(page, size)
    told = items[here.offset : here.offset + size]
    pagination = here.metadata(total).pagination
    assert pagination.total_pages == math.ceil(total / size)
    assert pagination.total_count == total
    assert pagination.has_next == bool(items[here.offset + len(told) :]) or not told
    assert pagination.has_next == (here.offset + size < total)
    assert pagination.has_prev == (page > 1)


def test_the_form_of_what_is_told_beside_a_page() -> None:
    assert msgspec.to_builtins(Window(2, 10).metadata(31)) == {
        "pagination": {
            "page": 2,
            "page_size": 10,
            "total_count": 31,
            "total_pages": 4,
            "has_next": True,
            "has_prev": True,
        }
    }


def test_an_order() -> None:
    assert order_of(None, FIELDS, [("email", True)]) == [("email", True)]
    assert order_of("role:desc,email:asc", FIELDS, ()) == [("role", True), ("email", False)]
    assert order_of("role", FIELDS, ()) == [("role", False)]


@pytest.mark.parametrize(
    "sort",
    ["", "name:asc", "email:up", "email:", "email:ASC", "email:asc,email:desc", "email:asc,", ",", "email:asc:desc",
     "email:asc, role:asc", "id;drop table users", "inserted_at:asc"],
)  # fmt: skip
def test_an_order_that_there_is_not(sort: str) -> None:
    assert refusal(order_of, sort, FIELDS, ()) == ("invalid_sort", "sort")


def test_a_place() -> None:
    identity = "01980A2E-7c1f-7d3a-9b5e-4f2d6c8a1e01"
    read = place_of(f'{{"at":"2024-01-01T00:00:00.123456Z","id":"{identity}","more":1}}', Place)
    assert read is not None
    assert (read.at.isoformat(), read.id) == ("2024-01-01T00:00:00.123456+00:00", identity.lower())
    assert place_of(None, Place) is None


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "{}", "[]", "null", '"x"', '{"at":"2024-01-01T00:00:00Z"}', '{"at":"2024-01-01T00:00:00Z","id":"1"}',
     '{"at":"2024-01-01","id":"01980a2e-7c1f-7d3a-9b5e-4f2d6c8a1e01"}',
     '{"at":"2024-01-01T00:00:00","id":"01980a2e-7c1f-7d3a-9b5e-4f2d6c8a1e01"}',
     '{"at":"2024-13-01T00:00:00Z","id":"01980a2e-7c1f-7d3a-9b5e-4f2d6c8a1e01"}',
     '{"at":1704067200,"id":"01980a2e-7c1f-7d3a-9b5e-4f2d6c8a1e01"}',
     '{"at":null,"id":null}', '{"x":' + "[" * 5_000, "\x00", "{}{}"],
)  # fmt: skip
def test_a_place_that_cannot_be_read(cursor: str) -> None:
    assert refusal(place_of, cursor, Place) == ("invalid_cursor", "cursor")


@given(st.lists(st.integers(), max_size=30), st.integers(1, 10))
@examples(200)
def test_stretches_make_the_list(items: list[int], limit: int) -> None:
    told: list[int] = []
    start = 0
    while True:
        some, metadata = stretch(list(enumerate(items))[start : start + limit + 1], limit, lambda item: item[0])
        told += [item for _, item in some]
        pagination = metadata.pagination
        assert (pagination.type, pagination.limit) == ("keyset", limit)
        assert pagination.has_more == (len(told) < len(items))
        assert (pagination.next_cursor is None) == (not pagination.has_more)
        if not pagination.has_more:
            break
        start = pagination.next_cursor + 1
    assert told == items


def test_the_schema_says_integer() -> None:
    schema = msgspec.json.schema(OffsetQuery)["$defs"]["OffsetQuery"]["properties"]
    for name, default in (("page", 1), ("page_size", 20)):
        assert (schema[name]["type"], schema[name]["minimum"], schema[name]["default"]) == ("integer", 1, default)

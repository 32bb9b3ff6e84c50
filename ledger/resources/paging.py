"""Lists in pages: by number, with totals, or from a place onwards, which stays right while the list grows."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from ledger.domain.errors import Refused
from ledger.resources.reading import Reader, identifier

PAGE_SIZE: Final = 20
LARGEST: Final = 100

T = TypeVar("T")
C = TypeVar("C", bound=msgspec.Struct)

_reader = lru_cache(Reader)

_is_number = re.compile(r"0*[1-9][0-9]*\Z").match
_LONGEST: Final = 1_000  # digits
_is_place = re.compile(r"[1-9][0-9]{0,18}\Z").match
_LARGEST_PLACE: Final = 2**63 - 1

# Text too, so that what is no number is refused here, for the reason that lists have.
Number = Annotated[int | str, Meta(extra_json_schema={"type": "integer", "minimum": 1})]


class OffsetQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which page, of which size, in which order."""

    page: Number = 1
    page_size: Number = PAGE_SIZE
    sort: Annotated[str, Meta(examples=["email:asc,created_at:desc"])] | None = None


class KeysetQuery(msgspec.Struct, frozen=True, kw_only=True):
    """How many, and after which place: the `next_cursor` of the page before."""

    limit: Number = PAGE_SIZE
    cursor: str | None = None


class OffsetPagination(msgspec.Struct, frozen=True):
    """Where a page stands in its list."""

    page: int
    page_size: int
    total_count: int
    total_pages: int
    has_next: bool
    has_prev: bool


class KeysetPagination(msgspec.Struct, frozen=True, kw_only=True):
    """How a list goes on."""

    type: Literal["keyset"] = "keyset"
    limit: int
    has_more: bool
    next_cursor: Any


class OffsetMetadata(msgspec.Struct, frozen=True):
    """What is told beside a page."""

    pagination: OffsetPagination


class KeysetMetadata(msgspec.Struct, frozen=True):
    """What is told beside a stretch of a list."""

    pagination: KeysetPagination


class Window(msgspec.Struct, frozen=True):
    """The page that is asked for."""

    page: int
    page_size: int

    @property
    def offset(self) -> int:
        """How many items stand before it; any size, so it is for the store to bound it."""
        return (self.page - 1) * self.page_size

    def metadata(self, total: int) -> OffsetMetadata:
        """Tell where it stands in a list of so many items."""
        pages = -(-total // self.page_size)
        return OffsetMetadata(
            OffsetPagination(self.page, self.page_size, total, pages, self.page < pages, self.page > 1)
        )


def window(query: OffsetQuery) -> Window:
    """Return the page that a query asks for, or refuse with `invalid_pagination`."""
    return Window(_positive(query.page, "page"), min(_positive(query.page_size, "page_size"), LARGEST))


def limit_of(query: KeysetQuery) -> int:
    """Return how many items a query asks for, or refuse with `invalid_pagination`."""
    return min(_positive(query.limit, "limit"), LARGEST)


def order_of(sort: str | None, fields: Collection[str], default: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Return the fields to sort by, each with whether it descends, or refuse with `invalid_sort`."""
    if sort is None:
        return list(default)
    order: dict[str, bool] = {}
    for part in sort.split(","):
        field, colon, direction = part.partition(":")
        if field not in fields or field in order or (direction if colon else "asc") not in ("asc", "desc"):
            raise Refused("invalid_sort", field="sort", fields=list(fields))
        order[field] = direction == "desc"
    return list(order.items())


def place_of(cursor: str | None, kind: type[C]) -> C | None:
    """Return the place that a cursor, a JSON object, stands for, or refuse with `invalid_cursor`."""
    if cursor is None:
        return None
    try:
        place: C = _reader(kind).body(cursor.encode())
    except Refused:
        raise Refused("invalid_cursor", field="cursor") from None
    return place


def id_of(cursor: str | None) -> str | None:
    """Return the id that a cursor is, or refuse with `invalid_cursor`."""
    try:
        return None if cursor is None else identifier(cursor, "cursor")
    except Refused:
        raise Refused("invalid_cursor", field="cursor") from None


def number_of(cursor: str | None) -> int | None:
    """Return the number above zero that a cursor is, or refuse with `invalid_cursor`."""
    if cursor is None:
        return None
    if not _is_place(cursor) or int(cursor) > _LARGEST_PLACE:
        raise Refused("invalid_cursor", field="cursor")
    return int(cursor)


def stretch(found: Sequence[T], limit: int, cursor_of: Callable[[T], Any]) -> tuple[Sequence[T], KeysetMetadata]:
    """Return the items to tell, and how the list goes on; one item more than the limit is to be found, if there is."""
    told, has_more = found[:limit], len(found) > limit
    following = cursor_of(told[-1]) if has_more else None
    return told, KeysetMetadata(KeysetPagination(limit=limit, has_more=has_more, next_cursor=following))


def _positive(value: int | str, field: str) -> int:
    text = str(value)
    if len(text) > _LONGEST or not _is_number(text):
        raise Refused("invalid_pagination", field=field)
    return int(text)

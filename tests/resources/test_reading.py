"""Reading queries: texts stay texts, and instants are those of UTC or refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec
import pytest

from ledger.domain.errors import Refused
from ledger.domain.secret import Secret
from ledger.resources.reading import Id, Moment, Reader


class Choice(msgspec.Struct, frozen=True):
    """One of few."""

    kind: Literal["a", "b"]


class Search(msgspec.Struct, frozen=True):
    """What is looked for."""

    since: Moment | None = msgspec.field(name="from", default=None)
    owner: Id | None = None
    word: str | None = None
    many: int | None = None


class LogIn(msgspec.Struct, frozen=True):
    """A form with a secret."""

    password: Secret


SEARCH = Reader(Search)
LOG_IN = Reader(LogIn)


def refusal(query: bytes) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        SEARCH.query(query)
    return caught.value.reason, caught.value.details["field"]


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        (b"2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (b"2026-01-02T03:04:05%2B22:59", datetime(2026, 1, 1, 4, 5, 5, tzinfo=UTC)),
        (b"2026-01-02T03:04:05-23:59", datetime(2026, 1, 3, 3, 3, 5, tzinfo=UTC)),
    ],
)
def test_an_instant_is_read_as_one_of_utc(text: bytes, instant: datetime) -> None:
    since = SEARCH.query(b"from=" + text).since
    assert since == instant
    assert since is not None
    assert since.tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        b"0001-01-01T00:00:00%2B01:00",
        b"9999-12-31T23:59:59-01:00",
        b"2026-01-02T03:04:05",
        b"null",
        b"",
        b"yes",
        b"0.5",
        b"17",
    ],
)
def test_what_is_no_instant_is_refused(text: bytes) -> None:
    assert refusal(b"from=" + text) == ("invalid_datetime_format", "from")


def test_null_is_a_word_like_any_other() -> None:
    assert SEARCH.query(b"word=null").word == "null"
    assert SEARCH.query(b"word=NULL").word == "NULL"
    assert SEARCH.query(b"").word is None
    assert refusal(b"owner=null") == ("invalid_uuid_format", "owner")
    assert refusal(b"many=null") == ("invalid_request", "many")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{}", "missing_fields"),
        (b'{"password": null}', "missing_fields"),
        (b'{"password": " "}', "missing_fields"),
        (b'{"password": 12345678}', "invalid_request"),
        (b'{"password": ["hunter2"]}', "invalid_request"),
    ],
)
def test_a_secret_is_required_and_text(body: bytes, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        LOG_IN.body(body)
    assert (caught.value.reason, caught.value.details["field"]) == (reason, "password")
    assert "hunter2" not in repr(caught.value)
    assert LOG_IN.body(b'{"password": "hunter2"}').password.reveal() == "hunter2"


def test_a_value_that_is_not_known_is_not_repeated() -> None:
    choice = Reader(Choice)
    with pytest.raises(Refused) as asked:
        choice.query(b"kind='whatever'")
    with pytest.raises(Refused) as told:
        choice.body(b'{"kind": "whatever"}')
    for caught in (asked, told):
        assert caught.value.details == {"field": "kind"}
        assert "whatever" not in caught.value.message

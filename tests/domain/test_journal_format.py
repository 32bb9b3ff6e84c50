"""The form of records: the golden vectors of docs/journal-format.md, by the code and by hand."""

from __future__ import annotations

import json
import re
from hashlib import blake2b, sha256
from pathlib import Path
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger.domain.accounts import Account, world_id
from ledger.domain.book import Book, fingerprint_of
from ledger.domain.cash import Credit
from ledger.domain.commands import Sealed
from ledger.domain.journal import (
    GENESIS,
    START,
    Entry,
    Record,
    body_of,
    canonical,
    entry_id,
    entry_ids,
    read_body,
    seal,
)
from tests.domain.kinds import SetStatus
from tests.strategies import examples, ordinary

DOCUMENT = (Path(__file__).parents[2] / "docs" / "journal-format.md").read_text()

USER = "01980a2e-7c1f-7d3a-9b5e-4f2d6c8a1e00"
ACCOUNT = "01980a2e-7c1f-7d3a-9b5e-4f2d6c8a1e01"


def blocks(name: str) -> list[str]:
    """The contents of the document's blocks of one name."""
    return re.findall(rf"^```\w+ {name}\n(.*?)\n```$", DOCUMENT, re.MULTILINE | re.DOTALL)


BODIES = [body.encode() for body in blocks("body")]
HASHES = [bytes.fromhex(digest) for digest in blocks("hash")]


def test_the_bytes_are_those_of_the_document() -> None:
    world = Account(world_id("USD/2"), None, "USD/2", "WORLD", "ACTIVE", 0, 0, 0, 0)
    book = Book(START, "2026-01-02T03:04:05.678901Z", {world.id: world, ACCOUNT: ordinary(ACCOUNT)})
    credit = Credit(
        id="01980a2e-8000-7000-8000-00000000ffff",
        scope=USER,
        key="first-pay",
        description="Pay “May”\n",
        metadata={"b": [1, None], "a": {"d": True, "c": "é"}},
        account_id=ACCOUNT,
        user_id=USER,
        asset="USD/2",
        amount=5_000,
    )
    first = book.decide(credit)
    book.instant = "2026-01-02T03:04:06.000000Z"
    second = book.decide(SetStatus(id="01980a2e-8000-7000-8000-000000010007", account_id=ACCOUNT, status="FROZEN"))
    assert isinstance(first, Sealed)
    assert isinstance(second, Sealed)
    assert [first.body, second.body] == BODIES
    assert [first.hash, second.hash] == HASHES


def test_the_hashes_by_hand() -> None:
    previous = bytes(32)
    assert previous == GENESIS
    for body, digest in zip(BODIES, HASHES, strict=True):
        previous = sha256(previous + body).digest()
        assert previous == digest
    assert seal(seal(GENESIS, BODIES[0]), BODIES[1]) == HASHES[1]


def test_the_fingerprint_by_hand() -> None:
    (content,) = blocks("content")
    record = json.loads(BODIES[0])
    assert record["fingerprint"] == "1:" + blake2b(content.encode(), digest_size=16).hexdigest()


def test_the_ids_of_entries() -> None:
    record = read_body(BODIES[0])
    assert [entry_id(record.id, index) for index in range(len(record.entries))] == blocks("entries")[0].splitlines()


def test_a_kept_body_is_read_and_written_byte_for_byte() -> None:
    assert [body_of(read_body(body)) for body in BODIES] == BODIES


def test_what_is_null_is_left_out_and_what_is_empty_is_not() -> None:
    bare = Record(v=1, seq=1, id=USER, kind="note", posted_at="2026-01-02T03:04:05.678901Z")
    start = f'{{"v":1,"seq":1,"id":"{USER}","kind":"note","posted_at":"2026-01-02T03:04:05.678901Z"'
    assert body_of(bare).decode() == start + "}"
    metadata: dict[str, object] = {"b": None, "a": {}, "c": [], "d": ""}
    for changed, said in (
        (replace(bare, entries=(), changes=()), ""),
        (replace(bare, description="", metadata={}), ',"description":"","metadata":{}'),
        (replace(bare, metadata=metadata), ',"metadata":{"a":{},"b":null,"c":[],"d":""}'),
    ):
        assert body_of(changed).decode() == f"{start}{said}}}"
        assert body_of(read_body(body_of(changed))) == body_of(changed)


def test_the_bodies_are_what_any_reader_of_json_sees() -> None:
    for body in BODIES:
        assert next(iter(json.loads(body))) == "v"
        assert json.dumps(json.loads(body), ensure_ascii=False, separators=(",", ":")).encode() == body


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(texts, values, max_size=5))
@examples(200)
def test_the_canonical_form_is_the_one_that_the_document_describes(metadata: dict[str, object]) -> None:
    by_hand = json.dumps(metadata, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    assert canonical(metadata).decode() == by_hand
    assert "\n" not in by_hand


@given(st.uuids(), st.integers(0, 10_000))
@examples(200)
def test_entry_ids_follow_the_records(record: UUID, index: int) -> None:
    by_hand = (record.int >> 48 << 48) + (record.int + index + 1) % 2**48
    assert entry_id(str(record), index) == str(UUID(int=by_hand))


@given(st.lists(st.tuples(st.uuids(), st.integers(0, 255), st.sampled_from([0, 1, 2, 2, 3])), max_size=9))
@examples(200)
def test_the_ids_of_many_entries_are_those_of_each(some: list[tuple[UUID, int, int]]) -> None:
    entry = Entry(ACCOUNT, 1, 1, 0, 1, 1)
    bare = Record(v=1, seq=1, id="", kind="note", posted_at="")
    records = [replace(bare, id=f"{str(name)[:34]}{last:02x}", entries=(entry,) * many) for name, last, many in some]
    assert entry_ids(records) == [entry_id(one.id, index) for one in records for index in range(len(one.entries))]


def test_the_same_request_has_the_same_fingerprint() -> None:
    def credit(account: str = ACCOUNT, amount: int = 1, description: str | None = None) -> Credit:
        return Credit(id=USER, account_id=account, user_id=USER, asset="USD/2", amount=amount, description=description)

    assert fingerprint_of(credit()) == fingerprint_of(credit())
    others = [credit(account=USER), credit(amount=2), credit(description=""), credit(description="x")]
    assert len({fingerprint_of(command) for command in (credit(), *others)}) == 5

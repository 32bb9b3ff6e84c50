"""What becomes of a job after each outcome of an attempt."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.errors import CATALOGUE, Category, Refused
from ledger.domain.jobs import (
    DONE,
    ENDED,
    LONGEST_DELAY,
    QUEUES,
    STATES,
    Cancel,
    Claimed,
    Snooze,
    Step,
    Trouble,
    after,
    beyond_hope,
    clean,
    trouble_of,
)

JOB = Claimed("i", "default", "work", {}, 5, attempt=1, max_attempts=4, timeout=1.0, fence=1)


def job(**changes: Any) -> Claimed:
    changed: Claimed = msgspec.structs.replace(JOB, **changes)
    return changed


def test_the_queues_of_the_document() -> None:
    assert dict(QUEUES) == {"banking": 3, "payments": 2, "notifications": 3, "holds": 1, "default": 1}
    assert set(ENDED) < set(STATES)


def test_outcomes_that_need_no_reason() -> None:
    assert after(None, JOB, 0.5) == DONE
    assert after(Snooze(7), JOB, 0.5) == Step("scheduled", 7.0, uncounted=True)
    assert after(Snooze(-7), JOB, 0.5).delay == 0.0
    assert after(Snooze(1e300), JOB, 0.5).delay == LONGEST_DELAY
    assert after(Cancel("enough"), JOB, 0.5) == Step("cancelled", trouble=Trouble("cancelled", "enough"))


@pytest.mark.parametrize("reason", CATALOGUE)
def test_refusals_are_tried_again_as_their_category_says(reason: str) -> None:
    category = CATALOGUE[reason].category
    attempts = {Category.SYSTEM: 3, Category.EXTERNAL_DEPENDENCY: 4}.get(category, 1)
    for attempt in range(1, 6):
        step = after(Refused(reason), job(attempt=attempt), 0.5)
        assert step.trouble == Trouble(reason, CATALOGUE[reason].message)
        assert step.state == ("retryable" if attempt < attempts else "dead")
        assert (step.delay is not None) == (attempt < attempts)


def test_a_worker_may_want_fewer_attempts() -> None:
    assert after(Refused("timeout"), job(attempt=1, max_attempts=2), 0).state == "retryable"
    assert after(Refused("timeout"), job(attempt=2, max_attempts=2), 0).state == "dead"


def test_what_was_not_foreseen_tells_its_name_only() -> None:
    step = after(KeyError("secret"), JOB, 0)
    assert step == Step("retryable", 0.5, Trouble("internal_server_error", "KeyError"))


def test_a_job_that_was_begun_too_often_or_is_final_is_beyond_hope() -> None:
    assert beyond_hope(job(attempt=4)) is None
    begun_too_often = beyond_hope(job(attempt=5))
    assert begun_too_often is not None
    assert begun_too_often.reason == "internal_server_error"
    final = Trouble("insufficient_funds", "No money")
    assert beyond_hope(job(attempt=9, final=final)) == final


def test_a_trouble_is_a_refusal_again() -> None:
    refused = trouble_of(Refused("insufficient_funds", "No money", account_id="1")).refusal()
    assert (refused.reason, refused.message, refused.details) == ("insufficient_funds", "No money", {})
    assert Trouble("of another version", "x").refusal().reason == "internal_server_error"


@given(st.text(st.characters(exclude_categories=()), max_size=2_000))
def test_a_cleaned_text_can_be_kept(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned) <= 500
    assert "\0" not in cleaned
    assert cleaned.encode().decode() == cleaned

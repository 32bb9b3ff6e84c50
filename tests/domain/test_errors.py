"""The catalogue: every reason that the documents promise, in the category they promise it in."""

from __future__ import annotations

import pytest

from ledger.domain.errors import CATALOGUE, Category, Refused, unavailable

PROMISED = {
    Category.VALIDATION: "invalid_amount_format missing_fields invalid_direction invalid_email_format "
    "invalid_password_format invalid_uuid_format invalid_datetime_format invalid_name_format invalid_role "
    "invalid_status invalid_payment_type invalid_currency_format invalid_account_type "
    "invalid_request invalid_idempotency_key invalid_pagination invalid_cursor invalid_sort",
    Category.NOT_FOUND: "user_not_found account_not_found payment_not_found token_not_found bank_not_found "
    "resource_not_found",
    Category.AUTHENTICATION: "invalid_credentials invalid_password invalid_token token_expired token_revoked "
    "invalid_token_type",
    Category.AUTHORIZATION: "forbidden insufficient_permissions unauthorized_access",
    Category.CONFLICT: "email_already_exists already_processed duplicate_transaction version_conflict",
    Category.BUSINESS_RULE: "insufficient_funds account_inactive daily_limit_exceeded amount_exceeds_limit "
    "negative_amount negative_balance currency_mismatch account_frozen account_suspended account_not_empty "
    "period_closed",
    Category.METHOD: "method_not_allowed",
    Category.PAYLOAD: "payload_too_large",
    Category.RATE_LIMIT: "rate_limit_exceeded",
    Category.EXTERNAL_DEPENDENCY: "timeout service_unavailable bank_api_error payment_provider_error",
    Category.SYSTEM: "internal_server_error database_error configuration_error",
}

WIRE = {
    Category.VALIDATION: ("validation_error", 400),
    Category.AUTHENTICATION: ("unauthorized", 401),
    Category.AUTHORIZATION: ("forbidden", 403),
    Category.NOT_FOUND: ("not_found", 404),
    Category.METHOD: ("method_not_allowed", 405),
    Category.CONFLICT: ("conflict", 409),
    Category.PAYLOAD: ("payload_too_large", 413),
    Category.BUSINESS_RULE: ("unprocessable_entity", 422),
    Category.RATE_LIMIT: ("rate_limit_exceeded", 429),
    Category.SYSTEM: ("internal_server_error", 500),
    Category.EXTERNAL_DEPENDENCY: ("service_unavailable", 503),
}

RETRIES = {Category.EXTERNAL_DEPENDENCY: (3, 1000), Category.SYSTEM: (2, 500)}


@pytest.mark.parametrize("category", list(Category))
def test_every_promised_reason_is_there(category: Category) -> None:
    assert {name for name, row in CATALOGUE.items() if row.category is category} >= set(PROMISED[category].split())


@pytest.mark.parametrize("category", list(Category))
def test_how_a_category_looks_on_the_wire(category: Category) -> None:
    assert (category.wire_type, category.status) == WIRE[category]
    assert (category.retries, category.delay_ms) == RETRIES.get(category, (0, 0))
    assert category.retryable == (category in RETRIES)


def test_every_reason_has_a_name_and_a_sentence() -> None:
    for name, row in CATALOGUE.items():
        assert row.name == name
        assert row.message[0].isupper()
        assert not row.message.endswith(".")


def test_a_refusal_says_its_reason_and_its_details() -> None:
    refused = Refused("insufficient_funds", account_id="1")
    assert (refused.reason, refused.category) == ("insufficient_funds", Category.BUSINESS_RULE)
    assert refused.message == CATALOGUE["insufficient_funds"].message
    assert refused.details == {"account_id": "1"}
    assert Refused("forbidden", "Not you").message == "Not you"
    assert "insufficient_funds" in repr(refused)


def test_only_catalogued_reasons_can_be_given() -> None:
    with pytest.raises(KeyError):
        Refused("because")


def test_an_outage_says_what_became_of_it() -> None:
    assert unavailable().details == {"outcome": "not_done", "retry_after": 1}
    assert unavailable("unknown").details["outcome"] == "unknown"
    assert unavailable().category.status == 503

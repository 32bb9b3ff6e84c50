"""The one error catalogue: every reason the product refuses with, its category, and what a client should do."""

from enum import Enum
from types import MappingProxyType
from typing import Any, Final

import msgspec


class ConfigurationError(Exception):
    """The server cannot start as configured; the message is one line for whoever runs it."""


class Category(Enum):
    """What kind of trouble a reason is: (wire `type`, HTTP status, attempts after the first, delay in ms)."""

    VALIDATION = ("validation_error", 400, 0, 0)
    AUTHENTICATION = ("unauthorized", 401, 0, 0)
    AUTHORIZATION = ("forbidden", 403, 0, 0)
    NOT_FOUND = ("not_found", 404, 0, 0)
    CONFLICT = ("conflict", 409, 0, 0)
    BUSINESS_RULE = ("unprocessable_entity", 422, 0, 0)
    METHOD = ("method_not_allowed", 405, 0, 0)
    PAYLOAD = ("payload_too_large", 413, 0, 0)
    RATE_LIMIT = ("rate_limit_exceeded", 429, 0, 0)
    SYSTEM = ("internal_server_error", 500, 2, 500)
    EXTERNAL_DEPENDENCY = ("service_unavailable", 503, 3, 1000)

    def __init__(self, wire_type: str, status: int, retries: int, delay_ms: int) -> None:
        self.wire_type = wire_type
        self.status = status
        self.retries = retries
        self.delay_ms = delay_ms

    @property
    def retryable(self) -> bool:
        """Whether trying the same thing again later can help."""
        return self.retries > 0


class Reason(msgspec.Struct, frozen=True):
    """One row of the catalogue."""

    name: str
    category: Category
    message: str


_ROWS: Final[dict[Category, dict[str, str]]] = {
    Category.VALIDATION: {
        "invalid_request": "The request could not be read",
        "missing_fields": "A required field is missing or empty",
        "invalid_amount_format": "The amount must be a plain decimal within the currency's scale",
        "invalid_direction": "The direction is not known",
        "invalid_email_format": "The e-mail address is not valid",
        "invalid_password_format": "The password does not meet the rules",
        "invalid_uuid_format": "The id is not a UUID",
        "invalid_datetime_format": "The date or time is not valid",
        "invalid_name_format": "The name is not valid",
        "invalid_role": "The role is not known",
        "invalid_status": "The status is not known",
        "invalid_payment_type": "The payment type is not known",
        "invalid_currency_format": "The currency is not known",
        "invalid_account_type": "The account type is not known",
        "invalid_idempotency_key": "The idempotency key must be 1 to 255 printable ASCII characters",
        "invalid_pagination": "Page and size must be positive integers",
        "invalid_cursor": "The cursor cannot be read",
        "invalid_sort": "The sort field is not known",
    },
    Category.AUTHENTICATION: {
        "invalid_credentials": "The e-mail address or password is wrong",
        "invalid_password": "The password is wrong",
        "invalid_token": "The token is missing, unknown or revoked",
        "token_expired": "The token has expired",
        "token_revoked": "The token has been revoked",
        "invalid_token_type": "The token is of the wrong type",
    },
    Category.AUTHORIZATION: {
        "forbidden": "This is not allowed",
        "insufficient_permissions": "The caller may not do this",
        "unauthorized_access": "This belongs to somebody else",
    },
    Category.NOT_FOUND: {
        "resource_not_found": "There is nothing at this path",
        "user_not_found": "The user does not exist",
        "account_not_found": "The account does not exist",
        "payment_not_found": "The payment does not exist",
        "token_not_found": "The token does not exist",
        "transfer_not_found": "The transfer does not exist",
        "hold_not_found": "The hold does not exist",
        "job_not_found": "The job does not exist",
        "bank_not_found": "The bank does not exist",
    },
    Category.CONFLICT: {
        "email_already_exists": "The e-mail address is taken",
        "already_processed": "This has been done already",
        "duplicate_transaction": "The idempotency key was used for another request",
        "version_conflict": "The account has changed since",
    },
    Category.BUSINESS_RULE: {
        "insufficient_funds": "The available balance does not cover this",
        "account_inactive": "The account is not active",
        "daily_limit_exceeded": "The daily limit does not allow this",
        "amount_exceeds_limit": "The amount is above the limit",
        "negative_amount": "The amount must be above zero",
        "negative_balance": "The balance would fall below its limit",
        "currency_mismatch": "The currencies differ",
        "account_frozen": "The account is frozen",
        "account_suspended": "The account is suspended",
        "account_not_empty": "The account still holds money",
        "period_closed": "The period is closed",
    },
    Category.METHOD: {"method_not_allowed": "The method is not allowed here"},
    Category.PAYLOAD: {"payload_too_large": "The body is too large"},
    Category.RATE_LIMIT: {"rate_limit_exceeded": "Too many requests; try again later"},
    Category.SYSTEM: {
        "internal_server_error": "Something went wrong on our side",
        "database_error": "The database refused the operation",
        "configuration_error": "The server is not configured for this",
    },
    Category.EXTERNAL_DEPENDENCY: {
        "timeout": "The operation took too long",
        "service_unavailable": "The service is not available at the moment",
        "bank_api_error": "The bank did not answer properly",
        "payment_provider_error": "The payment provider did not answer properly",
    },
}

CATALOGUE: Final = MappingProxyType(
    {name: Reason(name, category, message) for category, rows in _ROWS.items() for name, message in rows.items()}
)


class Refused(Exception):
    """An operation was refused for a catalogued reason; `details` is safe to show to the client."""

    def __init__(self, reason: str, message: str | None = None, **details: Any) -> None:
        row = CATALOGUE[reason]
        super().__init__(message or row.message)
        self.reason = reason
        self.category = row.category
        self.details = details

    @property
    def message(self) -> str:
        """What to tell the user."""
        return str(self.args[0])

    def __repr__(self) -> str:
        return f"Refused({self.reason!r}, {self.details!r})"


def unavailable(outcome: str = "not_done", retry_after: int = 1) -> Refused:
    """The refusal of an operation that overload or an outage kept from being done, or left in doubt."""
    return Refused("service_unavailable", outcome=outcome, retry_after=retry_after)

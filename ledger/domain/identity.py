"""Names, e-mail addresses and passwords: what they must look like."""

import re
from typing import Final

from ledger.domain.errors import Refused

MAX_NAME: Final = 255
MAX_EMAIL: Final = 255
MIN_PASSWORD: Final = 8
MIN_PRIVILEGED_PASSWORD: Final = 15
MAX_PASSWORD_BYTES: Final = 72  # bcrypt looks at no more

_EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f]+@[^@\s\x00-\x1f\x7f]+\Z")


def check_name(name: str, field: str = "name") -> str:
    """Return a name without the white space around it, or refuse one that is blank or too long."""
    name = name.strip()
    if not name:
        raise Refused("missing_fields", field=field, fields=[field])
    if len(name) > MAX_NAME or "\0" in name:
        raise Refused("invalid_name_format", field=field)
    return name


def normalise_email(email: str, field: str = "email") -> str:
    """Return the form of an address that is kept and compared, or refuse what is none."""
    email = email.strip().lower()
    if len(email) > MAX_EMAIL or not _EMAIL.match(email):
        raise Refused("invalid_email_format", field=field)
    return email


def minimum_password(role: str) -> int:
    """How many characters a password must have at least, by the role of its user."""
    return MIN_PRIVILEGED_PASSWORD if role in ("admin", "support") else MIN_PASSWORD


def check_password(password: str, role: str = "user", field: str = "password") -> None:
    """Refuse a password that is too short for the role, too long for bcrypt, or not text."""
    minimum = minimum_password(role)
    try:
        size = len(password.encode())
    except UnicodeEncodeError:
        raise Refused("invalid_password_format", field=field) from None
    if len(password) < minimum or size > MAX_PASSWORD_BYTES or "\0" in password:
        raise Refused("invalid_password_format", field=field, minimum=minimum, maximum_bytes=MAX_PASSWORD_BYTES)

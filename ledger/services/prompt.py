"""Asking whoever runs a command for a password."""

import sys
from getpass import getpass

from ledger.domain.errors import Refused
from ledger.domain.identity import MAX_PASSWORD_BYTES, check_password, minimum_password
from ledger.domain.secret import Secret


def ask_password(role: str) -> Secret:
    """Ask twice on a terminal, which shows nothing of it; else take the first line of the standard input.

    Refuses what is no password for this role, with a message that says what one has to be.
    """
    try:
        password = _asked() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    except (EOFError, KeyboardInterrupt):
        raise Refused("missing_fields", "There is no password: nothing was done") from None
    except UnicodeDecodeError:
        raise Refused("invalid_password_format", "The password is not text in UTF-8") from None
    try:
        check_password(password, role)
    except Refused as refused:
        rule = f"at least {minimum_password(role)} characters, and at most {MAX_PASSWORD_BYTES} bytes in UTF-8"
        raise Refused(refused.reason, f"The password must have {rule}") from None
    return Secret(password)


def _asked() -> str:
    password = getpass("Password: ")
    if getpass("Once more: ") != password:
        raise Refused("invalid_password_format", "The passwords differ")
    return password

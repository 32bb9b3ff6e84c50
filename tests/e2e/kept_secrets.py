"""Every secret that this run of the tests has used or been given, for which all logs are searched."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ledger.services.seeding import PEOPLE

SECRETS: set[str] = set()
_PUBLIC = {person.password for person in PEOPLE}  # `ledger seed` tells them

_SHORTEST = 8  # what is shorter stands in many texts
_NAMES = re.compile(r"password|token|secret", re.IGNORECASE)


def new_secret() -> str:
    """A token or password that the logs are searched for."""
    secret = secrets.token_urlsafe(24)
    note(secret)
    return secret


def note(*told: str | None) -> None:
    """Take note of secrets; of those that cannot be told from other text none is taken."""
    SECRETS.update(
        secret for secret in told if secret is not None and len(secret) >= _SHORTEST and secret not in _PUBLIC
    )


def note_all(told: object) -> None:
    """Take note of every secret in a request or an answer: what stands under the name of one."""
    if isinstance(told, dict):
        for name, value in told.items():
            if isinstance(value, str) and _NAMES.search(name):
                note(value)
            else:
                note_all(value)
    elif isinstance(told, list):
        for value in told:
            note_all(value)


def note_options(options: Iterable[str]) -> None:
    """Take note of the secrets that a program is started with."""
    before = ""
    for option in options:
        if before == "--database":
            password = urlsplit(option).password
            note(password and unquote(password), password)
        elif before == "--jwt-secret-file" and Path(option).is_file():
            note(Path(option).read_text().strip())
        before = option


def found_in(text: str) -> int:
    """How many secrets are in a text."""
    return sum(secret in text for secret in SECRETS)

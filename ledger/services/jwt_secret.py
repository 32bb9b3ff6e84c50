"""The secret that tokens are signed with: configured, or made once and kept beside the embedded database."""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from ledger.domain.errors import ConfigurationError
from ledger.services.postgres_layout import Layout

_NAME: Final = "jwt-secret"


def kept_secret(data_dir: Path) -> bytes:
    """Return the data directory's secret, made if there is none; only its owner can read it."""
    Layout(data_dir).make_data_dir()
    path = data_dir / _NAME
    try:
        if not path.exists():
            _make(path)
        secret = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"--data-dir: cannot keep {path}: {error.strerror}") from None
    if len(secret) < 32:
        raise ConfigurationError(f"--data-dir: {path} holds no secret of at least 32 bytes")
    return secret


def _make(path: Path) -> None:
    # Linked into place when it is complete: of two servers that start at once, one makes it, and both read that one.
    descriptor, scratch = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(secrets.token_hex(32).encode())
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(scratch, path)
    finally:
        os.unlink(scratch)

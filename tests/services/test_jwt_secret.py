"""The secret that tokens are signed with: configured, or made once and kept."""

import threading
from pathlib import Path

import pytest

from ledger.config import read_config
from ledger.domain.errors import ConfigurationError
from ledger.services.jwt_secret import kept_secret

LONG = "0123456789abcdef0123456789abcdef"


def test_it_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    first = kept_secret(tmp_path / "data")
    assert len(first) >= 32
    assert kept_secret(tmp_path / "data") == first
    assert kept_secret(tmp_path / "other") != first
    assert (tmp_path / "data" / "jwt-secret").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "data").iterdir() if path.is_file()] == ["jwt-secret"]


def test_servers_that_start_at_once_agree(tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(kept_secret(tmp_path))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1


def test_one_that_was_cut_short_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "jwt-secret").write_bytes(b"short")
    with pytest.raises(ConfigurationError, match=r"--data-dir.*at least 32 bytes"):
        kept_secret(tmp_path)


def test_it_may_be_configured(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(LONG + "\n")
    by_file = read_config({"jwt-secret-file": [str(file)]}, {"LEDGER_JWT_SECRET": "another" * 8})
    assert by_file.jwt_secret is not None
    assert by_file.jwt_secret.reveal() == LONG
    by_variable = read_config({}, {"LEDGER_JWT_SECRET": LONG})
    assert by_variable.jwt_secret == by_file.jwt_secret
    assert LONG not in repr(by_variable)
    assert read_config({}, {}).jwt_secret is None


@pytest.mark.parametrize(
    ("given", "environ", "complaint"),
    [
        ({"jwt-secret-file": ["/nowhere/at/all"]}, {}, r"--jwt-secret-file: cannot read /nowhere/at/all"),
        ({"jwt-secret-file": [str(Path(__file__).parent)]}, {}, r"--jwt-secret-file: cannot read"),
        ({}, {"LEDGER_JWT_SECRET": LONG[1:]}, "LEDGER_JWT_SECRET: the secret must have at least 32 bytes"),
    ],
)
def test_a_bad_one_is_refused(given: dict[str, list[str]], environ: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        read_config(given, environ)
    assert LONG[1:] not in str(caught.value)

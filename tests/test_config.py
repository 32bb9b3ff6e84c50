"""The option that names the key of games: what is taken, and what is said of all else."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ledger.config import read_config
from ledger.domain.errors import ConfigurationError
from tests.game_keys import GAMES, key_file, private_key


def public(key: PrivateKeyTypes) -> bytes:
    """The public half, as a file holds it."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_the_key_of_games(tmp_path: Path) -> None:
    file = key_file(tmp_path)
    expected = private_key(GAMES).public_key().public_numbers()
    for config in (
        read_config({"games-public-key": [str(file)]}, {}),
        read_config({}, {"LEDGER_GAMES_PUBLIC_KEY": str(file)}),
    ):
        assert config.games_public_key is not None
        assert config.games_public_key.public_numbers() == expected
    assert read_config({}, {}).games_public_key is None
    old_form = private_key(GAMES).public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1)
    file.write_bytes(b"some text before\n" + old_form)
    taken = read_config({"games-public-key": [str(file)]}, {}).games_public_key
    assert taken is not None
    assert taken.public_numbers() == expected


BAD = {
    "empty": (b"", "holds no public key in PEM form"),
    "text": (b"hello", "holds no public key in PEM form"),
    "no text": (b"\xff\0\xfe", "holds no public key in PEM form"),
    "broken": (public(ec.generate_private_key(ec.SECP256R1()))[:-40], "holds no public key in PEM form"),
    "another kind": (public(ec.generate_private_key(ec.SECP256R1())), "must hold an RSA key of 2048 bits or more"),
    "short": (public(rsa.generate_private_key(65537, 1024)), "must hold an RSA key of 2048 bits or more"),
    "private": (
        private_key(GAMES).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "holds no public key in PEM form",
    ),
}


@pytest.mark.parametrize(("content", "complaint"), BAD.values(), ids=BAD)
def test_what_is_no_key(tmp_path: Path, content: bytes, complaint: str) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError) as refused:
        read_config({"games-public-key": [str(file)]}, {})
    assert str(refused.value) == f"--games-public-key: {file} {complaint}"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none.pem", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigurationError) as refused:
            read_config({"games-public-key": [str(path)]}, {})
        assert str(refused.value) == f"--games-public-key: cannot read {path}: {why}"

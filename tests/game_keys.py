"""Keys that games sign with, and their signatures."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SIGNATURE = "X-Hub88-Signature"


GAMES = "games"


@cache
def private_key(name: str) -> RSAPrivateKey:  # noqa: ARG001
    """The key of that name, made once in a run of the tests: that takes a while."""
    return generate_private_key(65537, 2048)


def sign(body: bytes, key: str = GAMES) -> str:
    """The header's value."""
    return b64encode(private_key(key).sign(body, PKCS1v15(), SHA256())).decode()


def public_pem(key: str = GAMES) -> bytes:
    """The public half as a file holds it."""
    return private_key(key).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def key_file(folder: Path, key: str = GAMES) -> Path:
    """A file with the public half."""
    path = folder / f"{key}.pem"
    path.write_bytes(public_pem(key))
    return path

"""Signed tokens: every way to forge one, and the reasons they are refused with."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.errors import Refused
from ledger.services.signing import LONGEST, Signer, looks_signed

SECRET = b"0123456789abcdef0123456789abcdef"
USER = "01900000-0000-7000-8000-000000000001"
JTI = "01900000-0000-7000-8000-000000000002"
NOW = 1_700_000_000.75


class House:
    """A signer and its clock."""

    def __init__(self) -> None:
        self.now = NOW
        self.signer = Signer(SECRET, lambda: self.now)

    def claims(self, **changes: Any) -> dict[str, Any]:
        """The claims of a good access token, with changes; `...` leaves one out."""
        start = int(NOW)
        good = {
            "sub": USER,
            "email": "ada@example.com",
            "role": "user",
            "type": "access",
            "jti": JTI,
            "iat": start,
            "nbf": start,
            "exp": start + 900,
            "iss": "ledger",
            "aud": "ledger",
        }
        return {name: value for name, value in {**good, **changes}.items() if value is not ...}

    def reason(self, token: str, kind: Any = "access") -> str | None:
        """What a token is refused with."""
        try:
            self.signer.verify(token, kind)
        except Refused as refused:
            return refused.reason
        return None


@pytest.fixture
def house() -> House:
    """A signer."""
    return House()


def part(value: object) -> str:
    """A part of a token."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(header: object, claims: object, secret: bytes = SECRET, digest: Callable[..., Any] = hashlib.sha256) -> str:
    """A token made by hand."""
    content = f"{part(header)}.{part(claims)}"
    return f"{content}.{part(hmac.new(secret, content.encode(), digest).digest())}"


def test_what_is_signed_is_verified(house: House) -> None:
    token = house.signer.sign("access", USER, "ada@example.com", "admin", JTI, 900)
    assert looks_signed(token)
    claims = house.signer.verify(token, "access")
    assert (claims.sub, claims.email, claims.role, claims.jti) == (USER, "ada@example.com", "admin", JTI)
    read = jwt.decode(token, SECRET, ["HS256"], audience="ledger", options={"verify_exp": False})
    assert read == house.claims(role="admin")
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}


def test_the_hand_made_token_is_good(house: House) -> None:
    """Else the refusals below would show nothing."""
    assert house.reason(signed({"alg": "HS256", "typ": "JWT"}, house.claims())) is None


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=255))
def test_any_address_fits(email: str) -> None:
    house = House()
    token = house.signer.sign("refresh", USER, email, "support", JTI, 1)
    assert len(token) <= LONGEST
    assert house.signer.verify(token, "refresh").email == email


def test_it_lives_from_its_first_second_to_before_its_last(house: House) -> None:
    token = house.signer.sign("access", USER, "a@b", "user", JTI, 900)
    for offset, reason in ((-0.76, "invalid_token"), (-0.75, None), (899.2, None), (899.25, "token_expired")):
        house.now = NOW + offset
        assert house.reason(token) == reason


@pytest.mark.parametrize(("kind", "other"), [("access", "refresh"), ("refresh", "access")])
def test_one_kind_is_not_the_other(house: House, kind: Any, other: Any) -> None:
    token = house.signer.sign(kind, USER, "a@b", "user", JTI, 900)
    assert house.reason(token, other) == "invalid_token_type"
    assert house.reason(token, kind) is None
    house.now += 900
    assert house.reason(token, kind) == "token_expired"


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "other"},
        {"iss": ...},
        {"aud": "other"},
        {"aud": ["ledger"]},
        {"aud": ...},
        {"nbf": int(NOW) + 5},
        {"nbf": ...},
        {"iat": int(NOW) + 5},
        {"iat": "now"},
        {"exp": ...},
        {"exp": None},
        {"exp": str(int(NOW) + 900)},
        {"exp": NOW + 900.5},
        {"exp": 1e400},
        {"exp": True},
        {"sub": ...},
        {"sub": 1},
        {"sub": "' OR 1=1 --"},
        {"sub": USER.upper().replace("0190", "ABCD")},
        {"jti": ...},
        {"jti": "../" + JTI},
        {"jti": JTI + "\n"},
        {"type": ...},
        {"type": "admin"},
        {"type": None},
        {"role": ...},
        {"role": ["admin"]},
        {"email": ...},
    ],
    ids=str,
)
def test_claims_that_are_not_ours(house: House, changes: dict[str, Any]) -> None:
    assert house.reason(signed({"alg": "HS256", "typ": "JWT"}, house.claims(**changes))) == "invalid_token"


def test_a_signature_of_somebody_else(house: House) -> None:
    """Even where the token has expired: nobody is told more than that it is not ours."""
    header = {"alg": "HS256", "typ": "JWT"}
    for claims in (house.claims(), house.claims(exp=int(NOW) - 1), house.claims(type="refresh")):
        assert house.reason(signed(header, claims, b"another secret of thirty-two bytes")) == "invalid_token"
        assert house.reason(signed(header, claims, b"")) == "invalid_token"


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", None, "HS384", "RS256", "hs256", ["HS256"]])
def test_other_algorithms(house: House, alg: Any) -> None:
    header = {"alg": alg, "typ": "JWT"}
    content = f"{part(header)}.{part(house.claims())}"
    assert house.reason(content + ".") == "invalid_token"
    assert house.reason(signed(header, house.claims())) == "invalid_token"
    assert house.reason(signed(header, house.claims(), digest=hashlib.sha384)) == "invalid_token"


def test_a_public_key_is_no_secret() -> None:
    """HS256 over the text of a public key, where a server would take RS256 too."""
    key = rsa.generate_private_key(65537, 2048)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    house = House()
    for secret in (SECRET, public):  # whatever the secret is, RS256 is not taken, and HS256 needs the secret
        house.signer = Signer(secret, lambda: NOW)
        assert house.reason(jwt.encode(house.claims(), key, "RS256")) == "invalid_token"
    house.signer = Signer(SECRET, lambda: NOW)
    assert house.reason(signed({"alg": "HS256"}, house.claims(), public)) == "invalid_token"


@pytest.mark.parametrize(
    "more",
    [
        {"crit": ["exp"]},
        {"b64": False, "crit": ["b64"]},
        {"jwk": {"kty": "oct", "k": "AAAA"}, "alg": "none"},
        {"kid": 7},
    ],
    ids=str,
)
def test_headers_that_ask_for_more(house: House, more: dict[str, Any]) -> None:
    assert house.reason(signed({"alg": "HS256", "typ": "JWT", **more}, house.claims())) == "invalid_token"


def test_a_key_that_comes_along_is_not_used(house: House) -> None:
    key = b"k" * 32
    for header in ({"jwk": {"kty": "oct", "k": part(key)}}, {"kid": "/dev/null"}, {"jku": "http://localhost/keys"}):
        assert house.reason(signed({"alg": "HS256", **header}, house.claims(), key)) == "invalid_token"


def test_a_payload_that_was_tampered_with(house: House) -> None:
    header, _, signature = house.signer.sign("access", USER, "a@b", "user", JTI, 900).split(".")
    assert house.reason(f"{header}.{part(house.claims(role='admin'))}.{signature}") == "invalid_token"
    assert house.reason(f"{part({'alg': 'none'})}.{part(house.claims())}.{signature}") == "invalid_token"


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_byte_that_is_changed(place: int, change: int) -> None:
    """Of the three parts as they are read; base64 itself can be written in more than one way."""
    house = House()
    parts = [_bytes(text) for text in house.signer.sign("access", USER, "a@b", "user", JTI, 900).split(".")]
    which, offset = place % 3, place // 3
    changed = bytearray(parts[which])
    changed[offset % len(changed)] ^= change
    parts[which] = bytes(changed)
    assert house.reason(".".join(map(part, parts))) == "invalid_token"


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@pytest.mark.parametrize(
    "token",
    [
        "",
        "..",
        "a.b.c",
        "a..b",
        "." * 4096,
        "e30.e30.e30",
        "\u00e9.\u00e9.\u00e9",
        "\0.\0.\0",
        "\ud800.a.b",
        "a" * 5000,
    ],
)
def test_what_is_no_token(house: House, token: str) -> None:
    assert house.reason(token) == "invalid_token"


def test_nesting_without_end(house: House) -> None:
    """Signed by us, which nobody can; but the header is read before the signature is."""
    deep = b"[" * 2900 + b"]" * 2900
    assert house.reason(f"{part(deep)}.e30.AAAA") == "invalid_token"
    assert house.reason(signed({"alg": "HS256"}, b"[" * 1000)) == "invalid_token"
    assert house.reason(f"{part(b'[' * 2900)}.e30.AAAA") == "invalid_token"


@pytest.mark.parametrize("claims", [b"", b"null", b"[]", b"{}", b"1", b'"x"', b"\xff", b"{"])
def test_what_is_signed_must_be_claims(house: House, claims: bytes) -> None:
    assert house.reason(signed({"alg": "HS256"}, claims)) == "invalid_token"


def test_the_secret_stays_inside(house: House) -> None:
    for seen in (repr(house.signer), str(house.signer)):
        assert SECRET.decode() not in seen

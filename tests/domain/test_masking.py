"""What looks like a secret is hidden, and what does not is left."""

from __future__ import annotations

import json
from hashlib import sha256
from secrets import token_urlsafe
from time import perf_counter
from uuid import uuid4

import pytest

from ledger.domain.masking import masked, names_a_secret

TOKEN = "q3Vb-2Zt_9sK1xYwL0pQeR7uTiO5aSdFgHjKlZxCvB8"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjMifQ.c2lnbmF0dXJl"
BCRYPT = "$2b$12$abcdefghijklmnopqrstuuTN5Wl1RRHXAYjQWNSjDXD6bVYfQnSWa"
HIDDEN = "hunter2-horse"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"Bearer {HIDDEN}", "Bearer ***"),
        (f"authorization: bearer  {TOKEN}, x", "authorization: ***, x"),
        (f"Authorization: Basic {HIDDEN}==", "Authorization: ***"),
        (f"b'authorization': [b'Bearer {HIDDEN}']", "b'authorization': [b'***']"),
        (f"({JWT})", "(***)"),
        (JWT.rpartition(".")[0], "***"),
        (f"token {TOKEN}.", "token ***."),
        (f"hash {BCRYPT} kept", "hash *** kept"),
        (f"password={HIDDEN} next", "password=*** next"),
        (f"password = '{HIDDEN} and more', x=1", "password = '***', x=1"),
        (f"LoginRequest(email='a@x', password='{HIDDEN}')", "LoginRequest(email='a@x', password='***')"),
        (f"password='it\\'s {HIDDEN}', x=1", "password='***', x=1"),
        (f'{{"new_password": "a \\"{HIDDEN}\\" b", "x": 1}}', '{"new_password": "***", "x": 1}'),
        (f'"{{\\"access_token\\":\\"{HIDDEN}\\",\\"x\\":1}}"', '"{\\"access_token\\":\\"***\\",\\"x\\":1}"'),
        (f"password='{HIDDEN} has no end\nnext line", "password='***'\nnext line"),
        (f"/ws?token={HIDDEN}&x=1", "/ws?token=***&x=1"),
        (f"LEDGER_JWT_SECRET={HIDDEN}", "LEDGER_JWT_SECRET=***"),
        (f"password_hash: {HIDDEN}", "password_hash: ***"),
        (f"Api-Key: {HIDDEN}", "Api-Key: ***"),
        (f"Cookie: {HIDDEN}", "Cookie: ***"),
        (f"postgresql://ledger:{HIDDEN}@db/x", "postgresql://ledger:***@db/x"),
        (f"tokens=('{HIDDEN}', 1)", "tokens=('***', 1)"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert masked(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "Ledger listens on http://127.0.0.1:8080",
        "POST /api/auth/login refused: invalid_token [0123456789abcdef0123456789abcdef]",
        "A watcher of a token failed",
        "3 secrets are in the log",
        "postgresql://ledger@/ledger?host=%2Ftmp%2Fx&port=5432",
        "the bearer of it, basic as ever",
        f"user {uuid4()} and digest {sha256(b'').hexdigest()}",
        "test_what_ends_by_itself_is_waited_for_again",
        "",
    ],
)
def test_what_does_not_is_left(text: str) -> None:
    assert masked(text) == text


def test_every_token_of_ours_is_known() -> None:
    tokens = [token_urlsafe(32) for _ in range(500)]
    shown = [masked(f"<{token}>") for token in tokens]
    assert shown.count("<***>") > 490  # one in thousands has no digit


def test_json_stays_json() -> None:
    told = {"password": 'a"b\\', "list": [1, "x"], "deep": {"token": "a b c", "refresh_token": "", "n": None}}
    hidden = {"password": "***", "list": [1, "x"], "deep": {"token": "***", "refresh_token": "***", "n": None}}
    assert json.loads(masked(json.dumps(told))) == hidden


def test_names_of_secrets() -> None:
    assert all(
        map(names_a_secret, ("password", "new_password", "Authorization", "jwt_secret", "access_token", "token"))
    )
    assert not any(map(names_a_secret, ("email", "role", "user_id", "reason", "status", "endpoint")))


@pytest.mark.parametrize(
    "text",
    [
        "password=" * 20_000,
        "token_" * 30_000,
        "a" * 200_000,
        "'" * 200_000,
        "eyJ" * 60_000,
        "://x:" * 40_000,
    ],
)
def test_nothing_takes_it_long(text: str) -> None:
    began = perf_counter()
    masked(text)
    assert perf_counter() - began < 2.0

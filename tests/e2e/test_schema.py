# mypy: disable-error-code="untyped-decorator"
"""The server against its own OpenAPI document: Schemathesis asks whatever the document allows, and what it does not.

It finds what is answered off the document: a status or a content that is not told, a header that is missing, data that
should have been refused, a door that opens without a token, and every 500.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest_twisted

from ledger.services.postgres_layout import Layout
from tests.e2e.books import Books
from tests.e2e.client import Api, Clients
from tests.e2e.kept_secrets import note
from tests.e2e.server import BIN, Machine, Program

EXAMPLES = 8  # of fuzzing, for each operation; the phases before it have as many as the document gives rise to
WITHIN = 240.0
USERS = 8
ADMIN = ("admin@example.com", "admin123!")
PASSWORD = "correct horse battery"
GAMES = ("/transaction/bet", "/transaction/win", "/transaction/rollback", "/user/balance", "/user/info")

# An admin asks, logging in again when a request has ended the session; but one's own profile and sessions are those of
# users on whom nothing else depends. Ids, addresses, passwords and amounts are often real ones, so that requests come
# far. Data that the document allows may be refused all the same, for reasons that no schema can tell (a name that is
# blank, an amount with too many decimals), so a refusal of it is no failure. Calls of games are answered with 200,
# whatever is wrong with them.
CONFIG = """\
continue-on-failure = true
request-timeout = 30.0

[generation]
deterministic = true
max-examples = {examples}
database = "none"
no-shrink = true

[phases.stateful]
enabled = false

[checks]
positive_data_acceptance.enabled = false

[auth.dynamic.openapi.bearer]
path = "/api/auth/login"
payload = {{ email = {email}, password = {password} }}
extract_selector = "/data/access_token"
retry_on = [401]

[dictionaries]
users = {{ values = {users} }}
accounts = {{ values = {accounts} }}
ids = {{ values = {ids} }}
emails = {{ values = {emails} }}
passwords = {{ values = {passwords} }}
amounts = {{ values = ["0.01", "1", "50.00", "-1", "1.001", "99999999999999"] }}
roles = {{ values = ["user", "support", "admin"] }}
states = {{ values = ["ACTIVE", "SUSPENDED", "DELETED"] }}
orders = {{ values = ["email:asc", "role:desc,created_at:asc", "status", "email:up"] }}

[parameters]
"path.id" = {{ dictionary = "ids", probability = 0.7 }}
"body.account_id" = {{ dictionary = "accounts", probability = 0.7 }}
"body.user_id" = {{ dictionary = "users", probability = 0.7 }}
"body.email" = {{ dictionary = "emails", probability = 0.7 }}
"body.password" = {{ dictionary = "passwords", probability = 0.7 }}
"body.password_confirmation" = {{ dictionary = "passwords", probability = 0.7 }}
"body.new_password" = {{ dictionary = "passwords", probability = 0.7 }}
"body.amount" = {{ dictionary = "amounts", probability = 0.7 }}
"body.role" = {{ dictionary = "roles", probability = 0.7 }}
"body.status" = {{ dictionary = "states", probability = 0.7 }}
"query.account_id" = {{ dictionary = "accounts", probability = 0.7 }}
"query.user_id" = {{ dictionary = "users", probability = 0.7 }}
"query.role" = {{ dictionary = "roles", probability = 0.5 }}
"query.status" = {{ dictionary = "states", probability = 0.5 }}
"query.sort" = {{ dictionary = "orders", probability = 0.5 }}

[[operations]]
include-path = "/api/events"
enabled = false

[[operations]]
include-path = ["/api/profile", "/api/profile/password"]
headers = {{ Authorization = "Bearer {profile}" }}

[[operations]]
include-path = {games}
checks.negative_data_rejection.enabled = false
checks.missing_required_header.enabled = false

[[operations]]
include-path = "/api/transfers/batch"
checks.negative_data_rejection.enabled = false

[[operations]]
include-path = "/api/auth/logout-all"
headers = {{ Authorization = "Bearer {leaving}" }}
"""
note(PASSWORD)  # that of the admin is a sample, which `ledger seed` tells


@pytest_twisted.ensureDeferred
async def test_every_answer_is_as_documented(machine: Machine, clients: Clients, tmp_path: Path) -> None:
    data_dir = machine.new_data_dir()
    where = ("--data-dir", str(data_dir))
    seeded = machine.script("seed", *where)
    assert await seeded.ended() == 0, seeded.log
    server = await machine.serve(*where, "--rate-limit", "0").ready()
    api = clients(server)
    users = [await register(api, number) for number in range(USERS)]
    accounts = [await open_account(api) for _ in range(4)]
    books = Books(Layout(data_dir).url())
    books.cheapen(PASSWORD, *map(email_of, range(USERS)))
    books.cheapen(ADMIN[1], ADMIN[0])
    asked = CONFIG.format(
        examples=EXAMPLES,
        email=json.dumps(ADMIN[0]),
        password=json.dumps(ADMIN[1]),
        users=json.dumps(users[2:]),
        accounts=json.dumps(accounts),
        ids=json.dumps(users[2:] + accounts),
        emails=json.dumps([*map(email_of, range(2, USERS)), *(f"new{number}@example.com" for number in range(20))]),
        passwords=json.dumps([PASSWORD, "short"]),
        profile=await log_in(api, 0),
        leaving=await log_in(api, 1),
        games=json.dumps(GAMES),
    )
    config = tmp_path / "schemathesis.toml"
    config.write_text(asked)

    url = f"http://127.0.0.1:{server.port}/api/openapi.json"
    asker = Program(tmp_path, [str(BIN / "schemathesis"), "--config-file", str(config), "run", url, "--no-color"])
    try:
        code = await asker.ended(WITHIN)
    finally:
        asker.kill()
    assert ADMIN[1] not in server.log
    assert code == 0, asker.log[-20_000:]
    assert (await api.ask("GET", "/api/health/ready")).status == 200


async def register(api: Api, number: int) -> str:
    """Make a user and return the id."""
    body = {"full_name": f"User {number}", "email": email_of(number)}
    reply = await api.ask("POST", "/api/users", {**body, "password": PASSWORD, "password_confirmation": PASSWORD})
    return str(reply.data["id"])


async def open_account(api: Api) -> str:
    """Open an account that is no user's and return its id."""
    return str((await api.ask("POST", "/api/register", {"name": "Card"})).data["account_id"])


async def log_in(api: Api, number: int) -> str:
    """Return an access token."""
    reply = await api.ask("POST", "/api/auth/login", {"email": email_of(number), "password": PASSWORD})
    return str(reply.data["access_token"])


def email_of(number: int) -> str:
    """The address of a user."""
    return f"user{number}@example.com"

# mypy: disable-error-code="untyped-decorator"
"""No secret is in any log: the search that every server here is under finds them, and there are none to be found."""

from __future__ import annotations

import sys
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_twisted

from ledger.domain.masking import MASK
from tests.e2e.books import Books
from tests.e2e.client import Clients, websocket
from tests.e2e.kept_secrets import SECRETS, found_in, new_secret, note_all, note_options
from tests.e2e.server import Machine, until


@pytest_twisted.ensureDeferred
async def test_a_secret_in_a_log_is_found(template: Path) -> None:
    machine = Machine(template)
    try:
        secret = new_secret()
        program = machine.run(sys.executable, "-c", f"print('it is {secret}, or so')")
        assert await program.ended() == 0
        with pytest.raises(AssertionError, match="1 secrets are in the log"):
            machine.check_logs()
    finally:
        machine.clear()


def test_what_is_known_for_a_secret(tmp_path: Path) -> None:
    known = {name: uuid4().hex for name in ("access", "new", "file", "database")}
    file = tmp_path / "secret"
    file.write_text(known["file"] + "\n")
    note_all({"data": [{"access_token": known["access"], "id": uuid4().hex}], "new_password": known["new"]})
    note_options(["twistd", "--jwt-secret-file", str(file), "--database", f"postgresql://x:{known['database']}@h/d"])
    assert set(known.values()) <= SECRETS
    assert found_in(f"{known['access']} {known['database']} {uuid4().hex}") == 2


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest_twisted.ensureDeferred
async def test_a_day_full_of_secrets(machine: Machine, books: Books, clients: Clients, log_format: str) -> None:
    machine.expects_trouble = True
    secret_file = machine.write("jwt-secret", new_secret())
    server = machine.serve("--database", books.url, "--log-format", log_format, "--jwt-secret-file", str(secret_file))
    api = clients(await server.ready())
    password, wrong = new_secret(), new_secret()
    person = {"name": "Ada", "email": "ada@e2e.invalid", "password": password}
    made = await api.ask("POST", "/users", person)
    assert made.status == 201
    token = made.data["token"]
    assert {password, token} <= SECRETS
    assert (await api.ask("POST", "/users", person)).status == 409
    for odd in (password, [password], {"email": password, "password": password}, {**person, "email": [password]}):
        assert (await api.ask("POST", "/users", odd)).status == 400
    assert (await api.ask("POST", "/users", {**person, "password": "short12"})).status == 400

    assert (await api.ask("GET", "/balance", token=token)).status == 200
    assert (await api.ask("GET", "/balance", token=wrong)).status == 401
    assert (await api.ask("GET", f"/balance?token={wrong}&password={password}")).status == 401
    assert (await api.ask("GET", f"/{wrong}", token=token)).status == 404
    for method, path in (("GET", "/ws?token="), ("GET", "/api/events?topics=x&token="), ("POST", "/api/events?token=")):
        assert (await api.ask(method, path + wrong, token=wrong)).status >= 400

    ears = await websocket(server)
    ears.say({"type": "auth", "token": wrong})
    assert (await ears.next())["type"] == "error"
    ears.say({"type": "auth", "token": {"token": token}})
    assert (await ears.next())["type"] == "error"
    ears.say({"type": "auth", "token": token})
    await ears.subscribe(f"users:{made.data['id']}")
    ears.sendClose()
    await until(lambda: ears.lost)

    login = {"email": person["email"], "password": password}
    given = await api.ask("POST", "/api/auth/login", login)
    assert given.status == 200
    access, refresh = given.data["access_token"], given.data["refresh_token"]
    assert {access, refresh} <= SECRETS
    assert (await api.ask("POST", "/api/auth/login", {**login, "password": wrong})).reason == "invalid_credentials"
    assert (await api.ask("POST", "/api/auth/login", {"email": password, "password": wrong})).status == 401
    assert (await api.ask("GET", "/api/auth/me", token=access)).status == 200
    assert (await api.ask("GET", "/api/auth/me", token=refresh)).reason == "invalid_token_type"
    assert (await api.ask("POST", "/api/auth/refresh", {"refresh_token": access})).reason == "invalid_token_type"
    assert (await api.ask("POST", "/api/auth/refresh", {"refresh_token": access[:-4]})).reason == "invalid_token"
    again = await api.ask("POST", "/api/auth/refresh", {"refresh_token": refresh})
    assert again.status == 200
    change = {"current_password": password, "new_password": wrong, "password_confirmation": wrong}
    assert (await api.ask("PUT", "/api/profile/password", change, again.data["access_token"])).status == 200

    # What was not foreseen is logged with its traceback.
    books.rows("ALTER TABLE users RENAME COLUMN password_hash TO lost")
    assert (await api.ask("POST", "/users", {**person, "email": "bob@e2e.invalid"})).status == 500
    assert (await api.ask("POST", "/api/auth/login", login)).status == 500
    await server.stop()
    assert "Traceback" in server.log
    masks = [line for line in server.log.splitlines() if MASK in line and "Try: curl" not in line]
    assert masks == []  # nor did anything have to be masked
    kept = " ".join(map(str, books.rows("SELECT * FROM audit_log")))
    assert "invalid_credentials" in kept
    assert found_in(server.log + kept) == 0

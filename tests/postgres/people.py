"""Users, the service, over a real database, with ways to make many of them at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ledger.config import read_config
from ledger.domain.policy import Caller
from ledger.domain.secret import Secret
from ledger.domain.users import User
from ledger.services.ids import new_id
from ledger.services.login_guard import LoginGuard
from ledger.services.passwords import Passwords
from ledger.services.users import Users
from tests.postgres.house import House, reactor

PASSWORD = "correct horse"
LONG_PASSWORD = "correct horse battery"


class People:
    """The service, what it told of stopped credentials, and a shorter way to its house's tables."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.stopped: list[str] = []
        self.passwords = Passwords(reactor, threads=2, rounds=4, queue=50, patience=60)
        self.guard = LoginGuard(reactor.seconds, True)
        self.users = Users(
            read_config({}, {}),
            house.pool,
            lambda command: house.writer.submit(command),
            self.passwords,
            self.guard,
            self.stopped.append,
            new_id,
            reactor,
        )

    async def user(self, name: str = "ada", role: str = "user", password: str = LONG_PASSWORD) -> User:
        """Make a user."""
        return await self.users.create(f"{name}@example.com", name.title(), Secret(password), role)

    def caller(self, user: User, session_id: str | None = None) -> Caller:
        """That user, logged in."""
        role: Any = user.role
        return Caller("user", user_id=user.id, role=role, session_id=session_id)

    def session(self, user: User, address: str = "192.0.2.7") -> str:
        """Begin a session of a user."""
        session_id = new_id()
        self.house.sql("INSERT INTO sessions (id, user_id, address) VALUES (%s, %s, %s)", session_id, user.id, address)
        return session_id

    def live(self) -> set[str]:
        """The sessions that have not ended."""
        return {row[0] for row in self.house.sql("SELECT id::text FROM sessions WHERE revoked_at IS NULL")}

    def account_of(self, user: User) -> str:
        """The id of a user's first account."""
        rows = self.house.sql("SELECT id::text FROM accounts WHERE user_id = %s ORDER BY id LIMIT 1", user.id)
        return str(rows[0][0])


@asynccontextmanager
async def people_of(house: House) -> AsyncIterator[People]:
    """The users of a house."""
    people = People(house)
    await people.passwords.start()
    try:
        yield people
    finally:
        await people.passwords.stop()

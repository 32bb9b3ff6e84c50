"""The database beside a server: users put in by SQL, records put in by a writer of our own, and what is to be seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Any
from uuid import uuid4

import bcrypt
import psycopg2
from psycopg2.extras import execute_values
from twisted.internet import reactor as _reactor
from twisted.internet.defer import gatherResults

from ledger.domain.accounts import WORLD_TYPE, world_id
from ledger.domain.cash import Credit
from ledger.services.writer import Writer
from ledger.store.journal import JournalWriter
from tests.e2e.kept_secrets import new_secret
from tests.e2e.server import until

reactor: Any = _reactor

ASSET = "USD/2"
LOCK = "pg_advisory_xact_lock"  # what a writer waits in for its turn
_BACKEND = "datname = current_database() AND application_name = 'ledger' AND pid <> pg_backend_pid()"


@dataclass(frozen=True)
class Customer:
    """A user with one account, and the token that opens it."""

    user_id: str
    account_id: str
    token: str


class Books:
    """What is in a database, and its backends; every call blocks for a moment."""

    def __init__(self, url: str) -> None:
        self.url = url

    def rows(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Run a statement in a connection of its own."""
        with self.session() as cursor:
            cursor.execute(statement, arguments or None)
            return list(cursor.fetchall()) if cursor.description else []

    @contextmanager
    def session(self, *, transaction: bool = False) -> Iterator[Any]:
        """A cursor; with `transaction`, one that is rolled back."""
        with closing(psycopg2.connect(self.url)) as connection:
            connection.autocommit = not transaction
            with connection.cursor() as cursor:
                yield cursor

    def seed(self, count: int) -> list[Customer]:
        """Put users in, past the hashing of passwords."""
        customers = [Customer(str(uuid4()), str(uuid4()), new_secret()) for _ in range(count)]
        with self.session() as cursor:
            cursor.execute(
                "INSERT INTO accounts (id, asset, type) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                (world_id(ASSET), ASSET, WORLD_TYPE),
            )
            users = [(one.user_id, f"{one.user_id}@e2e.invalid", "Somebody", "!") for one in customers]
            execute_values(cursor, "INSERT INTO users (id, email, full_name, password_hash) VALUES %s", users)
            accounts = [(one.account_id, one.user_id, ASSET, "CHECKING") for one in customers]
            execute_values(cursor, "INSERT INTO accounts (id, user_id, asset, type) VALUES %s", accounts)
            tokens = [(sha256(one.token.encode()).digest(), one.account_id) for one in customers]
            execute_values(cursor, "INSERT INTO account_tokens (token_hash, account_id) VALUES %s", tokens)
        return customers

    def add_admin(self) -> tuple[str, str]:
        """Put an admin in, and return e-mail and password; the hash is a cheap one."""
        email, password = f"{uuid4()}@e2e.invalid", new_secret()
        self.rows(
            "INSERT INTO users (id, email, full_name, password_hash, role) VALUES (%s, %s, 'Root', %s, 'admin')",
            str(uuid4()),
            email,
            _cheap(password),
        )
        return email, password

    def cheapen(self, password: str, *emails: str) -> None:
        """Keep these users' password by a cheap hash, so that no login of theirs takes a quarter of a second."""
        self.rows("UPDATE users SET password_hash = %s WHERE email = ANY (%s)", _cheap(password), list(emails))

    def revoke(self, customer: Customer) -> None:
        """Have a customer's token stop."""
        digest = sha256(customer.token.encode()).digest()
        self.rows("UPDATE account_tokens SET revoked_at = now() WHERE token_hash = %s", digest)

    def head(self) -> int:
        """The number of the last record."""
        return int(self.rows("SELECT coalesce(max(seq), 0) FROM journal")[0][0])

    def keys(self) -> dict[str, str]:
        """The keys in the journal, each with its record's id."""
        return dict(self.rows("SELECT key, id::text FROM journal"))

    def balances(self) -> dict[str, int]:
        """The customers' balances in minor units, by account."""
        rows = self.rows("SELECT id::text, balance FROM accounts WHERE type <> %s", WORLD_TYPE)
        return {account: int(balance) for account, balance in rows}

    def waiting(self, words: str, event: str | None = None) -> list[int]:
        """The servers' backends that stand in a statement with these words, and wait (for this, if it is named)."""
        rows = self.rows(
            f"SELECT pid FROM pg_stat_activity WHERE {_BACKEND} AND state = 'active' AND position(%s IN query) > 0 "
            "AND coalesce(wait_event = %s, wait_event_type = 'Lock')",
            words,
            event,
        )
        return [row[0] for row in rows]

    async def stuck(self, words: str, event: str | None = None) -> int:
        """Return the one backend that stands and waits there, once it does."""
        await until(lambda: self.waiting(words, event), 20, lambda: f"nobody waits in {words}")
        (pid,) = self.waiting(words, event)
        return int(pid)

    def terminate(self, *pids: int) -> int:
        """End backends, all of the servers' where none is named; returns how many there were."""
        chosen = "AND pid = ANY (%s)" if pids else ""
        return len(
            self.rows(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {_BACKEND} {chosen}",
                *([list(pids)] if pids else []),
            )
        )

    @contextmanager
    def lock_held(self) -> Iterator[None]:
        """Keep every writer waiting for its turn."""
        with self.session(transaction=True) as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (0x4C45444745520001,))
            yield

    async def fill(self, customers: Sequence[Customer], count: int) -> None:
        """Put that many credits of 0.01 into the journal, by a writer in this process."""
        writer = Writer(JournalWriter(reactor, self.url), reactor, lambda _: None)
        await writer.start()
        commands = (
            Credit(
                id=str(uuid4()),
                scope=customers[number % len(customers)].user_id,
                key=f"fill-{uuid4().hex}",
                description=None,
                account_id=customers[number % len(customers)].account_id,
                user_id=customers[number % len(customers)].user_id,
                asset=ASSET,
                amount=1,
            )
            for number in range(count)
        )
        while some := list(islice(commands, 1_000)):
            await gatherResults([writer.submit(command) for command in some])
        await writer.stop()


def _cheap(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()

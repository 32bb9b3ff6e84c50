"""A backend in memory that decides with the real domain, for tests of the HTTP edge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from ledger.domain.accounts import WORLD_TYPE, Account, Owner, world_id
from ledger.domain.book import Book, decide
from ledger.domain.commands import Command, Replayed, Reply, Sealed, answered
from ledger.domain.errors import Refused, unavailable
from ledger.domain.journal import START
from ledger.domain.money import DEFAULT_MAX_AMOUNT
from ledger.domain.policy import Caller, Role
from ledger.domain.secret import Secret
from ledger.domain.together import Together
from ledger.domain.users import User
from ledger.services.child import ChildStatus
from ledger.services.core import Health
from ledger.services.outbound import BreakerStatus
from ledger.services.users import Registered

INSTANT = "2026-01-02T03:04:05.678901Z"


@dataclass
class Settings:
    """A configuration that tests can change."""

    currency: str = "USD"
    max_amount: int = DEFAULT_MAX_AMOUNT
    self_funding: bool = True
    games_public_key: Any = None
    cors_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()


class Away:
    """A service whose database is away: whatever is asked of it."""

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def refuse(*_: object, **__: object) -> None:
            raise unavailable()

        return refuse


class MemoryUsers(Away):
    """Signing up, in memory; for all else the database is away."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend
        self.emails: set[str] = set()
        self.passwords: list[str] = []

    async def register(self, name: str, email: str, password: Secret) -> Registered:
        """Make a user with a token."""
        user = await self.create(email, name, password)
        owner, token = self._backend.open_account(user.id)
        return Registered(user.id, name, email, owner, token)

    async def create(self, email: str, full_name: str, password: Secret, role: str = "user") -> User:
        """Make a user."""
        if email in self.emails:
            raise Refused("email_already_exists", field="email")
        self.emails.add(email)
        self.passwords.append(password.reveal())
        return User(self._backend.new_id(), email, full_name, role, "ACTIVE", False, INSTANT, INSTANT)


class Owners(dict[str, Owner]):
    """All owners by their accounts, which are looked up by calling."""

    async def __call__(self, account_ids: Collection[str]) -> Mapping[str, Owner]:
        """Return those that exist."""
        return {account_id: self[account_id] for account_id in account_ids if account_id in self}


@dataclass
class MemoryBackend:
    """Users, accounts and a book in memory; `slowly` turns what is cached into what must be awaited."""

    config: Settings = field(default_factory=Settings)
    slowly: bool = False
    later: Callable[[Callable[[], None]], None] | None = None  # when set, calls a batch's answers back later
    trouble: Exception | None = None  # what every submit fails with
    database: bool = True
    services: list[ChildStatus] = field(default_factory=list)
    breakers: Sequence[BreakerStatus] = ()

    def __post_init__(self) -> None:
        self.ids = 0
        self.tokens: dict[str, Caller] = {}
        self.owners = Owners()
        self.firsts: dict[str, Owner] = {}
        self.users: Any = MemoryUsers(self)
        self.sessions: Any = Away()
        self.audit: Any = Away()
        self.wallets: Any = Away()
        self.games: Any = Away()
        self.jobs: Any = Away()
        self.payments: Any = Away()
        self.histories: Any = Away()
        self.holds: Any = Away()
        self.accounts: Any = Away()
        self.transfers: Any = Away()
        self.submitted: list[Command] = []
        self.book = Book(START, INSTANT, {})
        self.admin_token = "admin-token"
        self.tokens[self.admin_token] = Caller("user", user_id=self.new_id(), role="admin")
        self.open_account(None, asset="USD/2", account_type=WORLD_TYPE, account_id=world_id("USD/2"))

    def new_id(self) -> str:
        """Return the next id."""
        self.ids += 1
        return f"01900000-0000-7000-8000-{self.ids:012x}"

    def log_in(self, role: Role, user_id: str | None = None) -> str:
        """Return the access token of a user in that role."""
        token = f"access-token-{self.new_id()}"
        self.tokens[token] = Caller("user", user_id=user_id or self.new_id(), role=role)
        return token

    def open_account(
        self, user_id: str | None, asset: str = "USD/2", account_type: str = "CHECKING", account_id: str | None = None
    ) -> tuple[Owner, str]:
        """Open an account and return it with its token."""
        account_id = account_id or self.new_id()
        owner = Owner(account_id, user_id, asset, account_type == WORLD_TYPE)
        self.owners[account_id] = owner
        if user_id is not None:
            self.firsts.setdefault(user_id, owner)
        self.book.accounts[account_id] = Account(
            id=account_id,
            user_id=user_id,
            asset=asset,
            type=account_type,
            status="ACTIVE",
            balance=0,
            held=0,
            credit_limit=0,
            version=0,
        )
        token = sha256(account_id.encode()).hexdigest()
        self.tokens[token] = Caller("account", account_id, user_id)
        return owner, token

    def authenticate(self, token: str) -> Caller | Awaitable[Caller]:
        """Look a token up."""
        caller = self.tokens.get(token)
        if self.slowly:
            return fail(Refused("invalid_token")) if caller is None else succeed(caller)
        if caller is None:
            raise Refused("invalid_token")
        return caller

    def owner(self, account_id: str) -> Any:
        """Look an account up."""
        found = self.owners.get(account_id)
        return succeed(found) if self.slowly else found

    def first_account(self, user_id: str) -> Any:
        """Look a user's first account up."""
        found = self.firsts.get(user_id)
        return succeed(found) if self.slowly else found

    def submit(self, command: Command) -> Deferred[Sealed | Replayed]:
        """Decide a command at once, and answer at once or later."""
        self.submitted.append(command)
        outcome = self.trouble or self.book.decide(command)
        answer: Deferred[Sealed | Replayed] = Deferred()

        def fire() -> None:
            if isinstance(outcome, Exception):
                answer.errback(outcome)
            else:
                answer.callback(outcome)

        if self.later is None:
            fire()
        else:
            self.later(fire)
        return answer

    def submit_bundle(
        self, commands: Sequence[Command], *, is_whole: bool = False, is_answered: bool = False
    ) -> Deferred[list[Reply]]:
        """Decide commands at once, and answer at once."""
        self.submitted += commands
        if self.trouble is not None:
            return fail(self.trouble)
        if not is_whole:
            outcomes: list[Reply] = [*decide(self.book, commands)]
            return succeed([*map(answered, commands, outcomes)] if is_answered else outcomes)
        together = Together(self.book, commands)
        while together.go_on(128):
            pass
        return succeed([*together.outcomes])

    @property
    def owners_at_hand(self) -> Mapping[str, Owner]:
        """All accounts, or none."""
        return {} if self.slowly else self.owners

    async def pause(self) -> None:
        """Go on at once."""

    async def account_state(self, account_id: str) -> tuple[Account, str]:
        """Read an account."""
        if self.trouble is not None:
            raise unavailable()
        return self.book.accounts[account_id], INSTANT

    async def health(self) -> Health:
        """Tell what the test wants to be told."""
        return Health(self.database, self.services, self.breakers)

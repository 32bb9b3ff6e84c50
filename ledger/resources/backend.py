"""What the HTTP endpoints need of the rest of the server."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from twisted.internet.defer import Deferred

from ledger.domain.accounts import Account, Owner
from ledger.domain.commands import Command, Replayed, Reply, Sealed
from ledger.domain.policy import Caller
from ledger.services.accounts import Accounts
from ledger.services.audit import Audit
from ledger.services.core import Health
from ledger.services.game_wallets import GameWallets
from ledger.services.histories import Histories
from ledger.services.holds import Holds
from ledger.services.job_desk import JobDesk
from ledger.services.payments import Payments
from ledger.services.sessions import Sessions
from ledger.services.transfers import Transfers
from ledger.services.users import Users
from ledger.services.wallets import Wallets


class Config(Protocol):
    """The part of the configuration that clients can notice."""

    @property
    def currency(self) -> str: ...
    @property
    def max_amount(self) -> int: ...
    @property
    def self_funding(self) -> bool: ...
    @property
    def games_public_key(self) -> RSAPublicKey | None: ...
    @property
    def cors_origins(self) -> tuple[str, ...]: ...
    @property
    def trusted_proxies(self) -> tuple[str, ...]: ...


class Backend(Protocol):
    """Everything behind the HTTP edge; what is cached is answered at once, all else may be awaited."""

    @property
    def config(self) -> Config: ...
    @property
    def users(self) -> Users: ...
    @property
    def sessions(self) -> Sessions: ...
    @property
    def audit(self) -> Audit: ...
    @property
    def wallets(self) -> Wallets: ...
    @property
    def games(self) -> GameWallets: ...
    @property
    def transfers(self) -> Transfers: ...
    @property
    def histories(self) -> Histories: ...
    @property
    def holds(self) -> Holds: ...
    @property
    def accounts(self) -> Accounts: ...
    @property
    def jobs(self) -> JobDesk: ...
    @property
    def payments(self) -> Payments: ...

    def authenticate(self, token: str) -> Caller | Awaitable[Caller]:
        """Return who bears a token, or refuse with `invalid_token`, `token_expired` or `invalid_token_type`."""
        ...

    def owner(self, account_id: str) -> Owner | Awaitable[Owner | None] | None:
        """Return the unchanging facts of an account, or None."""
        ...

    async def owners(self, account_ids: Collection[str]) -> Mapping[str, Owner]:
        """Return the unchanging facts of those of the accounts that exist."""
        ...

    def first_account(self, user_id: str) -> Owner | Awaitable[Owner | None] | None:
        """Return a user's first account, or None for an unknown user."""
        ...

    def submit(self, command: Command) -> Deferred[Sealed | Replayed]:
        """Have a command decided: fires after its commit, or fails with `Refused`."""
        ...

    def submit_bundle(
        self, commands: Sequence[Command], *, is_whole: bool = False, is_answered: bool = False
    ) -> Deferred[list[Reply]]:
        """Have commands decided in their order; fires with their outcomes: all or nothing, or answered at once."""
        ...

    @property
    def owners_at_hand(self) -> Mapping[str, Owner]:
        """Those accounts that are in memory, until the next turn."""
        ...

    async def pause(self) -> None:
        """Let others have their turn."""
        ...

    async def account_state(self, account_id: str) -> tuple[Account, str]:
        """Return an account's committed state and the instant it was read at."""
        ...

    def new_id(self) -> str:
        """Return a new id, a UUID of version 7."""
        ...

    async def health(self) -> Health:
        """Return how the server does at the moment; never raises."""
        ...

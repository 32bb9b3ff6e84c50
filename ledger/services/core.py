"""What the ledger offers to any surface: one object over the services, with what never changes remembered."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from ledger.config import Config
from ledger.domain.accounts import Account, Owner
from ledger.domain.commands import Command, Replayed, Reply, Sealed
from ledger.domain.errors import Refused
from ledger.domain.payment_options import rules_of
from ledger.domain.policy import Caller
from ledger.services.accounts import Accounts
from ledger.services.audit import Audit
from ledger.services.child import ChildStatus
from ledger.services.credentials import Credentials
from ledger.services.database import Database
from ledger.services.game_wallets import GameWallets
from ledger.services.histories import Histories
from ledger.services.holds import Holds
from ledger.services.ids import new_id
from ledger.services.job_desk import JobDesk
from ledger.services.outbound import BreakerStatus
from ledger.services.payments import Payments
from ledger.services.remembered import Remembered
from ledger.services.sessions import Sessions
from ledger.services.transfers import Transfers
from ledger.services.users import Users
from ledger.services.wallets import Wallets
from ledger.services.writer import Writer
from ledger.store.accounts import find_first_account, find_owner, owners_of, read_state
from ledger.store.payments import PaymentStore

_REMEMBERED: Final = 100_000
_AT_ONCE: Final = 1_000  # accounts that are looked up in one turn of the reactor


class Health(msgspec.Struct, frozen=True):
    """How the server does: whether its database answers, the service tree, and the breakers of external services."""

    database: bool
    services: Sequence[ChildStatus]
    breakers: Sequence[BreakerStatus] = ()


class Core:
    """The ledger as its surfaces see it; what is cached is answered at once, all else may be awaited."""

    def __init__(
        self,
        config: Config,
        database: Database,
        writer: Writer,
        credentials: Credentials,
        users: Users,
        sessions: Sessions,
        audit: Audit,
        wallets: Wallets,
        games: GameWallets,
        jobs: JobDesk,
        children: Callable[[], Sequence[ChildStatus]],
        reactor: Any,
    ) -> None:
        self.config = config
        self.users = users
        self.sessions = sessions
        self.audit = audit
        self.wallets = wallets
        self.games = games
        self.jobs = jobs
        self.histories = Histories(database.pool, reactor)
        self.holds = Holds(database.pool)
        self.accounts = Accounts(database.pool)
        self.transfers = Transfers(database.pool)
        rules = rules_of(config.payment_limit, config.daily_limits, config.duplicate_window, config.max_amount)
        self.payments = Payments(
            PaymentStore(database.pool), rules, config.currency, writer.submit, jobs, new_id, reactor
        )
        self._database = database
        self._writer = writer
        self._credentials = credentials
        self._children = children
        self._reactor = reactor
        self._owners: Remembered[str, Owner] = Remembered(_REMEMBERED)
        self._first: Remembered[str, Owner] = Remembered(_REMEMBERED)

    def authenticate(self, token: str) -> Caller | Awaitable[Caller]:
        """Return who bears a token, or refuse with `invalid_token`."""
        return self._credentials.authenticate(token)

    def owner(self, account_id: str) -> Owner | Awaitable[Owner | None] | None:
        """Return the unchanging facts of an account, or None."""
        return self._owners.get(account_id) or self._find_owner(account_id)

    async def owners(self, account_ids: Collection[str]) -> Mapping[str, Owner]:
        """Return the unchanging facts of those of the accounts that exist."""
        known = self._owners
        found = {account_id: owner for account_id in account_ids if (owner := known.get(account_id)) is not None}
        missing = [account_id for account_id in account_ids if account_id not in found]
        for start in range(0, len(missing), _AT_ONCE):
            read = await owners_of(self._database.pool, set(missing[start : start + _AT_ONCE]))
            for account_id, owner in read.items():
                known.keep(account_id, owner)
            found |= read
        return found

    def first_account(self, user_id: str) -> Owner | Awaitable[Owner | None] | None:
        """Return a user's first account, or None for an unknown user."""
        return self._first.get(user_id) or self._find_first(user_id)

    def submit(self, command: Command) -> Deferred[Sealed | Replayed]:
        """Have a command decided: fires after its commit, or fails with `Refused`."""
        return self._writer.submit(command)

    def submit_bundle(
        self, commands: Sequence[Command], *, is_whole: bool = False, is_answered: bool = False
    ) -> Deferred[list[Reply]]:
        """Have commands decided in their order; fires with their outcomes: all or nothing, or answered at once."""
        return self._writer.submit_bundle(commands, is_whole=is_whole, is_answered=is_answered)

    @property
    def owners_at_hand(self) -> Mapping[str, Owner]:
        """Those accounts that are in memory, until the next turn."""
        return self._owners

    async def pause(self) -> None:
        """Let others have their turn."""
        await deferLater(self._reactor, 0)

    async def account_state(self, account_id: str) -> tuple[Account, str]:
        """Return an account's committed state and the instant it was read at."""
        state = await read_state(self._database.pool, account_id)
        if state is None:
            raise Refused("account_not_found")
        return state

    def new_id(self) -> str:
        """Return a new id, a UUID of version 7."""
        return new_id()

    async def health(self) -> Health:
        """Tell how the database, the children and the ways outside do."""
        return Health(await self._database.answers(), self._children(), self.jobs.breakers())

    async def _find_owner(self, account_id: str) -> Owner | None:
        owner = await find_owner(self._database.pool, account_id)
        if owner is not None:
            self._owners.keep(account_id, owner)
        return owner

    async def _find_first(self, user_id: str) -> Owner | None:
        owner = await find_first_account(self._database.pool, user_id)
        if owner is not None:
            self._first.keep(user_id, owner)
        return owner

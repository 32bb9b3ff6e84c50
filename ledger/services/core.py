"""What the ledger offers to any surface: one object over the services, with what never changes remembered."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
from twisted.internet.defer import Deferred

from ledger.config import Config
from ledger.domain.accounts import Account, Owner
from ledger.domain.commands import Command, Replayed, Sealed
from ledger.domain.errors import Refused
from ledger.domain.policy import Caller
from ledger.services.audit import Audit
from ledger.services.child import ChildStatus
from ledger.services.credentials import Credentials
from ledger.services.database import Database
from ledger.services.game_wallets import GameWallets
from ledger.services.ids import new_id
from ledger.services.remembered import Remembered
from ledger.services.sessions import Sessions
from ledger.services.users import Users
from ledger.services.wallets import Wallets
from ledger.services.writer import Writer
from ledger.store.accounts import find_first_account, find_owner, read_state

_REMEMBERED: Final = 100_000


class Health(msgspec.Struct, frozen=True):
    """How the server does: whether its database answers, and every child of the service tree."""

    database: bool
    services: Sequence[ChildStatus]


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
        children: Callable[[], Sequence[ChildStatus]],
    ) -> None:
        self.config = config
        self.users = users
        self.sessions = sessions
        self.audit = audit
        self.wallets = wallets
        self.games = games
        self._database = database
        self._writer = writer
        self._credentials = credentials
        self._children = children
        self._owners: Remembered[str, Owner] = Remembered(_REMEMBERED)
        self._first: Remembered[str, Owner] = Remembered(_REMEMBERED)

    def authenticate(self, token: str) -> Caller | Awaitable[Caller]:
        """Return who bears a token, or refuse with `invalid_token`."""
        return self._credentials.authenticate(token)

    def owner(self, account_id: str) -> Owner | Awaitable[Owner | None] | None:
        """Return the unchanging facts of an account, or None."""
        return self._owners.get(account_id) or self._find_owner(account_id)

    def first_account(self, user_id: str) -> Owner | Awaitable[Owner | None] | None:
        """Return a user's first account, or None for an unknown user."""
        return self._first.get(user_id) or self._find_first(user_id)

    def submit(self, command: Command) -> Deferred[Sealed | Replayed]:
        """Have a command decided: fires after its commit, or fails with `Refused`."""
        return self._writer.submit(command)

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
        """Tell how the database and the children do."""
        return Health(await self._database.answers(), self._children())

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

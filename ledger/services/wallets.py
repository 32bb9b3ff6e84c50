"""Wallets: accounts that come without a user, their tokens, and what the owner of any account may read of it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from twisted.logger import Logger

from ledger.config import Config
from ledger.domain.accounts import Owner
from ledger.domain.errors import Refused
from ledger.domain.money import asset_of
from ledger.domain.policy import Caller
from ledger.domain.secret import Secret
from ledger.services.settling import is_in_doubt, settled
from ledger.store import wallets as store
from ledger.store.accounts import find_owner
from ledger.store.history import Page, Wanted, read_transactions
from ledger.store.pool import Pool
from ledger.store.tokens import new_token

log = Logger()


class Opened(msgspec.Struct, frozen=True):
    """An account just opened, with its token, which is told this once."""

    account: Owner
    name: str
    token: Secret


class Wallets:
    """What can be done with accounts beside moving money; a token that stops is told to `stopped` after the commit."""

    def __init__(
        self,
        config: Config,
        pool: Pool,
        stopped: Callable[[str], None],  # told `token:<hash>`
        new_id: Callable[[], str],
        reactor: Any,
    ) -> None:
        self._config = config
        self._pool = pool
        self._stopped = stopped
        self._new_id = new_id
        self._reactor = reactor

    async def open(self, name: str, currency: str | None) -> Opened:
        """Open an account that is no user's, or refuse with `invalid_currency_format`."""
        asset = asset_of(self._config.currency if currency is None else currency)
        owner, token = Owner(self._new_id(), None, asset.name, is_system=False), new_token()
        try:
            await store.add_wallet(self._pool, owner, name, token)
        except Refused as refused:
            if not is_in_doubt(refused):
                raise
            log.warn("The connection died in the commit of account {account_id}", account_id=owner.account_id)
            was_given = partial(store.was_given, self._pool, owner.account_id, token)
            await settled(was_given, partial(find_owner, self._pool, owner.account_id), self._reactor)
        return Opened(owner, name, Secret(token))

    async def read(self, account_id: str) -> store.Wallet:
        """Return an account's committed state, or refuse with `account_not_found`."""
        wallet = await store.find_wallet(self._pool, account_id)
        if wallet is None:
            raise Refused("account_not_found")
        return wallet

    async def transactions(self, owner: Owner, wanted: Wanted, below: int | None, limit: int) -> Page:
        """Return the newest of an account's transactions whose versions are below the given one."""
        return await read_transactions(self._pool, owner, wanted, below, limit)

    async def renew_token(self, caller: Caller, account_id: str) -> Secret:
        """Give an account a new token; all former ones stop, at once.

        A caller whose own credential has stopped by then is refused with `invalid_token`: whoever replaces a token
        because somebody else has it must not be replaced by them.
        """
        token = new_token()
        try:
            ended = await store.replace_tokens(self._pool, account_id, token, caller)
        except Refused as refused:
            if not is_in_doubt(refused):
                raise
            log.warn("The connection died in the commit of a token of account {account_id}", account_id=account_id)
            was_given = partial(store.was_given, self._pool, account_id, token)
            ended = await settled(was_given, partial(store.ended_tokens, self._pool, account_id), self._reactor)
        for token_hash in ended:
            self._stopped(f"token:{token_hash}")
        return Secret(token)

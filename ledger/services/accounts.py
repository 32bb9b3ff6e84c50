"""Accounts as they are read: one, or a stretch of a list."""

from ledger.domain.account_commands import AccountView
from ledger.domain.errors import Refused
from ledger.store.account_lists import Page, Wanted, find_account, list_accounts
from ledger.store.pool import Pool


class Accounts:
    """What is committed of accounts; what changes them are commands to the writer."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def read(self, account_id: str) -> AccountView:
        """Return an account, or refuse with `account_not_found`."""
        found = await find_account(self._pool, account_id)
        if found is None:
            raise Refused("account_not_found")
        return found

    async def page(self, wanted: Wanted, after: str | None, limit: int) -> Page:
        """Return the accounts that are wanted and follow an id, in the order of ids."""
        return await list_accounts(self._pool, wanted, after, limit)

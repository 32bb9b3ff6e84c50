"""Transfers as they are read: one, or a stretch of a list."""

from collections.abc import Collection

from ledger.domain.errors import Refused
from ledger.domain.journal import Record
from ledger.store.pool import Pool
from ledger.store.transfers import (
    TransferPage,
    TransfersWanted,
    find_transfer,
    transfers_of_account,
    transfers_of_journal,
    transfers_under,
)


class Transfers:
    """What is committed of transfers; making and reversing them are commands to the writer."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def find(self, transfer_id: str) -> Record:
        """Return a record that moved money, or refuse with `transfer_not_found`."""
        found = await find_transfer(self._pool, transfer_id)
        if found is None:
            raise Refused("transfer_not_found")
        return found

    async def under(self, scopes: Collection[str], key: str) -> list[Record]:
        """Return the records that moved money under an idempotency key, newest first: one of a scope at most."""
        return await transfers_under(self._pool, scopes, key)

    async def page(
        self, account_id: str | None, wanted: TransfersWanted, below: int | None, limit: int
    ) -> TransferPage:
        """Return the newest transfers below a place: of an account, or else of all of them."""
        if account_id is None:
            return await transfers_of_journal(self._pool, wanted, below, limit)
        return await transfers_of_account(self._pool, account_id, wanted, below, limit)

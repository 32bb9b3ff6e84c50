"""Holds as whoever may read an account sees them."""

from ledger.domain.errors import Refused
from ledger.domain.held import HoldStatus
from ledger.store.holds import HoldPage, KeptHold, find_hold, read_holds
from ledger.store.pool import Pool


class Holds:
    """What is set aside, as it is now."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def find(self, hold_id: str) -> KeptHold:
        """Return a hold, or refuse with `hold_not_found`."""
        found = await find_hold(self._pool, hold_id)
        if found is None:
            raise Refused("hold_not_found")
        return found

    async def of_account(self, account_id: str, status: HoldStatus | None, below: str | None, limit: int) -> HoldPage:
        """Return the newest of an account's holds whose ids are below the given one."""
        return await read_holds(self._pool, account_id, status, below, limit)

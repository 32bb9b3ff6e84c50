"""The journal read back: for the feed, in slices, outside of any transaction."""

from ledger.domain.events import Committed
from ledger.domain.journal import read_body
from ledger.store.accounts import owners_of
from ledger.store.pool import Pool


class JournalReader:
    """Committed records in their order."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def head(self) -> int:
        """Return the number of the last committed record."""
        ((seq,),) = await self._pool.query("SELECT coalesce(max(seq), 0) FROM journal")
        return int(seq)

    async def after(self, seq: int, limit: int) -> list[Committed]:
        """Return up to `limit` records that follow `seq`, in order."""
        rows = await self._pool.query("SELECT body FROM journal WHERE seq > %s ORDER BY seq LIMIT %s", (seq, limit))
        records = [read_body(body) for (body,) in rows]
        named = {item.account for record in records for item in record.items}
        owners = await owners_of(self._pool, named) if named else {}
        return [Committed(record, owners) for record in records]

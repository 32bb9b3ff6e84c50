"""Places in the history of an account: its versions are dense and in the order of time."""

from datetime import datetime
from typing import Final

from ledger.store.pool import Pool


def instant(column: str) -> str:
    """Return the SQL that tells an instant as records do."""
    return f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"


def halving(name: str, account: str, comparison: str) -> str:
    """Return a recursive query `name` that finds an account's last version whose timestamp bears a comparison.

    All versions up to one must bear it and none after that; `low` is this one where `high - low = 1`.
    """
    return f"""
    {name} (low, high) AS (
        SELECT 0::bigint, 1 + coalesce((SELECT max(version) FROM transactions WHERE account_id = {account}), 0)
        UNION ALL
        SELECT CASE WHEN is_before THEN middle ELSE low END, CASE WHEN is_before THEN high ELSE middle END
        FROM (SELECT low, high, (low + high) / 2 AS middle,
                     (SELECT t."timestamp" {comparison} FROM transactions AS t
                      WHERE t.account_id = {account} AND t.version = (low + high) / 2) AS is_before
              FROM {name} WHERE high - low > 1) AS half)"""


_LAST_BEFORE: Final = f"""
    WITH RECURSIVE {halving("search", "%s", "< %s")}
    SELECT low FROM search WHERE high - low = 1"""


async def last_before(pool: Pool, account_id: str, instant: datetime) -> int:
    """Return the last version of an account that was booked before an instant; 0 where there is none."""
    ((version,),) = await pool.query(_LAST_BEFORE, (account_id, instant, account_id))
    return int(version)

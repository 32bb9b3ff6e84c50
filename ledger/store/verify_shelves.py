"""The tables that `verify` reads row by row: what stands there must be what the journal has led to, and no more."""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from ledger.domain.audit import Audit
from ledger.domain.audit_games import undone_problems
from ledger.domain.audit_payments import row_problems
from ledger.domain.audit_rows import Finding, KeptAccount, KeptGameUser, KeptHold, KeptPayment, KeptReversed
from ledger.domain.audit_transfers import until_of
from ledger.store.postgres import Row
from ledger.store.verify_rows import HOLD, PAYMENT, instant, readable, said

_NIL: Final = "00000000-0000-0000-0000-000000000000"


class Shelf(msgspec.Struct, frozen=True):
    """How the rows of a table are read in slices and checked, if need be after the walk has come to where they are.

    The statement takes the last key and a number of rows; its first columns are the key, the last the journal's head.
    """

    sql: str
    start: tuple[Any, ...]
    check: Callable[[Audit, Row], Finding | None]
    walks_on: bool = False


_HEAD: Final = "(SELECT coalesce(max(seq), 0) FROM journal)"


def _account(audit: Audit, row: Row) -> Finding | None:
    account_id, name, status, balance, held, limit, version, last_entry, _ = row
    return audit.account(KeptAccount(account_id, name, status, int(balance), int(held), limit, version, last_entry))


def _hold(audit: Audit, row: Row) -> Finding | None:
    return audit.hold(KeptHold(*row[:9]), *row[9:])


def _reversal(audit: Audit, row: Row) -> Finding | None:
    return audit.reversed_transfer(KeptReversed(row[0], int(row[1]), row[2]), *row[3:])


def _game_user(audit: Audit, row: Row) -> Finding | None:
    return audit.game_user(KeptGameUser(*row[:4]), row[4])


def _backdated_entry(_: Audit, row: Row) -> Finding | None:
    account_id, effective_at, version, is_recorded, _ = row
    problem = f"counts from {effective_at}, and no record says so"
    return None if is_recorded else Finding(f"backdated_entries {account_id} {version}", problem)


def _closed_period(_: Audit, row: Row) -> Finding | None:
    until, _, body, _ = row
    record = None if body is None else readable(body)
    told = [] if record is None else said([record], lambda closing: [until_of(closing)])
    return None if told == [until] else Finding(f"closed_periods {until}", "is closed by no record")


def _undone(_: Audit, row: Row) -> Finding | None:
    uuid, account_id, seq, body, _ = row
    for where, problem in undone_problems((uuid, account_id), seq, None if body is None else readable(body)):
        return Finding(where, problem)
    return None


def _payment(_: Audit, row: Row) -> Finding | None:
    *kept, owner_id, body, _head = row
    for where, problem in row_problems(KeptPayment(*kept), owner_id, None if body is None else readable(body)):
        return Finding(where, problem)
    return None


# One statement for the rows and the head: all of one moment.
ACCOUNTS: Final = Shelf(
    f"""SELECT a.id::text, a.name, a.status, a.balance, a.held, a.credit_limit, a.version,
               (SELECT coalesce(max(t.version), 0) FROM transactions AS t WHERE t.account_id = a.id), {_HEAD}
        FROM accounts AS a WHERE a.id > %s ORDER BY a.id LIMIT %s""",
    (_NIL,),
    _account,
    walks_on=True,
)

SHELVES: Final = (
    Shelf(
        f"""SELECT {HOLD}, EXISTS (SELECT FROM journal AS j WHERE j.id = h.id AND j.kind = 'hold'), {_HEAD}
            FROM holds AS h WHERE h.id > %s ORDER BY h.id LIMIT %s""",
        (_NIL,),
        _hold,
    ),
    Shelf(
        f"""SELECT r.transfer_id::text, r.amount, r.seq,
                   EXISTS (SELECT FROM journal AS j WHERE j.reverses = r.transfer_id), {_HEAD}
            FROM reversed_transfers AS r WHERE r.transfer_id > %s ORDER BY r.transfer_id LIMIT %s""",
        (_NIL,),
        _reversal,
    ),
    Shelf(
        f"""SELECT g.account_id::text, g.name, g.status,
                   (SELECT a.name FROM accounts AS a WHERE a.id = g.account_id),
                   EXISTS (SELECT FROM transactions AS t JOIN journal AS j ON j.seq = t.seq
                           WHERE t.account_id = g.account_id AND t.version = 1 AND j.kind = 'game_deposit'), {_HEAD}
            FROM game_users AS g WHERE g.account_id > %s ORDER BY g.account_id LIMIT %s""",
        (_NIL,),
        _game_user,
        walks_on=True,
    ),
    Shelf(
        f"""SELECT b.account_id::text, {instant("b.effective_at")}, b.version,
                   EXISTS (SELECT FROM transactions AS t JOIN journal AS j ON j.seq = t.seq
                           WHERE t.account_id = b.account_id AND t.version = b.version
                             AND j.effective_at = b.effective_at AND j.posted_at > b.effective_at), {_HEAD}
            FROM backdated_entries AS b WHERE (b.account_id, b.effective_at, b.version) > (%s, %s, %s)
            ORDER BY b.account_id, b.effective_at, b.version LIMIT %s""",
        (_NIL, "-infinity", 0),
        _backdated_entry,
    ),
    Shelf(
        f"""SELECT {instant("p.until")}, p.seq,
                   (SELECT j.body FROM journal AS j WHERE j.seq = p.seq AND j.kind = 'period_close'), {_HEAD}
            FROM closed_periods AS p WHERE p.until > %s ORDER BY p.until LIMIT %s""",
        ("-infinity",),
        _closed_period,
    ),
    Shelf(
        f"""SELECT g.transaction_uuid::text, g.account_id::text, g.seq,
                   (SELECT j.body FROM journal AS j WHERE j.seq = g.seq), {_HEAD}
            FROM game_undone AS g WHERE (g.transaction_uuid, g.account_id) > (%s, %s)
            ORDER BY g.transaction_uuid, g.account_id LIMIT %s""",
        (_NIL, _NIL),
        _undone,
    ),
    Shelf(
        f"""SELECT {PAYMENT}, (SELECT a.user_id::text FROM accounts AS a WHERE a.id = p.account_id),
                   (SELECT j.body FROM journal AS j WHERE j.seq = p.seq), {_HEAD}
            FROM payments AS p WHERE p.id > %s ORDER BY p.id LIMIT %s""",
        (_NIL,),
        _payment,
    ),
)

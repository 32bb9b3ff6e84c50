"""The audit of game users and of what they have rolled back."""

from typing import Any

from ledger.domain.audit_rows import KeptGameUser, Problems, Tables
from ledger.domain.game_users import ACTIVE, ASSET, DISABLED, WORLD, game_account_id
from ledger.domain.journal import Record

_UNDOABLE = ("bet", "win")


def mark_of(record: Record) -> tuple[str, str]:
    """Return the key of the row in `game_undone` that a rollback is about: a transaction uuid and an account."""
    (account_id,) = {item.account for item in record.items} - {WORLD}
    return _said(record)["reference_transaction_uuid"], account_id


class GamesAudit:
    """Keeps which game users may not bet."""

    def __init__(self) -> None:
        self._disabled: set[str] = set()

    def record(self, record: Record, tables: Tables) -> Problems:
        """Check what a record makes of game users and of their transactions."""
        if record.kind in ("game_deposit", "game_status"):
            yield from self._user(record, tables)
        elif record.kind == "rollback":
            yield from self._rollback(record, tables)

    def _user(self, record: Record, tables: Tables) -> Problems:
        name, account_id = f"journal {record.seq}", game_account_id(_said(record)["name"])
        nature = tables.natures.get(account_id)
        if {item.account for item in record.items} - {WORLD} != {account_id} or nature is None:
            yield name, f"tells of game user {_said(record)['name']!r}, whose account is {account_id}"
        elif (nature.user_id, nature.asset, nature.type) != (None, ASSET, "CHECKING"):
            yield f"accounts {account_id}", f"is of {nature.user_id}, {nature.asset}, {nature.type}, and of a game user"
        if account_id not in tables.game_users:
            yield f"game_users {account_id}", f"is missing: journal {record.seq} tells of it"
        status = ACTIVE if record.kind == "game_deposit" else _said(record)["status"]
        (self._disabled.add if status == DISABLED else self._disabled.discard)(account_id)

    def _rollback(self, record: Record, tables: Tables) -> Problems:
        reference, account_id = mark = mark_of(record)
        name, row, kept = f"journal {record.seq}", f"game_undone {reference} {account_id}", tables.game_undone.get(mark)
        moved = sum(entry.amount for entry in record.entries if entry.account == account_id)
        earlier = tables.game_transactions.get(reference)
        if earlier is not None and earlier.seq >= record.seq:
            earlier = None  # it was not there yet, or it is this one, which names itself
        mine = earlier is not None and any(item.account == account_id for item in earlier.items)
        if earlier is not None and not (mine and earlier.kind in _UNDOABLE):
            if kept == record.seq:
                yield row, f"is there, and journal {record.seq} had nothing to undo"
            before = 0
        elif kept is None or kept > record.seq:
            yield row, f"is {'missing' if kept is None else kept}: journal {record.seq} undoes it"
            return
        else:
            undone = () if earlier is None or kept < record.seq else earlier.entries
            before = sum(entry.amount for entry in undone if entry.account == account_id)
        if moved != -before:
            yield name, f"moves {moved} to undo {reference}, which moved {before}"

    def user_row(self, kept: KeptGameUser, is_recorded: bool) -> Problems:
        """Check a row as it was when the journal's head was where the walk is."""
        row = f"game_users {kept.account_id}"
        status = DISABLED if kept.account_id in self._disabled else ACTIVE
        if not is_recorded:
            yield row, "was made by no record"
        elif game_account_id(kept.name) != kept.account_id:
            yield row, f"bears the name {kept.name!r} of another"
        elif kept.status != status:
            yield row, f"has status {kept.status}, the journal says {status}"
        elif kept.account_name != kept.name:
            yield f"accounts {kept.account_id}", f"bears the name {kept.account_name!r}, its game user {kept.name!r}"


def undone_problems(mark: tuple[str, str], seq: int, record: Record | None) -> Problems:
    """Check a row of `game_undone` against the record that it names."""
    if record is None or record.kind != "rollback" or mark_of(record) != mark:
        yield f"game_undone {mark[0]} {mark[1]}", f"is told by no record {seq}"


def _said(record: Record) -> dict[str, Any]:
    return dict(record.metadata or {})

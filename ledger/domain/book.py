"""The book: the facts of one batch, and the deciding of its commands on them, one after the other."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

from ledger.domain.accounts import Account
from ledger.domain.commands import Command, Draft, Leg, Outcome, Replayed, Sealed
from ledger.domain.errors import Refused
from ledger.domain.journal import FORM, Change, Entry, Head, Record, body_of, canonical, seal

FINGERPRINT_FORM: Final = 1


class Book:
    """The facts of one batch, brought forward by each decision."""

    def __init__(
        self,
        head: Head,
        instant: str,
        accounts: dict[str, Account],
        known: dict[tuple[str | None, str | None], Record] | None = None,
        facts: Mapping[str, dict[str, Any]] | None = None,
    ) -> None:
        self.head = head
        self.instant = instant
        self.accounts = accounts
        self.known = {} if known is None else known
        self.facts = {} if facts is None else facts
        self.touched: dict[str, Account] = {}
        self._undo: list[tuple[Account, str, int, int, int, int]] = []
        self._noted: list[tuple[dict[Any, Any], Any, Any]] = []
        self._before: tuple[Head, dict[str, Account]] | None = None  # where a series began that may be taken back

    def account(self, account_id: str) -> Account:
        """Return an account's state at this point of the batch, or refuse with `account_not_found`."""
        try:
            return self.accounts[account_id]
        except KeyError:
            raise Refused("account_not_found", account_id=account_id) from None

    def post(self, legs: Sequence[Leg]) -> tuple[Entry, ...]:
        """Move money along the legs, all or nothing, and return the entries."""
        entries: list[Entry] = []
        accounts, undo = self.accounts, self._undo
        for leg in legs:
            source = accounts.get(leg.source) or self.account(leg.source)
            target = accounts.get(leg.target) or self.account(leg.target)
            amount = leg.amount
            if source.status != "ACTIVE" or target.status != "ACTIVE":
                source.require_active()
                target.require_active()
            if source.asset != target.asset:
                raise Refused("currency_mismatch", account_id=target.id)
            source.require_available(amount)
            target.require_room(amount)
            for account, change in ((source, -amount), (target, amount)):
                before, version, held, limit = account.balance, account.version, account.held, account.credit_limit
                undo.append((account, account.status, before, held, limit, version))  # as `remember` does
                account.balance = balance = before + change
                account.version = version = version + 1
                entries.append(Entry(account.id, change, balance, held, balance - held + limit, version))
        return tuple(entries)

    def change(
        self, account: Account, *, status: str | None = None, credit_limit: int | None = None, held: int | None = None
    ) -> Change:
        """Change an account without moving money, or refuse what would pass its limit.

        A record tells its entries before its changes: a kind that does both posts first, or leaves out the change of
        an account whose entries tell all of it.
        """
        status = account.status if status is None else status
        credit_limit = account.credit_limit if credit_limit is None else credit_limit
        held = account.held if held is None else held
        if credit_limit < 0 or held < 0:
            raise ValueError("neither a limit nor what is held can be below zero")
        if held > account.held:
            account.require_available(held - account.held)
        available = account.balance - held + credit_limit
        if available < 0 and credit_limit < account.credit_limit and not account.is_system:
            raise Refused("negative_balance", account_id=account.id)
        self.remember(account)
        account.status, account.credit_limit, account.held = status, credit_limit, held
        return Change(account.id, status, credit_limit, account.balance, held, available, account.version)

    def remember(self, account: Account) -> None:
        """Note an account's state before it is changed, so that a refusal leaves no trace."""
        self._undo.append(
            (account, account.status, account.balance, account.held, account.credit_limit, account.version)
        )

    def note(self, fact: str, row_id: str, row: Any) -> None:
        """Bring a fact forward, so that later commands see it; a refusal takes it back."""
        self._put(self.facts[fact], row_id, row)

    def open(self, account: Account) -> None:
        """Add an account that the command at hand opens; a refusal takes it back."""
        self._put(self.accounts, account.id, account)

    def _put(self, rows: dict[Any, Any], row_id: Any, row: Any) -> None:
        self._noted.append((rows, row_id, rows.get(row_id)))
        rows[row_id] = row

    def _restore(self, undone: int = 0, noted: int = 0) -> None:
        while len(self._undo) > undone:
            account, status, balance, held, limit, version = self._undo.pop()
            account.status, account.balance, account.held = status, balance, held
            account.credit_limit, account.version = limit, version
        while len(self._noted) > noted:
            rows, row_id, before = self._noted.pop()
            if before is None:
                del rows[row_id]
            else:
                rows[row_id] = before

    def naming(self, known: Record) -> dict[str, Any]:
        """Return the details that name a record under a key; one that may yet be taken back has no name."""
        if self._before is not None and known.seq > self._before[0].seq:
            return {}
        return {"hold_id" if known.kind == "hold" else "transfer_id": known.id}

    def begin(self) -> None:
        """Begin a series of decisions that may be taken back together."""
        self._before = self.head, dict(self.touched)

    def end(self, *, keep: bool) -> None:
        """End the series: what it decided stands, or is as if it had never been."""
        if not keep and self._before is not None:
            self._restore()
            self.head, self.touched = self._before
        self._undo.clear()
        self._noted.clear()
        self._before = None

    def decide(self, command: Command) -> Outcome:
        """Decide one command; what is refused, for whatever cause, leaves the book as it was."""
        fingerprint = None
        named = None if command.key is None else (command.scope, command.key)
        undone, noted = len(self._undo), len(self._noted)
        try:
            if named is not None:
                fingerprint = fingerprint_of(command)
                known = self.known.get(named)
                if known is not None:
                    if known.fingerprint == fingerprint:
                        return Replayed(known)
                    return Refused("duplicate_transaction", **self.naming(known))
            sealed = self._seal(command, fingerprint, command.decide(self))
        except Exception as failure:
            self._restore(undone, noted)
            return failure
        for before in self._undo[undone:]:
            self.touched[before[0].id] = before[0]
        self.head = Head(sealed.record.seq, sealed.hash)
        if self._before is None:
            if named is not None:
                self.known[named] = sealed.record
            self._undo.clear()
            self._noted.clear()
        elif named is not None:
            self._put(self.known, named, sealed.record)
        return sealed

    def _seal(self, command: Command, fingerprint: str | None, draft: Draft) -> Sealed:
        record = Record(
            v=FORM,
            seq=self.head.seq + 1,
            id=command.id,
            kind=command.kind,
            posted_at=self.instant,
            scope=None if command.key is None else command.scope,
            key=command.key,
            fingerprint=fingerprint,
            description=command.description,
            metadata=command.metadata if draft.metadata is None else draft.metadata,
            effective_at=draft.effective_at,
            reverses=draft.reverses,
            entries=draft.entries,
            changes=draft.changes,
        )
        body = body_of(record)
        return Sealed(record, body, seal(self.head.hash, body), draft.writes)


def fingerprint_of(command: Command) -> str:
    """Return the digest of what a command asks for: equal for the same request, however it was written."""
    return f"{FINGERPRINT_FORM}:{blake2b(canonical(command.request()), digest_size=16).hexdigest()}"


def decide(book: Book, commands: Sequence[Command]) -> list[Outcome]:
    """Decide a batch in its order; later commands see what earlier ones did."""
    return [book.decide(command) for command in commands]

"""What this process's last batches left accounts as, so that the next one need not read them again."""

from collections.abc import Collection, Iterable
from typing import Final

from ledger.domain.accounts import Account

_MOST: Final = 10_000


class RecentAccounts:
    """Accounts as they are for as long as the journal ends with the record whose hash is `left_by`.

    Only the writer changes accounts, each change is in the journal, and a hash stands for all that came before it: so
    where the head has that hash, nothing has changed. While a batch is under way it is empty, and nothing is known.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._fresh: dict[str, Account] = {}
        self._older: dict[str, Account] = {}  # what has not been used since there were too many
        self.left_by = b""

    def known(self, ids: Iterable[str]) -> dict[str, Account]:
        """Return those of the accounts that are remembered, by their ids."""
        return self.lent(ids) if self.left_by else {}

    def lent(self, ids: Iterable[str]) -> dict[str, Account]:
        """Return those that are remembered, for the batch that they are lent to and nobody else."""
        fresh, older = self._fresh, self._older
        return {name: account for name in ids if (account := fresh.get(name) or older.get(name)) is not None}

    def lend(self, head: bytes) -> None:
        """Hand the accounts to a batch that begins after this head and will change them."""
        if head != self.left_by:
            self.forget()
        self.left_by = b""

    def follow(self, head: bytes, accounts: Iterable[Account], but: Collection[str] = ()) -> None:
        """Remember where a batch has led accounts to, which is true once its last record, of this hash, is kept.

        Accounts with holds are left out: which of these are due is read with them.
        """
        for account in accounts:
            name = account.id
            if account.held or name in but:
                self._fresh.pop(name, None)
                self._older.pop(name, None)
            else:
                self._fresh[name] = account
        if len(self._fresh) > 2 * self._most:  # one batch alone brought so many
            self.forget()
        elif len(self._fresh) > self._most:
            self._fresh, self._older = {}, self._fresh
        self.left_by = head

    def forget(self) -> None:
        """Know nothing."""
        self._fresh, self._older, self.left_by = {}, {}, b""

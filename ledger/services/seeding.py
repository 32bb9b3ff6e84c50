"""Sample users with sample money, to try things with: made once, and never brought back to how they were."""

from collections.abc import Callable
from typing import Final

import msgspec
from twisted.internet.defer import Deferred

from ledger.domain.accounts import Owner
from ledger.domain.cash import Credit
from ledger.domain.commands import Command, Replayed, Sealed
from ledger.domain.errors import Refused
from ledger.domain.money import asset_named, asset_of
from ledger.services.ids import new_id
from ledger.services.passwords import Passwords
from ledger.store.accounts import find_owner, open_account
from ledger.store.pool import Pool
from ledger.store.postgres import Session, StatementFailed
from ledger.store.users import NewUser, add_user, find_user

_UNIQUE_VIOLATION: Final = "23505"


class Person(msgspec.Struct, frozen=True):
    """A sample user. The ids are fixed: whoever has been made is known again, whatever has become of them."""

    id: str
    account_id: str
    email: str
    full_name: str
    password: str  # published, and so exempt from the rules for passwords
    role: str = "user"
    money: int = 0  # in whole units of the currency
    savings_id: str | None = None


PEOPLE: Final = (
    Person(
        id="0199cdfe-0200-7000-8000-000000000001",
        account_id="0199cdfe-0200-7000-8000-000000000002",
        email="alice@example.com",
        full_name="Alice Example",
        password="password123!",
        money=1_000,
        savings_id="0199cdfe-0200-7000-8000-000000000003",
    ),
    Person(
        id="0199cdfe-0200-7000-8000-000000000004",
        account_id="0199cdfe-0200-7000-8000-000000000005",
        email="bob@example.com",
        full_name="Bob Example",
        password="password123!",
        money=500,
    ),
    Person(
        id="0199cdfe-0200-7000-8000-000000000006",
        account_id="0199cdfe-0200-7000-8000-000000000007",
        email="admin@example.com",
        full_name="Admin User",
        password="admin123!",
        role="admin",
    ),
)


class Seeding:
    """Makes the sample users, and what is missing of one whose making was cut off."""

    def __init__(
        self,
        pool: Pool,
        submit: Callable[[Command], Deferred[Sealed | Replayed]],
        passwords: Passwords,
        currency: str,
    ) -> None:
        self._pool = pool
        self._submit = submit
        self._passwords = passwords
        self._asset = asset_of(currency).name

    async def sow(self, person: Person) -> bool:
        """Make a sample user with accounts and money; whether anything was left to do."""
        user = await find_user(self._pool, person.id)
        is_new = user is None and await self._add(person)
        first = await find_owner(self._pool, person.account_id)
        if first is None or (user is not None and user.status != "ACTIVE"):
            return False  # the address is another user's, or an admin wants this one to be no more
        opened = await self._open_savings(person, first.asset)
        paid = await self._pay_in(person, first.asset)
        return is_new or opened or paid

    async def _add(self, person: Person) -> bool:
        hashed = await self._passwords.hash(person.password)
        first = Owner(person.account_id, person.id, self._asset, is_system=False)
        new = NewUser(person.id, person.email, person.full_name, hashed, first, person.role, verified=True)
        try:
            await add_user(self._pool, new)
        except Refused as refused:
            if refused.reason != "email_already_exists":
                raise
            return False
        except StatementFailed as error:
            return _was_quicker(error)
        return True

    async def _open_savings(self, person: Person, asset: str) -> bool:
        if person.savings_id is None or await find_owner(self._pool, person.savings_id) is not None:
            return False
        savings = Owner(person.savings_id, person.id, asset, is_system=False)

        async def work(session: Session) -> None:
            await open_account(session, savings, "SAVINGS", "Savings")

        try:
            await self._pool.transact(work)
        except StatementFailed as error:
            return _was_quicker(error)
        return True

    async def _pay_in(self, person: Person, asset: str) -> bool:
        """Bring the money in, once in all the life of a ledger: its key says so."""
        if not person.money:
            return False
        command = Credit(
            id=new_id(),
            scope=person.id,
            key=f"seed:{person.email}",
            description="Opening balance",
            account_id=person.account_id,
            user_id=person.id,
            asset=asset,
            amount=person.money * 10 ** asset_named(asset).scale,
        )
        try:
            return isinstance(await self._submit(command), Sealed)
        except Refused as refused:
            # Its key was used for something else, or the account was shut before.
            if refused.reason != "duplicate_transaction" and not refused.reason.startswith("account_"):
                raise
            return False


def _was_quicker(error: StatementFailed) -> bool:
    """Return False where somebody else has made the same at the same time."""
    if error.sqlstate != _UNIQUE_VIOLATION:
        raise error
    return False

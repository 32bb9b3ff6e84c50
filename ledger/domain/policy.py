"""Who may do what: pure functions over the caller and what is asked for."""

from typing import Literal

import msgspec

from ledger.domain.accounts import Owner
from ledger.domain.errors import Refused


class Caller(msgspec.Struct, frozen=True):
    """Who asks: the bearer of an account's token, or the operator on the machine itself."""

    kind: Literal["account", "operator"]
    account_id: str | None = None
    user_id: str | None = None

    @property
    def is_admin(self) -> bool:
        """Whether what is for admins is open to this caller."""
        return self.kind == "operator"

    @property
    def scope(self) -> str | None:
        """In whose name idempotency keys are kept: the user's, else the account's."""
        return self.user_id or self.account_id

    @property
    def client(self) -> str:
        """The name under which this caller's requests are counted."""
        return self.account_id or self.kind


OPERATOR = Caller("operator")


def require_admin(caller: Caller) -> None:
    """Refuse everyone but admins."""
    if not caller.is_admin:
        raise Refused("insufficient_permissions")


def require_same_user(caller: Caller, user_id: str) -> None:
    """Refuse a request that names another user as the owner, whether or not that user exists."""
    if not caller.is_admin and caller.user_id != user_id:
        raise Refused("unauthorized_access")


def require_account(caller: Caller, owner: Owner | None) -> Owner:
    """Return the account that is asked for, if it exists and the caller may act on it.

    An account token acts for its one account; to all but admins a system account does not exist.
    """
    if owner is None or (owner.is_system and not caller.is_admin):
        raise Refused("account_not_found")
    if caller.is_admin or caller.account_id == owner.account_id:
        return owner
    if caller.user_id is not None and caller.user_id == owner.user_id:
        raise Refused("insufficient_permissions")
    raise Refused("unauthorized_access")

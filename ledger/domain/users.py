"""Users as the ledger knows them, and the words for what they may be."""

from typing import Final

import msgspec

from ledger.domain.errors import Refused

ROLES: Final = ("user", "support", "admin")
ACTIVE, SUSPENDED, DELETED = STATUSES = ("ACTIVE", "SUSPENDED", "DELETED")
SORTS: Final = ("email", "full_name", "role", "status", "created_at")


class User(msgspec.Struct, frozen=True):
    """One user; instants are texts of RFC 3339 in UTC, with microseconds."""

    id: str
    email: str
    full_name: str
    role: str
    status: str
    verified: bool
    inserted_at: str
    updated_at: str


class Changes(msgspec.Struct, frozen=True):
    """What is to be changed of a user; None stays as it is."""

    email: str | None = None
    full_name: str | None = None
    role: str | None = None
    status: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """What is not None, by its name."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


class UserFilter(msgspec.Struct, frozen=True):
    """Which users a list tells: deleted ones only where they are asked for."""

    status: str | None = None
    role: str | None = None


class UserCounts(msgspec.Struct, frozen=True):
    """How many users there are who are not deleted, and how many of them are what."""

    total_users: int
    active_users: int
    admin_users: int
    suspended_users: int


def check_role(role: str, field: str = "role") -> str:
    """Return a role, or refuse what is none."""
    if role not in ROLES:
        raise Refused("invalid_role", field=field)
    return role


def check_status(status: str, among: tuple[str, ...] = STATUSES, field: str = "status") -> str:
    """Return a status, or refuse what is none of those allowed."""
    if status not in among:
        raise Refused("invalid_status", field=field)
    return status

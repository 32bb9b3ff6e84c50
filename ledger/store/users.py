"""Users in PostgreSQL: made, found, listed and changed; a change that ends sessions ends them in its transaction."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from ledger.domain.accounts import Owner
from ledger.domain.errors import Refused
from ledger.domain.users import SUSPENDED, Changes, User, UserCounts, UserFilter
from ledger.store.accounts import open_account
from ledger.store.pool import Pool
from ledger.store.postgres import Session, StatementFailed
from ledger.store.sessions import KNOWN_DAYS, REVOKE_ALL
from ledger.store.tokens import add_token

Order = Sequence[tuple[str, bool]]  # fields to sort by, each with whether it descends
Place = tuple[datetime, str]  # where a list in the order of time has got to: inserted_at and id

_UNIQUE_VIOLATION: Final = "23505"
_LOCK: Final = "hashtextextended(%s, 0)"  # of one user: held until the transaction that makes it has ended
_FARTHEST: Final = 2**63 - 1


def _instant(column: str) -> str:
    return f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS {column}"


# In the order of the fields of `User`.
_COLUMNS: Final = (
    f"id::text, email, full_name, role, status, verified, {_instant('inserted_at')}, {_instant('updated_at')}"
)
_SORTED_BY: Final = {name: name for name in ("email", "full_name", "role", "status")} | {"created_at": "inserted_at"}

_decode_list = msgspec.json.Decoder(list[User]).decode


class NewUser(msgspec.Struct, frozen=True):
    """A user to be made, with the first account and, where one is told to the client, its token."""

    id: str
    email: str
    full_name: str
    password_hash: str
    first: Owner
    role: str = "user"
    token: str | None = None
    verified: bool = False


class Kept(msgspec.Struct, frozen=True):
    """What is needed to check a password anew, and whether the user has logged in from the address before."""

    email: str
    role: str
    password_hash: str
    is_known_address: bool


async def add_user(pool: Pool, new: NewUser) -> User:
    """Make a user, the first account and its token in one transaction, or refuse with `email_already_exists`."""

    async def work(session: Session) -> User:
        rows = await session.run(
            f"""SELECT pg_advisory_xact_lock({_LOCK});
                INSERT INTO users (id, email, full_name, password_hash, role, verified)
                VALUES (%s, %s, %s, %s, %s, %s) RETURNING {_COLUMNS}""",
            (new.id, new.id, new.email, new.full_name, new.password_hash, new.role, new.verified),
        )
        await open_account(session, new.first, "CHECKING")
        if new.token is not None:
            await add_token(session, new.first.account_id, new.token)
        return User(*rows[0])

    try:
        return await pool.transact(work)
    except StatementFailed as error:
        raise _taken(error) from error


async def was_added(pool: Pool, user_id: str) -> bool | None:
    """Whether a user whose COMMIT was not answered was made; None while that transaction is still under way."""
    # Tried, not awaited: who waits would keep a connection from others. Two statements, for the second must see what
    # was committed before the first had the lock.
    ((has_ended,),) = await pool.query(f"SELECT pg_try_advisory_xact_lock({_LOCK})", (user_id,))
    return bool(await pool.query("SELECT FROM users WHERE id = %s", (user_id,))) if has_ended else None


async def email_is_taken(pool: Pool, email: str) -> bool:
    """Whether a user who is not deleted has this address."""
    return bool(await pool.query("SELECT FROM users WHERE email = %s AND status <> 'DELETED'", (email,)))


async def find_user(pool: Pool, user_id: str) -> User | None:
    """Return a user, deleted or not, or None."""
    rows = await pool.query(f"SELECT {_COLUMNS} FROM users WHERE id = %s", (user_id,))
    return User(*rows[0]) if rows else None


async def list_users(pool: Pool, wanted: UserFilter, order: Order, limit: int, offset: int) -> tuple[list[User], int]:
    """Return a stretch of the users that are wanted, in an order, and how many there are in all, at one moment."""
    condition, parameters = _condition(wanted)
    # The id breaks ties, in the direction that an index has it in.
    fields = [*((_SORTED_BY[name], descends) for name, descends in order), ("id", bool(order) and order[-1][1])]
    by = ", ".join(f"{column} {'DESC' if descends else 'ASC'}" for column, descends in fields)
    ((total, found),) = await pool.query(
        f"""SELECT (SELECT count(*) FROM users WHERE {condition}), (SELECT json_agg(page)::text FROM (
                SELECT {_COLUMNS} FROM users WHERE {condition}
                ORDER BY {_qualified(by)} LIMIT %s OFFSET %s) AS page)""",
        (*parameters, *parameters, limit, min(offset, _FARTHEST)),
    )
    return _decode_list(found or "[]"), total


async def users_after(pool: Pool, wanted: UserFilter, after: Place | None, limit: int) -> list[User]:
    """Return the users that follow a place, newest first."""
    condition, parameters = _condition(wanted)
    if after is not None:
        condition, parameters = f"{condition} AND (inserted_at, id) < (%s, %s)", [*parameters, *after]
    rows = await pool.query(
        f"SELECT {_COLUMNS} FROM users WHERE {condition} ORDER BY users.inserted_at DESC, users.id DESC LIMIT %s",
        (*parameters, limit),
    )
    return [User(*row) for row in rows]


async def count_users(pool: Pool) -> UserCounts:
    """Return how many users there are."""
    rows = await pool.query(
        """SELECT count(*), count(*) FILTER (WHERE status = 'ACTIVE'), count(*) FILTER (WHERE role = 'admin'),
                  count(*) FILTER (WHERE status = 'SUSPENDED')
           FROM users WHERE status <> 'DELETED'"""
    )
    return UserCounts(*rows[0])


async def change_user(pool: Pool, user_id: str, changes: Changes) -> User | None:
    """Change a user, or return None where there is none to be changed; one who is suspended has no session left."""
    given = changes.given
    assignments = ", ".join(f"{name} = %s" for name in given)

    async def work(session: Session) -> User | None:
        rows = await session.run(
            f"""UPDATE users SET {assignments}, updated_at = clock_timestamp()
                WHERE id = %s AND status <> 'DELETED' RETURNING {_COLUMNS}""",
            (*given.values(), user_id),
        )
        if rows and changes.status == SUSPENDED:
            await _end_sessions(session, user_id)
        return User(*rows[0]) if rows else None

    try:
        return await pool.transact(work)
    except StatementFailed as error:
        raise _taken(error) from error


async def find_password(pool: Pool, user_id: str, address: str) -> Kept | None:
    """Return what is kept of the password of a user who is not deleted."""
    rows = await pool.query(
        f"""SELECT email, role, password_hash, EXISTS (SELECT FROM sessions AS s WHERE s.user_id = users.id
                   AND s.address = %s AND s.created_at > now() - interval '{KNOWN_DAYS} days')
           FROM users WHERE id = %s AND status <> 'DELETED'""",
        (address, user_id),
    )
    return Kept(*rows[0]) if rows else None


async def set_password(
    pool: Pool, user_id: str, password_hash: str, *, instead_of: str | None = None, except_session: str | None = None
) -> tuple[User, list[str]] | None:
    """Keep a new password and end the user's sessions but one; return the user and those ended.

    None where there is no such user, or the password is no longer the one that it was to replace.
    """

    async def work(session: Session) -> tuple[User, list[str]] | None:
        rows = await session.run(
            f"""UPDATE users SET password_hash = %s, updated_at = clock_timestamp()
                WHERE id = %s AND status <> 'DELETED' AND password_hash = coalesce(%s, password_hash)
                RETURNING {_COLUMNS}""",
            (password_hash, user_id, instead_of),
        )
        return (User(*rows[0]), await _end_sessions(session, user_id, except_session)) if rows else None

    return await pool.transact(work)


async def _end_sessions(session: Session, user_id: str, but: str | None = None) -> list[str]:
    # A statement of its own after the user's row is locked: it sees each session begun under what held before.
    return [session_id for (session_id,) in await session.run(REVOKE_ALL, (user_id, but))]


def _condition(wanted: UserFilter) -> tuple[str, list[Any]]:
    given = {name: value for name, value in (("status", wanted.status), ("role", wanted.role)) if value is not None}
    parts = [f"{name} = %s" for name in given]
    if wanted.status is None:
        parts.append("status <> 'DELETED'")
    return " AND ".join(parts), list(given.values())


def _qualified(order: str) -> str:
    """Name the table's own columns, not what the select list makes of them."""
    return ", ".join(f"users.{part}" for part in order.split(", "))


def _taken(error: StatementFailed) -> Exception:
    if error.sqlstate == _UNIQUE_VIOLATION and error.constraint == "users_email_taken":
        return Refused("email_already_exists", field="email")
    return error

"""Sessions and the tokens given out in them, in PostgreSQL."""

from typing import Any, Final

import msgspec

from ledger.domain.policy import Caller
from ledger.domain.users import User
from ledger.store.pool import Pool
from ledger.store.postgres import Row, Session

GRACE: Final = 2.0  # seconds in which a token that was given up may come once more: two requests at once
MOST: Final = 1_000  # sessions of one user: to end them all must not take long, nor ever fail
KNOWN_DAYS: Final = 30  # for which the address of a login is remembered
_SLICE: Final = 500

_INSTANT: Final = """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
_USER: Final = (
    "u.id::text, u.email, u.full_name, u.role, u.status, u.verified,"
    f" {_INSTANT.format('u.inserted_at')}, {_INSTANT.format('u.updated_at')}"
)


class Pair(msgspec.Struct, frozen=True):
    """The ids of two tokens that are given out together, and for how many seconds the longer one is good."""

    access_jti: str
    refresh_jti: str
    lifetime: int


class Login(msgspec.Struct, frozen=True):
    """What must be known of a user who wants to log in."""

    user: User
    password_hash: str
    known: bool  # the address: this user has logged in from there before


class Given(msgspec.Struct, frozen=True):
    """A refresh token as it is kept: whose it is, in which session, and whether it is still worth something."""

    user: User
    session_id: str
    is_live: bool  # the session
    is_rotated: bool
    is_late: bool  # more than `GRACE` has passed since the token, or its session, was given up


async def find_login(pool: Pool, email: str, address: str) -> Login | None:
    """Return who has this e-mail address, unless deleted."""
    rows = await pool.query(
        f"""SELECT u.password_hash,
                   EXISTS (SELECT FROM sessions AS s WHERE s.user_id = u.id AND s.address = %s
                           AND s.created_at > now() - interval '{KNOWN_DAYS} days'),
                   {_USER}
            FROM users AS u WHERE u.email = %s AND u.status <> 'DELETED'""",
        (address, email),
    )
    return Login(User(*rows[0][2:]), *rows[0][:2]) if rows else None


async def begin_session(
    pool: Pool, session_id: str, user_id: str, password_hash: str, address: str, pair: Pair
) -> bool:
    """Begin a session with its first tokens, unless the user has been changed since the password was checked.

    Of a user's sessions the oldest ends where there would be more than `MOST`.
    """
    # The lock makes whoever suspends the user, or sets a password, wait; then they find this session, and end it. In
    # one statement, so that nobody waits for a process that is not there to commit; and what is begun, but not
    # answered, is a session whose tokens nobody has.
    return bool(
        await pool.query(
            f"""WITH same AS (SELECT id FROM users
                              WHERE id = %s AND status = 'ACTIVE' AND password_hash = %s FOR SHARE),
                    begun AS (INSERT INTO sessions (id, user_id, address) SELECT %s, id, %s FROM same RETURNING id),
                    surplus AS (SELECT id FROM sessions WHERE revoked_at IS NULL AND id IN
                                    (SELECT id FROM sessions WHERE user_id = %s AND revoked_at IS NULL
                                     ORDER BY created_at DESC, id DESC OFFSET {MOST - 1})
                                AND EXISTS (SELECT FROM same) FOR UPDATE SKIP LOCKED),
                    ended AS (UPDATE sessions SET revoked_at = now() FROM surplus WHERE sessions.id = surplus.id)
               INSERT INTO refresh_tokens (jti, session_id, access_jti, expires_at)
               SELECT %s, id, %s, now() + %s * interval '1 second' FROM begun RETURNING jti""",
            (user_id, password_hash, session_id, address, user_id, pair.refresh_jti, pair.access_jti, pair.lifetime),
        )
    )


_ADD_PAIR: Final = """INSERT INTO refresh_tokens (jti, session_id, access_jti, expires_at)
                      VALUES (%s, %s, %s, now() + %s * interval '1 second')"""

# Late is what begins late: how long it then waits for the other of two to commit does not count.
_FIND: Final = f"""
    SELECT s.id::text, s.revoked_at IS NULL, r.rotated_at IS NOT NULL,
           coalesce(now() - least(r.rotated_at, s.revoked_at) > interval '{GRACE} seconds', false),
           {_USER}
    FROM refresh_tokens AS r JOIN sessions AS s ON s.id = r.session_id JOIN users AS u ON u.id = s.user_id
    WHERE r.jti = %s AND s.user_id = %s"""


async def rotate(pool: Pool, jti: str, user_id: str, pair: Pair) -> Given | None:
    """Give a new pair for a refresh token that is worth something; return how it was found, None for an unknown one."""

    async def work(session: Session) -> Given | None:
        rows = await session.run(f"{_FIND} FOR UPDATE OF r", (jti, user_id))
        if not rows:
            return None
        given = Given(User(*rows[0][4:]), *rows[0][:4])
        if given.is_live and not given.is_rotated and given.user.status == "ACTIVE":
            await session.run(
                f"UPDATE refresh_tokens SET rotated_at = clock_timestamp() WHERE jti = %s; {_ADD_PAIR}",
                (jti, pair.refresh_jti, given.session_id, pair.access_jti, pair.lifetime),
            )
        return given

    return await pool.transact(work)


async def find_given(pool: Pool, jti: str, user_id: str) -> Given | None:
    """Return a user's refresh token as it is kept."""
    rows = await pool.query(_FIND, (jti, user_id))
    return Given(User(*rows[0][4:]), *rows[0][:4]) if rows else None


async def revoke_session(pool: Pool, session_id: str) -> bool:
    """End a session, and with it every token given out in it; whether it was this that ended it."""
    ended = "UPDATE sessions SET revoked_at = now() WHERE id = %s AND revoked_at IS NULL RETURNING id"
    return bool(await _committed(pool, ended, session_id))


# In the order of their ids: two that revoke the same sessions at once must not wait for each other.
REVOKE_ALL: Final = """
    WITH live AS (SELECT id FROM sessions WHERE user_id = %s AND id IS DISTINCT FROM %s::uuid AND revoked_at IS NULL
                  ORDER BY id FOR UPDATE)
    UPDATE sessions SET revoked_at = now() FROM live WHERE sessions.id = live.id RETURNING sessions.id::text"""


async def revoke_all(pool: Pool, user_id: str, except_session: str | None = None) -> list[str]:
    """End all sessions of a user but that one, and return which were ended."""
    return [row[0] for row in await _committed(pool, REVOKE_ALL, user_id, except_session)]


async def _committed(pool: Pool, statement: str, *parameters: Any) -> list[Row]:
    """Run a statement in a transaction, so that a client hears it when its outcome is not known."""
    return await pool.transact(lambda session: session.run(statement, parameters))


async def find_session_callers(pool: Pool, access_jtis: list[str]) -> dict[str, Caller]:
    """Return, by the id of the access token, who is logged in with it, of those that are still good."""
    rows = await pool.query(
        """SELECT r.access_jti::text, u.id::text, u.role, s.id::text
           FROM refresh_tokens AS r JOIN sessions AS s ON s.id = r.session_id JOIN users AS u ON u.id = s.user_id
           WHERE r.access_jti = ANY (%s::uuid[]) AND s.revoked_at IS NULL AND u.status = 'ACTIVE'""",
        (access_jtis,),
    )
    return {jti: Caller("user", None, user_id, role, session_id) for jti, user_id, role, session_id in rows}


async def prune(pool: Pool) -> int:
    """Remove what nobody can use any more, in slices, and return how many rows these were.

    That is refresh tokens a day after they expired, and sessions without any whose address is no longer of use.
    """
    removed = 0
    while True:
        rows = await pool.query(
            f"""DELETE FROM refresh_tokens WHERE jti IN
                    (SELECT jti FROM refresh_tokens WHERE expires_at < now() - interval '1 day'
                     ORDER BY expires_at LIMIT {_SLICE}) RETURNING jti"""
        )
        removed += len(rows)
        if len(rows) < _SLICE:
            break
    # Ids of sessions grow with time: old ones stand first, and no index by time is needed.
    last = "00000000-0000-0000-0000-000000000000"
    while True:
        ((following, many, gone),) = await pool.query(
            f"""WITH old AS (SELECT id, created_at FROM sessions WHERE id > %s ORDER BY id LIMIT {_SLICE}),
                     due AS (DELETE FROM sessions USING old WHERE sessions.id = old.id
                             AND old.created_at < now() - interval '{KNOWN_DAYS} days'
                             AND NOT EXISTS (SELECT FROM refresh_tokens AS r WHERE r.session_id = old.id)
                             RETURNING sessions.id)
                SELECT (SELECT max(id::text) FROM old WHERE created_at < now() - interval '{KNOWN_DAYS} days'),
                       (SELECT count(*) FROM old WHERE created_at < now() - interval '{KNOWN_DAYS} days'),
                       (SELECT count(*) FROM due)""",
            (last,),
        )
        removed += int(gone)
        if many < _SLICE:
            return removed
        last = following

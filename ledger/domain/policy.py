"""Who may do what: one table of action by role, and pure functions over it."""

from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Final, Literal

import msgspec

from ledger.domain.accounts import Owner
from ledger.domain.errors import Refused

Role = Literal["anyone", "account", "user", "support", "admin"]
ROLES: Final[tuple[Role, ...]] = ("anyone", "account", "user", "support", "admin")


class Caller(msgspec.Struct, frozen=True):
    """Who asks: the bearer of an account's token, or a user who has logged in."""

    kind: Literal["account", "user"]
    account_id: str | None = None
    user_id: str | None = None
    role: Role = "account"
    session_id: str | None = None
    expires_at: int | None = None  # seconds of the epoch
    token_hash: str | None = None  # of an account's token: which one it is, as it is kept, in hexadecimal digits

    @property
    def is_admin(self) -> bool:
        """Whether this is a logged-in admin; an account's token acts for the account, whoever owns it."""
        return self.role == "admin"

    @property
    def scope(self) -> str | None:
        """In whose name idempotency keys are kept: the user's, else the account's."""
        return self.user_id or self.account_id

    @property
    def identity(self) -> tuple[str | None, ...]:
        """Who this is and may do what, whichever token says so."""
        return self.kind, self.account_id, self.user_id, self.role

    @property
    def client(self) -> str:
        """The name under which this caller's requests are counted."""
        return self.account_id or self.user_id or ""


class Reach(IntEnum):
    """How far an action goes for a role: not at all, to what is the caller's own, or to everything."""

    NONE = 0
    OWN = 1
    ANY = 2


class Action(Enum):
    """What can be done, as far as roles matter."""

    SIGN_UP = "sign up"
    LOG_IN = "log in"
    OPEN_WALLET = "open an account that is no user's"
    SEE_HEALTH = "see whether the server is well"
    READ_DOCUMENTS = "read the API's documents"
    SEE_SERVICES = "see the service tree"
    MANAGE_SESSIONS = "see and end one's sessions"
    USE_PROFILE = "see and change one's profile"
    MANAGE_USERS = "see, make, change and delete users"
    READ_AUDIT = "read the audit log"
    READ_BALANCE = "read balances"
    READ_HISTORY = "read the transactions of accounts"
    MOVE_MONEY = "take money out of accounts"
    BRING_MONEY_IN = "bring money in from outside"
    BRING_MONEY_IN_FOR_OTHERS = "bring money in where users may not do it themselves"
    RENEW_TOKEN = "replace the token of an account"
    REISSUE_TOKEN = "give a new token for one that was lost"
    WATCH_EVERYTHING = "watch every balance"
    PLAY = "send signed calls of games"
    MANAGE_GAME_USERS = "make, enable and disable game users"
    OPEN_ACCOUNTS = "open further accounts"
    READ_ACCOUNTS = "see accounts"
    NAME_ACCOUNTS = "name accounts"
    GOVERN_ACCOUNTS = "freeze, close and limit accounts, and see those of others"
    HOLD_MONEY = "set money of accounts aside"
    READ_HOLDS = "see what is set aside"
    POST_BATCHES = "post many transfers at once"
    BACKDATE = "book what counts from an earlier time"
    CLOSE_PERIODS = "close periods"
    READ_JOURNAL = "read and verify the journal"
    MANAGE_JOBS = "see, retry and cancel jobs"
    MAKE_PAYMENTS = "make payments"
    READ_PAYMENTS = "see payments"
    SUM_UP_PAYMENTS = "see how users do, and what they paid last"
    PROCESS_PAYMENTS = "process and schedule payments"
    CANCEL_PAYMENTS = "cancel payments"


def _row(anyone: int, account: int, user: int, support: int, admin: int) -> MappingProxyType[Role, Reach]:
    return MappingProxyType(dict(zip(ROLES, map(Reach, (anyone, account, user, support, admin)), strict=True)))


_NONE, _OWN, _ANY = Reach

TABLE: Final = MappingProxyType(
    {
        # action                           anyone account user  support admin
        Action.SIGN_UP: _row(_ANY, _ANY, _ANY, _ANY, _ANY),
        Action.LOG_IN: _row(_ANY, _ANY, _ANY, _ANY, _ANY),
        Action.OPEN_WALLET: _row(_ANY, _ANY, _ANY, _ANY, _ANY),
        Action.SEE_HEALTH: _row(_ANY, _ANY, _ANY, _ANY, _ANY),
        Action.READ_DOCUMENTS: _row(_ANY, _ANY, _ANY, _ANY, _ANY),
        Action.SEE_SERVICES: _row(_NONE, _NONE, _NONE, _NONE, _ANY),
        Action.MANAGE_SESSIONS: _row(_NONE, _NONE, _OWN, _OWN, _OWN),
        Action.USE_PROFILE: _row(_NONE, _NONE, _OWN, _OWN, _OWN),
        Action.MANAGE_USERS: _row(_NONE, _NONE, _NONE, _NONE, _ANY),
        Action.READ_AUDIT: _row(_NONE, _NONE, _NONE, _NONE, _ANY),
        Action.READ_BALANCE: _row(_NONE, _OWN, _OWN, _ANY, _ANY),
        Action.READ_HISTORY: _row(_NONE, _OWN, _OWN, _ANY, _ANY),
        Action.MOVE_MONEY: _row(_NONE, _OWN, _OWN, _OWN, _ANY),
        Action.BRING_MONEY_IN: _row(_NONE, _OWN, _OWN, _OWN, _ANY),
        Action.BRING_MONEY_IN_FOR_OTHERS: _row(_NONE, _NONE, _NONE, _NONE, _ANY),
        Action.RENEW_TOKEN: _row(_NONE, _OWN, _OWN, _OWN, _OWN),
        Action.REISSUE_TOKEN: _row(_NONE, _NONE, _NONE, _NONE, _ANY),
        Action.WATCH_EVERYTHING: _row(_NONE, _NONE, _NONE, _ANY, _ANY),
        Action.PLAY: _row(_ANY, _ANY, _ANY, _ANY, _ANY),
        Action.MANAGE_GAME_USERS: _row(_NONE, _NONE, _NONE, _NONE, _ANY),
        Action.OPEN_ACCOUNTS: _row(_NONE, _NONE, _OWN, _OWN, _ANY),
        Action.READ_ACCOUNTS: _row(_NONE, _OWN, _OWN, _ANY, _ANY),
        Action.NAME_ACCOUNTS: _row(_NONE, _OWN, _OWN, _OWN, _ANY),
        Action.GOVERN_ACCOUNTS: _row(_NONE, _NONE, _NONE, _NONE, _ANY),
        Action.HOLD_MONEY: _row(_NONE, _OWN, _OWN, _OWN, _ANY),
        Action.READ_HOLDS: _row(_NONE, _OWN, _OWN, _ANY, _ANY),
        Action.POST_BATCHES: _row(_NONE, _NONE, _NONE, _NONE, _ANY),
        Action.BACKDATE: _row(_NONE, _NONE, _NONE, _NONE, _ANY),
        Action.CLOSE_PERIODS: _row(_NONE, _NONE, _NONE, _NONE, _ANY),
        Action.READ_JOURNAL: _row(_NONE, _NONE, _NONE, _NONE, _ANY),
        Action.MANAGE_JOBS: _row(_NONE, _NONE, _NONE, _NONE, _ANY),
        Action.MAKE_PAYMENTS: _row(_NONE, _NONE, _OWN, _OWN, _ANY),
        Action.READ_PAYMENTS: _row(_NONE, _NONE, _OWN, _ANY, _ANY),
        Action.SUM_UP_PAYMENTS: _row(_NONE, _NONE, _OWN, _OWN, _ANY),
        Action.PROCESS_PAYMENTS: _row(_NONE, _NONE, _OWN, _NONE, _ANY),
        Action.CANCEL_PAYMENTS: _row(_NONE, _NONE, _OWN, _ANY, _ANY),
    }
)


def reach(caller: Caller | None, action: Action) -> Reach:
    """Return how far an action goes for a caller, or for one who is not known."""
    return TABLE[action]["anyone" if caller is None else caller.role]


def is_open(action: Action) -> bool:
    """Whether anyone may do it."""
    return TABLE[action]["anyone"] is Reach.ANY


def require_role(caller: Caller, action: Action) -> None:
    """Refuse what the role alone rules out."""
    if TABLE[action][caller.role] is Reach.NONE:
        raise Refused("insufficient_permissions")


def require_user(caller: Caller, action: Action, user_id: str) -> None:
    """Refuse a request that names another user as the owner, whether or not that user exists."""
    if caller.user_id != user_id and TABLE[action][caller.role] is not Reach.ANY:
        raise Refused("unauthorized_access")


def require_account(caller: Caller, action: Action, owner: Owner | None) -> Owner:
    """Return the account that is asked for, if it exists and the caller may do this with it.

    An account token acts for its one account; to all but admins a system account does not exist.
    """
    if owner is None or (owner.is_system and not caller.is_admin):
        raise Refused("account_not_found")
    if TABLE[action][caller.role] is Reach.ANY or caller.account_id == owner.account_id:
        return owner
    if caller.user_id is None or caller.user_id != owner.user_id:
        raise Refused("unauthorized_access")
    if caller.account_id is not None:
        raise Refused("insufficient_permissions")
    return owner

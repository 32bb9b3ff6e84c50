"""What can be followed, and what of it each caller gets to see."""

import re
from typing import Final, Literal, Protocol

import msgspec

from ledger.domain.accounts import Owner
from ledger.domain.errors import Refused
from ledger.domain.events import ALL_TOPIC
from ledger.domain.policy import Action, Caller, require_account, require_role, require_user

_UUID: Final = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.ASCII)


class Topic(msgspec.Struct, frozen=True):
    """A stream of updates: everybody's, one user's, or one account's."""

    name: str
    kind: Literal["all", "users", "accounts"]
    id: str = ""

    def covers(self, account_id: str, user_id: str | None) -> bool:
        """Whether the updates of this account, which is no system account, belong here."""
        if self.kind == "all":
            return True
        return self.id == (user_id if self.kind == "users" else account_id)


class Grant(msgspec.Struct, frozen=True):
    """A topic as one caller sees it: whole, or only the updates of one account."""

    topic: Topic
    only_account: str | None = None


class Directory(Protocol):
    """Knows the owners of accounts."""

    async def owner(self, account_id: str) -> Owner | None: ...


def read_topic(name: str) -> Topic:
    """Return the topic of this name, or refuse it: nothing of the kind, or a malformed id."""
    if name == ALL_TOPIC:
        return Topic(name, "all")
    kind, _, identity = name.partition(":")
    if kind not in ("users", "accounts"):
        raise Refused("resource_not_found", "There is no such topic")
    if not _UUID.fullmatch(identity):
        raise Refused("invalid_uuid_format", field="topic")
    return Topic(name, "users" if kind == "users" else "accounts", identity)


def topic_filter(caller: Caller, topic: Topic, owner: Owner | None = None) -> Grant:
    """Return what this caller sees of a topic, or refuse; `owner` is that of the account, for an account's topic."""
    if topic.kind == "all":
        require_role(caller, Action.WATCH_EVERYTHING)
        return Grant(topic)
    if topic.kind == "users":
        require_user(caller, Action.READ_BALANCE, topic.id)
        return Grant(topic, caller.account_id)
    if owner is not None and owner.is_system:
        owner = None  # never published, so for nobody a topic
    require_account(caller, Action.READ_BALANCE, owner)
    return Grant(topic)


async def grant(directory: Directory, caller: Caller, name: str) -> Grant:
    """Return what this caller sees of the topic of this name, or refuse."""
    topic = read_topic(name)
    owner = await directory.owner(topic.id) if topic.kind == "accounts" else None
    return topic_filter(caller, topic, owner)

"""Who may follow what; where a client stands; how a token is sent."""

import pytest

from ledger.domain.errors import Refused
from ledger.domain.policy import Caller
from ledger.pubsub.access import bearer_token
from ledger.pubsub.cursor import WHOLE, Cursor, read_cursor
from ledger.pubsub.topics import grant
from tests.pubsub.world import ACCOUNTS, OWNERS, USERS, WORLD, Owners, account, done, identity

ADMIN = Caller("user", user_id=identity("user", 10), role="admin")
SUPPORT = Caller("user", user_id=identity("user", 11), role="support")
ALICE = Caller("user", user_id=USERS["alice"], role="user")
ALICE1 = Caller("account", account("alice1"), USERS["alice"])
WALLET = Caller("account", account("wallet"), None)
SHOUTED = f"accounts:{account('alice1').upper()}"


@pytest.mark.parametrize(
    ("caller", "topic", "outcome"),
    [
        (ADMIN, "balance_updated", None),
        (ALICE1, "balance_updated", "insufficient_permissions"),
        (SUPPORT, "balance_updated", None),
        (ALICE, "balance_updated", "insufficient_permissions"),
        (ADMIN, f"users:{USERS['bob']}", None),
        (SUPPORT, f"users:{USERS['bob']}", None),
        (ADMIN, f"users:{identity('user', 99)}", None),
        (ALICE, f"users:{USERS['alice']}", None),
        (ALICE, f"users:{USERS['bob']}", "unauthorized_access"),
        (ALICE, f"users:{identity('user', 99)}", "unauthorized_access"),
        (ALICE1, f"users:{USERS['alice']}", account("alice1")),
        (ALICE1, f"users:{USERS['bob']}", "unauthorized_access"),
        (ALICE1, f"users:{identity('user', 99)}", "unauthorized_access"),
        (WALLET, f"users:{USERS['bob']}", "unauthorized_access"),
        (ADMIN, f"accounts:{account('bob')}", None),
        (SUPPORT, f"accounts:{account('bob')}", None),
        (SUPPORT, f"accounts:{account('wallet')}", None),
        (SUPPORT, f"accounts:{WORLD}", "account_not_found"),
        (SUPPORT, f"accounts:{identity('account', 99)}", "account_not_found"),
        (ALICE, f"accounts:{account('alice1')}", None),
        (ALICE, f"accounts:{account('alice2')}", None),
        (ALICE, f"accounts:{account('bob')}", "unauthorized_access"),
        (ALICE, f"accounts:{account('wallet')}", "unauthorized_access"),
        (ALICE, f"accounts:{WORLD}", "account_not_found"),
        (ALICE1, f"accounts:{account('alice1')}", None),
        (ALICE1, f"accounts:{account('alice2')}", "insufficient_permissions"),
        (ALICE1, f"accounts:{account('bob')}", "unauthorized_access"),
        (ALICE1, f"accounts:{identity('account', 99)}", "account_not_found"),
        (ALICE1, f"accounts:{WORLD}", "account_not_found"),
        (ADMIN, f"accounts:{WORLD}", "account_not_found"),
        (WALLET, f"accounts:{account('wallet')}", None),
        (ADMIN, "accounts:7", "invalid_uuid_format"),
        (ALICE1, SHOUTED, "invalid_uuid_format"),
        (ADMIN, "balances", "resource_not_found"),
        (ADMIN, "users", "invalid_uuid_format"),
        (ADMIN, "\x00", "resource_not_found"),
    ],
)
def test_what_each_caller_sees(caller: Caller, topic: str, outcome: str | None) -> None:
    if outcome is None or outcome in OWNERS:
        granted = done(grant(Owners(), caller, topic))
        assert granted.topic.name == topic
        assert granted.only_account == outcome
    else:
        with pytest.raises(Refused) as refused:
            done(grant(Owners(), caller, topic))
        assert refused.value.reason == outcome


def test_an_account_token_is_its_account() -> None:
    for owner in ACCOUNTS.values():
        caller = Caller("account", owner.account_id, owner.user_id)
        assert done(grant(Owners(), caller, f"accounts:{owner.account_id}")).only_account is None


@pytest.mark.parametrize(
    ("since", "cursor"),
    [
        (0, Cursor(0)),
        (17, Cursor(17)),
        ("17", Cursor(17, WHOLE)),
        ("17:0", Cursor(17, 0)),
        ("017:03", Cursor(17, 3)),
        ("999999999999999999:999999999", Cursor(10**18 - 1, 10**9 - 1)),
    ],
)
def test_cursors_are_read(since: object, cursor: Cursor) -> None:
    assert read_cursor(since) == cursor


@pytest.mark.parametrize(
    "since", [-1, True, False, 1.0, 10**18, "", "x", "1:", ":1", "1:-1", "1:2:3", " 1", "1\n", "١", "9" * 30, [1], {}]
)
def test_other_cursors_are_refused(since: object) -> None:
    with pytest.raises(Refused) as refused:
        read_cursor(since)
    assert refused.value.reason == "invalid_cursor"


def test_a_cursor_covers_what_was_seen() -> None:
    assert Cursor(5).covers(5, 7)
    assert Cursor(5, 1).covers(5, 1)
    assert Cursor(5, 1).covers(4, 9)
    assert not Cursor(5, 1).covers(5, 2)
    assert not Cursor(5).covers(6, 0)
    assert (Cursor(5).complete, Cursor(5, 3).complete) == (5, 4)


def test_bearer_tokens_are_read() -> None:
    assert bearer_token("Bearer abc") == "abc"
    assert bearer_token("bearer  abc ") == "abc"
    for header in ("", "Bearer", "Bearer ", "Basic abc", "Bearer a b", "abc"):
        with pytest.raises(Refused) as refused:
            bearer_token(header)
        assert refused.value.reason == "invalid_token"

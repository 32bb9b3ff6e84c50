"""Who may do what: the whole table, role by action, for what is one's own and what is not."""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import pytest

from ledger.domain.accounts import Owner
from ledger.domain.errors import Refused
from ledger.domain.policy import (
    ROLES,
    TABLE,
    Action,
    Caller,
    Role,
    is_open,
    reach,
    require_account,
    require_role,
    require_user,
)

# -: refused, o: for what is one's own, *: for everything
EXPECTED: Final = """
                            anyone account user support admin
SIGN_UP                     *      *       *    *       *
LOG_IN                      *      *       *    *       *
OPEN_WALLET                 *      *       *    *       *
SEE_HEALTH                  *      *       *    *       *
READ_DOCUMENTS              *      *       *    *       *
SEE_SERVICES                -      -       -    -       *
MANAGE_SESSIONS             -      -       o    o       o
USE_PROFILE                 -      -       o    o       o
MANAGE_USERS                -      -       -    -       *
READ_AUDIT                  -      -       -    -       *
READ_BALANCE                -      o       o    *       *
READ_HISTORY                -      o       o    *       *
MOVE_MONEY                  -      o       o    o       *
BRING_MONEY_IN              -      o       o    o       *
BRING_MONEY_IN_FOR_OTHERS   -      -       -    -       *
RENEW_TOKEN                 -      o       o    o       o
REISSUE_TOKEN               -      -       -    -       *
WATCH_EVERYTHING            -      -       -    *       *
PLAY                        *      *       *    *       *
MANAGE_GAME_USERS           -      -       -    -       *
OPEN_ACCOUNTS               -      -       o    o       *
READ_ACCOUNTS               -      o       o    *       *
NAME_ACCOUNTS               -      o       o    o       *
GOVERN_ACCOUNTS             -      -       -    -       *
HOLD_MONEY                  -      o       o    o       *
READ_HOLDS                  -      o       o    *       *
POST_BATCHES                -      -       -    -       *
BACKDATE                    -      -       -    -       *
CLOSE_PERIODS               -      -       -    -       *
READ_JOURNAL                -      -       -    -       *
MANAGE_JOBS                 -      -       -    -       *
MAKE_PAYMENTS               -      -       o    o       *
READ_PAYMENTS               -      -       o    *       *
SUM_UP_PAYMENTS             -      -       o    o       *
PROCESS_PAYMENTS            -      -       o    -       *
CANCEL_PAYMENTS             -      -       o    *       *
"""
_HEAD, *_LINES = (line.split() for line in EXPECTED.strip().splitlines())
CELLS = [(role, Action[name], mark) for name, *marks in _LINES for role, mark in zip(_HEAD, marks, strict=True)]
KNOWN = [cell for cell in CELLS if cell[0] != "anyone"]

ME, OTHER = "00000000-0000-7000-8000-000000000001", "00000000-0000-7000-8000-000000000002"
MINE = Owner("00000000-0000-7000-8000-00000000000a", ME, "USD/2", is_system=False)
MY_SECOND = Owner("00000000-0000-7000-8000-00000000000b", ME, "USD/2", is_system=False)
THEIRS = Owner("00000000-0000-7000-8000-00000000000c", OTHER, "USD/2", is_system=False)
NOBODYS = Owner("00000000-0000-7000-8000-00000000000d", None, "USD/2", is_system=False)
WORLD = Owner("00000000-0000-7000-8000-00000000000e", None, "USD/2", is_system=True)


def caller(role: Role) -> Caller:
    return Caller("account", MINE.account_id, ME) if role == "account" else Caller("user", user_id=ME, role=role)


def verdict(judge: Callable[[], object]) -> str:
    with suppress(Refused):
        judge()
        return "allowed"
    try:
        judge()
    except Refused as refused:
        return refused.reason
    raise AssertionError


def test_the_table_is_whole() -> None:
    assert tuple(_HEAD) == ROLES
    assert set(TABLE) == set(Action) == {action for _, action, _ in CELLS}
    assert all(set(row) == set(ROLES) for row in TABLE.values())


@pytest.mark.parametrize(("role", "action", "mark"), CELLS)
def test_how_far_an_action_goes(role: Role, action: Action, mark: str) -> None:
    assert "-o*"[reach(None if role == "anyone" else caller(role), action)] == mark


@pytest.mark.parametrize(("role", "action", "mark"), KNOWN)
def test_the_role_alone(role: Role, action: Action, mark: str) -> None:
    expected = "insufficient_permissions" if mark == "-" else "allowed"
    assert verdict(lambda: require_role(caller(role), action)) == expected


@pytest.mark.parametrize(("role", "action", "mark"), KNOWN)
def test_ones_own_and_others_data(role: Role, action: Action, mark: str) -> None:
    others = "allowed" if mark == "*" else "unauthorized_access"
    assert verdict(lambda: require_user(caller(role), action, ME)) == "allowed"
    assert verdict(lambda: require_user(caller(role), action, OTHER)) == others
    assert verdict(lambda: require_account(caller(role), action, MINE)) == "allowed"
    assert verdict(lambda: require_account(caller(role), action, THEIRS)) == others
    assert verdict(lambda: require_account(caller(role), action, NOBODYS)) == others


@pytest.mark.parametrize(
    "action", [Action.READ_BALANCE, Action.READ_HISTORY, Action.MOVE_MONEY, Action.BRING_MONEY_IN, Action.RENEW_TOKEN]
)
def test_an_account_token_acts_for_its_one_account(action: Action) -> None:
    token = caller("account")
    assert verdict(lambda: require_account(token, action, MY_SECOND)) == "insufficient_permissions"
    assert verdict(lambda: require_account(token, action, THEIRS)) == "unauthorized_access"
    assert verdict(lambda: require_account(caller("user"), action, MY_SECOND)) == "allowed"


@pytest.mark.parametrize("role", ["account", "user", "support"])
def test_to_all_but_admins_a_system_account_does_not_exist(role: Role) -> None:
    assert verdict(lambda: require_account(caller(role), Action.READ_BALANCE, WORLD)) == "account_not_found"
    assert verdict(lambda: require_account(caller(role), Action.READ_BALANCE, None)) == "account_not_found"
    assert verdict(lambda: require_account(caller("admin"), Action.READ_BALANCE, WORLD)) == "allowed"


def test_open_is_what_anyone_may_do() -> None:
    assert {action for action in Action if is_open(action)} == {
        *(Action.SIGN_UP, Action.LOG_IN, Action.OPEN_WALLET, Action.SEE_HEALTH, Action.READ_DOCUMENTS, Action.PLAY)
    }


def test_keys_are_kept_in_the_users_name_and_requests_counted_by_credential() -> None:
    assert caller("account").scope == caller("user").scope == ME
    assert Caller("account", MINE.account_id).scope == MINE.account_id
    assert caller("account").client == MINE.account_id
    assert caller("user").client == ME

"""The commands that made-up requests mean, as the surface would make them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ledger.domain.account_commands import AccountView, AmendAccount, OpenAccount
from ledger.domain.cash import Credit, Debit
from ledger.domain.commands import Command, Leg
from ledger.domain.deletion import DeleteUser
from ledger.domain.holds import CaptureHold, ExpireHolds, OpenHold, VoidHold
from ledger.domain.journal import Record
from ledger.domain.periods import ClosePeriod
from ledger.domain.reversals import Reverse, legs_back
from ledger.domain.transfers import Expectation, Transfer
from tests.core_programs import DOLLAR, Ask, Known


def command_of(ask: Ask, known: Known, records: Mapping[str, Record]) -> Command:
    """The command that a request means, as the surface would make it."""
    args = ask.args
    common: dict[str, Any] = {"id": ask.id, "description": ask.description}
    if ask.key is not None:
        common |= {"key": ask.key, "scope": ask.scope}

    def asset_of(account_id: str) -> str:
        asset: str = known.accounts.get(account_id, {"asset": DOLLAR})["asset"]
        return asset

    if ask.kind in ("credit", "debit"):
        cash = Credit if ask.kind == "credit" else Debit
        account = args["account"]
        return cash(account_id=account, user_id=None, asset=asset_of(account), amount=args["amount"], **common)
    if ask.kind == "transfer":
        legs = tuple(Leg(*leg) for leg in args["legs"])
        expect = dict(args["expect"] or {})
        expectation = Expectation(expect.pop("account"), **expect) if expect else None
        assets = tuple(asset_of(leg.source) for leg in legs)
        return Transfer(legs=legs, assets=assets, expect=expectation, effective_at=args["effective_at"], **common)
    if ask.kind == "reverse":
        original = records[args["original"]]
        back = legs_back(original)
        assets = tuple(asset_of(leg.source) for leg in back)
        return Reverse(legs=back, assets=assets, original=original, amount=args["amount"], **common)
    if ask.kind == "hold":
        account = args["account"]
        asset, amount, expires_in = asset_of(account), args["amount"], args["expires_in"]
        return OpenHold(account_id=account, asset=asset, amount=amount, expires_in=expires_in, **common)
    if ask.kind in ("capture", "void"):
        account = known.holds.get(args["hold"], {"account": known_account(known)})["account"]
        of_hold: dict[str, Any] = {"account_id": account, "asset": asset_of(account), "hold_id": args["hold"]}
        if ask.kind == "void":
            return VoidHold(**of_hold, **common)
        return CaptureHold(amount=args["amount"], target=args["target"], **of_hold, **common)
    if ask.kind == "sweep":
        return ExpireHolds(account_id=args["account"], **common)
    if ask.kind == "open":
        more = {"asset": args["asset"], "type": args["type"], "name": args["name"], "credit_limit": args["limit"]}
        return OpenAccount(user_id=args["user"], **more, **common)
    if ask.kind == "amend":
        amended = view_of(args["account"], known.accounts.get(args["account"], {"user": None})["user"])
        more = {"name": args["name"], "status": args["status"], "credit_limit": args["limit"]}
        return AmendAccount(account=amended, **more, **common)
    if ask.kind == "close":
        return ClosePeriod(until=args["until"], **common)
    return DeleteUser(user_id=args["user"], metadata={"user_id": args["user"]}, **common)


def known_account(known: Known) -> str:
    """Any account."""
    return next(iter(known.accounts))


def view_of(account_id: str, user: str | None) -> AccountView:
    """An account as whoever amends it has read it; only whose it is counts here."""
    return AccountView(account_id, user, None, "CHECKING", "USD", 2, "ACTIVE", "0.00", "0.00", "0.00", 0, "0.00", "")

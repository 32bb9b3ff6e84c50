"""Transactions: what a record did to one account, in the words of that account's owner."""

from typing import Literal

import msgspec

Direction = Literal["credit", "debit"]
Kind = Literal[
    "credit",
    "debit",
    "topup",
    "charge",
    "transfer",
    "bet",
    "win",
    "rollback",
    "payment",
    "capture",
    "reversal",
    "sync",
]


class Transaction(msgspec.Struct, frozen=True):
    """One movement of money, with the account's balance after it; `kind` is that of the record behind it."""

    id: str
    type: str
    kind: str
    amount: str
    balance: str
    description: str | None
    timestamp: str
    transfer_id: str

"""Postings of which some count from earlier, and a naive list of what they did to an account."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from hypothesis import strategies as st

from ledger.domain.accounts import Owner, world_id
from ledger.domain.commands import Leg, Sealed
from ledger.domain.journal import entry_id
from ledger.domain.transfers import Transfer
from ledger.services.ids import new_id
from tests.postgres.house import House
from tests.strategies import DOLLAR

LONG_AGO = "2020-01-01T00:00:00.000000Z"


@dataclass(frozen=True)
class Move:
    """A transfer out of 0 the world, 1 the first account, 2 the second, to the next but `to`, and how it is dated.

    `back` names the instant of an earlier batch, and microseconds from there.
    """

    source: int
    to: int
    amount: int
    description: str | None
    back: tuple[int, int] | None


moves = st.builds(
    Move,
    source=st.sampled_from((0, 0, 0, 1, 2)),
    to=st.integers(1, 2),
    amount=st.integers(1, 9),
    description=st.none() | st.sampled_from(["a", '"', "\u20ac"]),
    back=st.none() | st.tuples(st.integers(-4, 4), st.integers(-1, 1)),
)
batches = st.lists(st.lists(moves, min_size=1, max_size=5), min_size=1, max_size=9)


class Booked(NamedTuple):
    """An entry of an account, in the order in which it counts."""

    effective_at: str
    version: int
    amount: int
    posted_at: str
    id: str
    transfer_id: str
    description: str | None


class Past:
    """What has been booked by a house."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.first, self.second = (account.id for account in house.cast.accounts[:2])
        self.instants = [LONG_AGO]  # of the batches, and one before all of them
        self.records: list[Any] = []

    @property
    def owner(self) -> Owner:
        """The first account."""
        return Owner(self.first, None, DOLLAR, is_system=False)

    def transfer(self, move: Move) -> Transfer:
        """The command of a move."""
        accounts = (world_id(DOLLAR), self.first, self.second)
        leg = Leg(accounts[move.source], accounts[(move.source + move.to) % 3], move.amount)
        effective_at = None
        if move.back is not None:
            which, microseconds = move.back
            effective_at = shifted(self.instants[which % len(self.instants)], microseconds)
        return Transfer(
            id=new_id(), legs=(leg,), assets=(DOLLAR,), description=move.description, effective_at=effective_at
        )

    async def book(self, batch: Sequence[Move]) -> None:
        """Book one batch, or what is covered of it."""
        outcomes = await self.house.submit(*map(self.transfer, batch))
        records = [outcome.record for outcome in outcomes if isinstance(outcome, Sealed)]
        self.records += records
        self.instants += sorted({record.posted_at for record in records})

    def entries(self) -> list[Booked]:
        """All of the first account's, in the order in which they count."""
        return sorted(
            Booked(
                record.effective_at or record.posted_at,
                entry.version,
                entry.amount,
                record.posted_at,
                entry_id(record.id, index),
                record.id,
                record.description,
            )
            for record in self.records
            for index, entry in enumerate(record.entries)
            if entry.account == self.first
        )

    def points(self) -> list[str]:
        """All instants at which something may change, and those around them."""
        return [shifted(instant, microseconds) for instant in self.instants for microseconds in (-1, 0, 1)]


def shifted(instant: str, microseconds: int) -> str:
    """An instant so much later."""
    moved = datetime.fromisoformat(instant) + timedelta(microseconds=microseconds)
    return moved.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

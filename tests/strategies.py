"""What Hypothesis makes up: programs of commands over a small cast of accounts, cut into batches at random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Final
from uuid import UUID, uuid4

from hypothesis import settings
from hypothesis import strategies as st

from ledger.domain.accounts import Account, world_id
from ledger.domain.cash import Credit, Debit
from ledger.domain.commands import Command, Leg
from tests.domain.kinds import Hold, SetLimit, SetStatus, Transfer

DOLLAR: Final = "USD/2"
EURO: Final = "EUR/2"
HUGE: Final = 2**63 - 1


def examples(number: int) -> settings:
    """So many examples, however slow the machine is, and nothing kept on disk."""
    return settings(max_examples=number, deadline=None, database=None)


@dataclass(frozen=True)
class Cast:
    """The accounts and scopes of one program, with ids of their own, so that many programs may share a database."""

    accounts: tuple[Account, ...]
    scopes: tuple[str, str]
    unknown: str
    _ids: Iterator[str]

    @classmethod
    def new(cls) -> Cast:
        """Make up ids; which ones does not matter to any outcome."""
        base = uuid4().int >> 48 << 48
        ids = (str(UUID(int=base + 1_000 * number)) for number in count(1))
        assets = (DOLLAR, DOLLAR, DOLLAR, EURO)
        accounts = tuple(ordinary(next(ids), asset) for asset in assets)
        return cls(accounts, (next(ids), next(ids)), next(ids), ids)

    @property
    def everyone(self) -> list[Account]:
        """All accounts, the worlds last, each as it was opened."""
        worlds = [Account(world_id(asset), None, asset, "WORLD", "ACTIVE", 0, 0, 0, 0) for asset in (DOLLAR, EURO)]
        return [*(copy_of(account) for account in self.accounts), *worlds]

    def command(self, step: Step) -> Command:
        """Turn a step into a command with an id of its own."""
        first, second = self._id(step.first), self._id(step.second)
        common: dict[str, Any] = {
            "id": next(self._ids),
            "key": step.key,
            "scope": None if step.key is None else self.scopes[step.scope],
            "description": step.description,
        }
        if step.kind in ("credit", "debit"):
            kind = Credit if step.kind == "credit" else Debit
            return kind(account_id=first, user_id=None, asset=self._asset(step.first), amount=step.amount, **common)
        if step.kind == "transfer":
            legs = [Leg(first, second, step.amount)]
            if step.third is not None:
                legs.append(Leg(second, self._id(step.third), step.amount // 2 + 1))
            return Transfer(legs=tuple(legs), **common)
        if step.kind == "status":
            return SetStatus(account_id=first, status="ACTIVE" if step.amount % 3 else "FROZEN", **common)
        if step.kind == "limit":
            return SetLimit(account_id=first, credit_limit=step.amount, **common)
        if step.description == "\0":  # which the table of holds cannot keep, and no client can send
            common["description"] = None
        return Hold(account_id=first, amount=step.amount, **common)

    def _id(self, index: int) -> str:
        return self.accounts[index].id if index < len(self.accounts) else self.unknown

    def _asset(self, index: int) -> str:
        return self.accounts[index].asset if index < len(self.accounts) else DOLLAR


def ordinary(account_id: str, asset: str = DOLLAR) -> Account:
    """An account as it is opened."""
    return Account(account_id, None, asset, "CHECKING", "ACTIVE", 0, 0, 0, 0)


def copy_of(account: Account) -> Account:
    """The same state in another object."""
    return Account(
        account.id,
        account.user_id,
        account.asset,
        account.type,
        account.status,
        account.balance,
        account.held,
        account.credit_limit,
        account.version,
    )


@dataclass(frozen=True)
class Step:
    """A command before it has names: indexes into a cast."""

    kind: str
    first: int
    second: int
    third: int | None
    amount: int
    key: str | None
    scope: int
    description: str | None


who = st.sampled_from((0, 0, 1, 1, 2, 3, 4))
keys = st.none() | st.sampled_from(("a", "b", "c", 'quoted "key" \\ {,}', "~" * 255))
amounts = st.integers(1, 300) | st.sampled_from((1, 100, HUGE))
steps = st.builds(
    Step,
    kind=st.sampled_from(("credit", "credit", "credit", "debit", "debit", "transfer", "status", "limit", "hold")),
    first=who,
    second=who,
    third=st.none() | who,
    amount=amounts,
    key=keys,
    scope=st.integers(0, 1),
    description=st.none() | st.sampled_from(("rent", "\n", "\0", "\u2028 \\ é")),
)


@st.composite
def programs(draw: st.DrawFn, longest: int = 60) -> list[list[Step]]:
    """Steps in batches; some are sent again, some again but changed."""
    made: list[Step] = []
    for step in draw(st.lists(steps, min_size=1, max_size=longest)):
        made.append(step)
        again = draw(st.sampled_from(("no", "no", "same", "changed")))
        if again != "no":
            earlier = made[draw(st.integers(0, len(made) - 1))]
            made.append(earlier if again == "same" else replace(earlier, amount=earlier.amount % 300 + 1))
    return cut(made, draw(st.lists(st.integers(1, 20), min_size=1, max_size=5)))


def cut(made: Sequence[Step], sizes: Sequence[int]) -> list[list[Step]]:
    """Cut steps into batches of the given sizes, in turn."""
    batches, start, turn = [], 0, 0
    while start < len(made):
        size = sizes[turn % len(sizes)]
        batches.append(list(made[start : start + size]))
        start, turn = start + size, turn + 1
    return batches

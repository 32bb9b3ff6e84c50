"""What is made up for the core: requests that mostly refer to what is there, cut into batches, as time goes by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from typing import Any, Final, Protocol
from uuid import UUID, uuid4

from ledger.domain.accounts import Account, world_id

DOLLAR: Final = "USD/2"
HUGE: Final = 2**63 - 1
EURO: Final = "EUR/2"
FORM: Final = "%Y-%m-%dT%H:%M:%S.%fZ"
STATUSES: Final = (*("ACTIVE",) * 8, "FROZEN", "SUSPENDED", "INACTIVE", "CLOSED")
ALONE: Final = ("sweep", "delete")  # never part of a whole
UNKEYED: Final = (*ALONE, "amend")


@dataclass(frozen=True)
class Ask:
    """A request with all names in it; `args` is what the reference is told."""

    kind: str
    id: str
    args: dict[str, Any]
    scope: str
    key: str | None = None
    description: str | None = None

    @property
    def content(self) -> Any:
        """What makes two requests the same."""
        return (self.kind, self.args, self.description)

    @staticmethod
    def after(instant: str, seconds: int) -> str:
        """An instant some seconds later."""
        return (datetime.strptime(instant, FORM).replace(tzinfo=UTC) + timedelta(seconds=seconds)).strftime(FORM)


@dataclass
class Cast:
    """Users and their first accounts, with ids of their own in the order of their making."""

    ids: Iterator[str]
    users: list[str]
    accounts: list[Account]
    scopes: tuple[str, str]
    unknown: str
    bystander: Account = field(init=False)

    @classmethod
    def new(cls) -> Cast:
        """Make up ids; which ones does not matter to any outcome."""
        base = (uuid4().int >> 48 << 48) | 0x7000 << 64
        ids = (str(UUID(int=base + 1_000 * number)) for number in count(1))
        users = [next(ids), next(ids)]
        first = ((0, DOLLAR, "CHECKING"), (1, DOLLAR, "CHECKING"), (0, DOLLAR, "CREDIT"), (1, EURO, "SAVINGS"))
        accounts = [Account(next(ids), users[user], asset, kind, "ACTIVE", 0, 0, 0, 0) for user, asset, kind in first]
        cast = cls(ids, users, accounts, (next(ids), next(ids)), next(ids))
        cast.bystander = Account(next(ids), None, DOLLAR, "CHECKING", "ACTIVE", 0, 0, 0, 0)
        return cast

    @property
    def everyone(self) -> list[Account]:
        """All accounts as they are opened, the worlds last."""
        worlds = [Account(world_id(asset), None, asset, "WORLD", "ACTIVE", 0, 0, 0, 0) for asset in (DOLLAR, EURO)]
        return [*self.accounts, self.bystander, *worlds]

    def for_reference(self) -> dict[str, dict[str, Any]]:
        """The accounts as dictionaries."""
        return {
            account.id: {
                "user": account.user_id, "asset": account.asset, "type": account.type, "name": None,
                "status": "ACTIVE", "balance": 0, "held": 0, "limit": 0, "version": 0,
            }
            for account in self.everyone
        }  # fmt: skip


Part = tuple[list[Ask], bool]  # and whether it is a whole


class Known(Protocol):
    """What the reference has come to, which is what requests refer to."""

    accounts: dict[str, dict[str, Any]]
    holds: dict[str, dict[str, Any]]
    records: dict[str, dict[str, Any]]
    periods: list[str]
    now: str


class Player:
    """Makes up batches one after the other, from what is known by then; some requests are sent again, some changed."""

    def __init__(self, chance: Random, cast: Cast, known: Known, start: str) -> None:
        self._chance = chance
        self._cast = cast
        self._known = known
        self._start = start
        self._made: list[Ask] = []
        self._makers: dict[str, tuple[float, Callable[[], dict[str, Any]]]] = {
            "credit": (6, self._cash),
            "debit": (3, self._cash),
            "transfer": (8, self._transfer),
            "hold": (8, self._hold),
            "capture": (5, self._capture),
            "void": (2, self._void),
            "reverse": (6, self._reverse),
            "open": (2, self._open),
            "amend": (4, self._amend),
            "close": (1, self._close),
            "sweep": (1, lambda: {"account": self._account()}),
            "delete": (0.15, lambda: {"user": self._user()}),
        }

    def batch(self) -> list[Part]:
        """What is decided together, in parts that are wholes or not."""
        parts = []
        for _ in range(self._chance.choice((1, 1, 2, 3))):
            is_whole = self._chance.random() < 0.3
            parts.append(
                ([self._next(is_whole) for _ in range(self._chance.randint(1, 3 if is_whole else 10))], is_whole)
            )
        self._made += [ask for asks, _ in parts for ask in asks]
        return parts

    def bystander(self) -> Ask:
        """Something that happens to an account without holds, and to no other."""
        return self._ask("amend", {"account": self._cast.bystander.id, "name": "calm", "status": None, "limit": None})

    def sweep(self, account_id: str) -> Ask:
        """What the sweeper asks for."""
        return self._ask("sweep", {"account": account_id})

    def _next(self, is_whole: bool) -> Ask:
        chance = self._chance
        keyed = [ask for ask in self._made[-60:] if ask.key is not None]
        if keyed and chance.random() < 0.15:
            earlier = replace(chance.choice(keyed), id=next(self._cast.ids))
            if chance.random() < 0.7:
                return earlier
            if earlier.kind == "transfer":
                return replace(earlier, args={**earlier.args, "expect": self._expect()})
            return replace(earlier, description="changed")
        kinds = [kind for kind in self._makers if not (is_whole and kind in ALONE)]
        if not self._known.records:
            kinds.remove("reverse")
        (kind,) = chance.choices(kinds, [self._makers[kind][0] for kind in kinds])
        ask = self._ask(kind, self._makers[kind][1]())
        if kind in UNKEYED or chance.random() < 0.5:
            return ask
        return replace(ask, key=str(chance.randrange(60)), description=chance.choice((None, "rent", "\n \\ é")))

    def _ask(self, kind: str, args: dict[str, Any]) -> Ask:
        return Ask(kind, next(self._cast.ids), args, self._chance.choice(self._cast.scopes))

    def _cash(self) -> dict[str, Any]:
        account = self._account()
        asset = self._known.accounts.get(account, {"asset": DOLLAR})["asset"]
        amount = self._chance.choice((self._amount(), 500, 1_000))
        return {"account": account, "world": world_id(asset), "amount": amount}

    def _transfer(self) -> dict[str, Any]:
        chance = self._chance
        if chance.random() < 0.2:  # a cycle
            one, two, three = self._account(), self._account(), self._account()
            legs = [(one, two), (two, three), (three, one)]
        else:
            legs = [(self._account(), self._account()) for _ in range(chance.choice((1, 1, 1, 2, 3)))]
        amount = self._amount()
        legs_told = [
            (source, target, amount if chance.random() < 0.8 else self._amount())
            for source, target in legs
            if source != target
        ] or [(world_id(DOLLAR), self._cast.accounts[0].id, amount)]
        return {"legs": legs_told, "expect": self._expect(), "effective_at": self._instant(0.3)}

    def _expect(self) -> dict[str, Any] | None:
        chance, account = self._chance, self._account()
        found = self._known.accounts.get(account)
        if found is None or chance.random() < 0.75:
            return None
        if chance.random() < 0.5:
            return {"account": account, "version": found["version"] + chance.choice((0, 0, 0, 1))}
        spendable = found["balance"] - found["held"] + found["limit"]
        return {"account": account, "available_at_least": spendable + chance.choice((0, 0, 1, -1))}

    def _instant(self, often: float) -> str | None:
        if self._chance.random() > often:
            return None
        if self._chance.random() < 0.1:
            return Ask.after(self._known.now or self._start, self._chance.choice((0, 1)))
        if self._known.periods and self._chance.random() < 0.2:
            return max(self._known.periods)
        return Ask.after(self._start, self._chance.randint(-20, 20))

    def _hold(self) -> dict[str, Any]:
        expires_in = self._chance.choice((None, 1, 2, 3, 5, 30))
        account = self._on_credit() if self._chance.random() < 0.3 else self._account()
        return {"account": account, "amount": self._amount(), "expires_in": expires_in}

    def _some_hold(self) -> tuple[str, dict[str, Any]]:
        holds = list(self._known.holds.items())[-12:]
        still = [one for one in holds if one[1]["status"] == "open"]
        if not holds or self._chance.random() < 0.03:
            return self._cast.unknown, {"account": self._cast.accounts[0].id, "amount": 5}
        return self._chance.choice(still if still and self._chance.random() < 0.8 else holds)

    def _capture(self) -> dict[str, Any]:
        hold_id, hold = self._some_hold()
        amount = self._chance.choice((hold["amount"], max(1, hold["amount"] // 2), hold["amount"] + 1))
        target = self._account()
        if target == hold["account"]:
            target = world_id(DOLLAR)
        return {"hold": hold_id, "amount": amount, "target": target}

    def _void(self) -> dict[str, Any]:
        return {"hold": self._some_hold()[0]}

    def _reverse(self) -> dict[str, Any]:
        records = list(self._known.records.items())
        moved = [one for one in records if one[1]["legs"]]
        original, told = self._chance.choice(moved if moved and self._chance.random() < 0.9 else records)
        whole = sum(leg[2] for leg in told["legs"])
        amount = self._chance.choice((None, None, whole, max(1, whole // 2), max(1, whole // 3), whole + 1))
        return {"original": original, "amount": amount}

    def _open(self) -> dict[str, Any]:
        kind = self._chance.choice(("CHECKING", "SAVINGS", "CREDIT", "CREDIT", "INVESTMENT"))
        limit = self._chance.choice((0, 50, 200)) if kind == "CREDIT" else self._chance.choice((0, 0, 0, 0, 5))
        asset = self._chance.choice((DOLLAR, DOLLAR, EURO))
        name = self._chance.choice((None, "savings", 'a "b" \\ {,}'))
        return {"user": self._user(), "asset": asset, "type": kind, "name": name, "limit": limit}

    def _amend(self) -> dict[str, Any]:
        chance, account = self._chance, self._account()
        if chance.random() < 0.6:
            account = self._on_credit()
        what = chance.choice(("status", "status", "limit", "limit", "name", "all"))
        is_credit = self._known.accounts.get(account, {"type": None})["type"] == "CREDIT"
        return {
            "account": account,
            "name": chance.choice(("holiday", "rent")) if what in ("name", "all") else None,
            "status": chance.choice(STATUSES) if what in ("status", "all") else None,
            "limit": chance.choice((0, 50, 200, 300) if is_credit else (0, 0, 7)) if what in ("limit", "all") else None,
        }

    def _close(self) -> dict[str, Any]:
        return {"until": self._instant(1.0)}

    def _account(self) -> str:
        if self._chance.random() < 0.01:
            return self._cast.unknown
        if self._chance.random() < 0.06:
            return world_id(self._chance.choice((DOLLAR, DOLLAR, EURO)))
        first = [account.id for account in self._cast.accounts]
        opened = [ask.id for ask in self._made if ask.kind == "open"]
        return self._chance.choice([*first[:3] * 3, first[2], *first, *opened[-2:]])

    def _on_credit(self) -> str:
        accounts = self._known.accounts.items()
        return self._chance.choice([key for key, found in accounts if found["type"] == "CREDIT"])

    def _user(self) -> str:
        return self._chance.choice([*self._cast.users * 4, self._cast.unknown])

    def _amount(self) -> int:
        if self._chance.random() < 0.02:
            return HUGE
        return self._chance.choice((1, 10, 50, 100, self._chance.randint(1, 300)))

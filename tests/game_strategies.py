"""What is made up for games: few users, and references that are mostly right, so that everything meets everything."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, Final

from hypothesis import strategies as st

USERS: Final = ("ada", "eve", "Zoë \\ 'quoted' \", {,}")
STRANGER: Final = "nobody"
ASKED: Final = ("bet", "win", "rollback")

WRONG: Final[tuple[Any, ...]] = (
    None,
    True,
    1.0,
    -1,
    10**15 + 1,
    "",
    "5",
    "ABCDEF00-0000-0000-0000-000000000000",
    [],
    {},
)
METADATA: Final[tuple[Any, ...]] = ({"a": [1, 2.5, None]}, "\0\n", 2**70)


@dataclass(frozen=True)
class Play:
    """One request, or (`status`) a user being disabled or enabled."""

    kind: str
    body: Any


def uuid_of(number: int) -> str:
    """A UUID of no version."""
    return f"{number:08x}-0000-0000-0000-{number:012x}"


class Player:
    """Makes up requests one after the other; what it refers to is mostly there, and mostly of the same user."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._made: list[Play] = []

    def program(self, length: int) -> list[Play]:
        """So many plays in a row; some are sent again, some again but changed."""
        for _ in range(length):
            asked = [play for play in self._made if play.kind in ASKED]
            kind = self._chance.choice(
                ("bet",) * 6 + ("win",) * 5 + ("rollback",) * 5 + ("again",) * 6 + ("status", "balance")
            )
            if kind == "again":
                if asked:
                    self._made.append(self._again(self._chance.choice(asked)))
            elif kind == "status":
                status = self._chance.choice(("ACTIVE", "DISABLED"))
                self._made.append(Play(kind, {"user": self._chance.choice(USERS), "status": status}))
            else:
                self._made.append(Play(kind, self._body("bet" if kind == "balance" else kind, asked)))
        return self._made

    def _again(self, earlier: Play) -> Play:
        changes: dict[str, Any] = {"request_uuid": self._uuid(), "token": "another"}
        if self._chance.random() < 0.4:
            name = self._chance.choice(
                ("amount", "round", "game_code", "user", "currency", "reference_transaction_uuid")
            )
            changes[name] = {"amount": self._amount(), "user": self._chance.choice(USERS), "currency": "EUR"}.get(
                name, self._uuid()
            )
        return Play(earlier.kind, {**earlier.body, **changes})

    def _body(self, kind: str, asked: list[Play]) -> dict[str, Any]:
        chance = self._chance
        body: dict[str, Any] = {
            "user": STRANGER if chance.random() < 0.05 else chance.choice(USERS),
            "transaction_uuid": self._uuid(),
            "request_uuid": self._uuid(),
        }
        if kind != "rollback" or chance.random() < 0.1:
            body["currency"] = chance.choice(("USD",) * 20 + ("EUR", "usd"))
            body["amount"] = self._amount()
        if kind != "bet" or chance.random() < 0.1:
            body["reference_transaction_uuid"] = self._uuid()
            if asked and chance.random() < 0.9:
                bets = [play for play in asked if play.kind == "bet"]
                earlier = chance.choice(bets if bets and chance.random() < 0.5 else asked).body
                body["reference_transaction_uuid"] = earlier.get("transaction_uuid")
                if chance.random() < 0.9:
                    body["user"] = earlier.get("user")
        if chance.random() < 0.5:
            body["round"] = chance.choice(("r1", "r2", 1, None))
            body["meta"] = chance.choice(METADATA)
        flaw = chance.random()
        if flaw < 0.03:
            del body[chance.choice(sorted(body))]
        elif flaw < 0.06:
            body[chance.choice(sorted(set(body) - {"round", "meta"}))] = chance.choice(WRONG)
        return body

    def _uuid(self) -> str:
        return uuid_of(self._chance.randrange(1, 100))

    def _amount(self) -> int:
        large = (50_000, 100_000, 100_001, 10**15, self._chance.randrange(120_000))
        return self._chance.choice(large if self._chance.random() < 0.3 else (0, 1, 10_000, 30_000))


def plays(longest: int = 50) -> st.SearchStrategy[list[Play]]:
    """Programs of plays."""

    def program(seed: int, length: int) -> list[Play]:
        return Player(Random(seed)).program(length)

    return st.builds(program, st.integers(0, 2**32), st.integers(1, longest))

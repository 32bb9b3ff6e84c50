"""The section `games`: the game wallet in process, over many users and on one, and what a transaction takes."""

import gc
import json
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Final
from uuid import UUID

from bench import report
from bench.children import say
from bench.report import Options, Report, Table
from ledger import games as wallet

USERS: Final = 10_000
BETS: Final = 100_000
MEASURED: Final = 20_000  # transactions whose memory is counted: to trace is slow
GOAL_BETS: Final = 25_000
GOAL_CREATE: Final = 1.0

Body = dict[str, Any]


def _uuid() -> str:
    return str(UUID(int=random.getrandbits(128)))


def bodies(names: Sequence[str], many: int) -> list[Body]:
    """Make bets of nothing or of one, with the fields that providers send."""
    return [
        {
            "user": random.choice(names),
            "transaction_uuid": _uuid(),
            "request_uuid": _uuid(),
            "supplier_transaction_id": _uuid(),
            "token": _uuid().replace("-", ""),
            "currency": "USD",
            "amount": 1 if number % 10 < 9 else 0,
            "round": f"round-{number}",
            "round_closed": False,
            "game_code": "clt_dragonrising",
        }
        for number in range(many)
    ]


def server_of(names: Sequence[str]) -> tuple[wallet.Server, float]:
    """Start a server with these users; return it and the seconds that making them took."""
    server = wallet.start()
    begin = time.perf_counter()
    wallet.create_users(server, names)
    return server, time.perf_counter() - begin


def rate(play: Callable[[wallet.Server, object], Body], server: wallet.Server, asked: Sequence[Body]) -> float:
    """Return how many of the bodies are answered a second, all of them with success."""
    gc.collect()
    begin = time.perf_counter()
    granted = sum(play(server, body)["status"] == "RS_OK" for body in asked)
    seconds = time.perf_counter() - begin
    if granted != len(asked):
        raise SystemExit(f"bench: {len(asked) - granted} of {len(asked)} transactions were declined")
    return len(asked) / seconds


def memory() -> float:
    """Return the bytes that a server remembers a transaction in; as over HTTP, nothing of its body is ours."""
    names = [f"user {number}" for number in range(100)]
    server, _ = server_of(names)
    texts = [json.dumps(body) for body in bodies(names, MEASURED)]
    gc.collect()
    tracemalloc.start()
    try:
        for text in texts:
            wallet.bet(server, json.loads(text))
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return held / MEASURED


def games(options: Options) -> Report:
    """Bets over many users and on one, in turn, and the same bets again."""
    facts = report.machine()
    names = [f"user {number}" for number in range(USERS)]
    made, spread, hot, again = list[float](), list[float](), list[float](), list[float]()
    for number in range(options.rounds):
        server, seconds = server_of(names)
        asked = bodies(names, BETS)
        made.append(seconds)
        spread.append(rate(wallet.bet, server, asked))
        again.append(rate(wallet.bet, server, asked))
        alone, _ = server_of(names[:1])
        hot.append(rate(wallet.bet, alone, bodies(names[:1], BETS)))
        say(f"games, round {number + 1}: {spread[-1]:,.0f}/s over {USERS:,} users, {hot[-1]:,.0f}/s on one")
    facts["load"] = f"one thread, {BETS:,} bets of ten fields each, {options.rounds} rounds, in turn; median (min–max)"
    rows = (
        (f"bets over {USERS:,} users, a second", report.spread(spread), f"{GOAL_BETS:,}"),
        ("bets on one user, a second", report.spread(hot), f"{median(spread):,.0f}"),
        ("bets sent again, a second", report.spread(again), ""),
        (f"{USERS:,} users made, seconds", report.spread(made, 2), f"{GOAL_CREATE}"),
        ("memory of a transaction, bytes", f"{memory():,.0f}", ""),
    )
    notes = (
        f"Python {sys.version_info[0]}.{sys.version_info[1]} on one core; the server remembers every transaction.",
    )
    return Report("Games in process", [Table("The wallet", ("what", "measured", "goal"), rows, notes)], facts)

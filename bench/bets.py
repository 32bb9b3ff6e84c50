"""The section `games-http`: signed bets over HTTP beside credits, on one server, in turn."""

import json
import os
import tempfile
from base64 import b64encode
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Final
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench import load, report
from bench.children import say
from bench.load import Measured, Server
from bench.postgres import Customer, create_database, credits_booked, psql, seed_admin, seed_ours, throw_away_cluster
from bench.report import Options, Report, Table

CONNECTIONS: Final = 32
LONGEST: Final = 5  # seconds of a run: each bet is signed beforehand, some 3,000 a second
RUN_IN_SECONDS: Final = 1
SPARE: Final = 1.5  # how many times as many bets are signed as there were credits in that time
GOAL: Final = 1.5

# Each line of the file is a signature and a body; when all are sent, the last one is sent again, and not booked.
_BETS: Final = """
local place = 0
local requests = {}
for line in io.lines(file) do
  local signature, body = line:match("^(%S+) (.*)$")
  requests[#requests + 1] = head .. #body .. "\\r\\nX-Hub88-Signature: " .. signature .. "\\r\\n\\r\\n" .. body
end
function request()
  if place < #requests then place = place + 1 end
  return requests[place]
end
"""


@dataclass(frozen=True)
class Played:
    """A server with customers and players, in a database of its own."""

    server: Server
    url: str
    customers: Sequence[Customer]
    players: Sequence[str]
    key: RSAPrivateKey


def bets(options: Options) -> Report:
    """`POST /transaction/bet` beside `POST /credit`, spread and on one account, in turn, on one server."""
    load.find_wrk()
    facts = report.machine()
    faults: list[str] = []
    seconds = min(options.seconds, LONGEST)
    seen: dict[tuple[str, str], list[Measured]] = {}
    key = generate_private_key(65537, 2048)
    with throw_away_cluster() as cluster, tempfile.TemporaryDirectory(prefix="ledger-bench-key-") as folder:
        public = Path(folder, "games.pem")
        public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        url = create_database(cluster, "bench_bets")
        checkpoint = partial(psql, cluster.superuser_url("postgres"), "CHECKPOINT")

        def command(port: int) -> list[str]:
            return [*load.ours(url, port), "--games-public-key", str(public)]

        with load.serving("ledger", command, "/api/health/ready") as server:
            players = [f"player {number:06}" for number in range(options.accounts)]
            hot = [f"hot {number:06}" for number in range(2 * options.rounds)]  # one a run: a balance is 100,000 bets
            customers = seed_ours(url, options.accounts)
            _make_users(server, url, [*players, *hot])
            for number in range(options.rounds):
                for load_name, of_credit, of_bets in (
                    ("spread", customers, players),
                    ("hot account", customers[:1], hot[number : number + 1]),
                ):
                    one = Played(server, url, of_credit, of_bets, key)
                    checkpoint()
                    _credits(one, RUN_IN_SECONDS, faults)
                    credit = _credits(one, seconds, faults)
                    texts = _signed(one, int(credit.per_second * (seconds + RUN_IN_SECONDS) * SPARE))
                    share = len(texts) * RUN_IN_SECONDS // (seconds + RUN_IN_SECONDS)
                    checkpoint()
                    _bets(one, texts[:share], RUN_IN_SECONDS, faults)
                    bet = _bets(one, texts[share:], seconds, faults)
                    seen.setdefault((load_name, "credit"), []).append(credit)
                    seen.setdefault((load_name, "bet"), []).append(bet)
                    rates = f"{credit.per_second:,.0f} credits/s, {bet.per_second:,.0f} bets/s"
                    say(f"{load_name}, round {number + 1}: {rates}")
        facts["postgres"] = psql(cluster.url, "SHOW server_version")
    facts["load"] = (
        f"wrk, {CONNECTIONS} connections, {options.accounts:,} accounts or one, {options.rounds} rounds of {seconds} s "
        f"each, in turn, each after a checkpoint and {RUN_IN_SECONDS} s of the same load; bets of ten fields, signed "
        "beforehand with RSA of 2,048 bits; fsync on; median (min–max)"
    )
    columns = ("load", "request", "requests/s", "p50 ms", "p99 ms", "cost, × a credit")
    rows = [_row(name, kind, runs, seen[name, "credit"]) for (name, kind), runs in seen.items()]
    return Report("Games over HTTP", [Table("POST /transaction/bet", columns, rows)], facts, faults)


def _row(name: str, kind: str, runs: Sequence[Measured], credits: Sequence[Measured]) -> Sequence[str]:
    cost = ""
    if kind == "bet":
        ratio = median(one.per_second for one in credits) / median(one.per_second for one in runs)
        cost = f"{ratio:.2f} (goal {GOAL})"
    rates = report.spread([one.per_second for one in runs])
    p50, p99 = report.spread([one.p50 for one in runs], 1), report.spread([one.p99 for one in runs], 1)
    return (name, kind, rates, p50, p99, cost)


def _make_users(server: Server, url: str, names: Sequence[str]) -> None:
    token = load.log_in(server, seed_admin(url))
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=60.0)) as connection:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request("POST", "/api/games/users", json.dumps({"users": names}), headers)
        answer = connection.getresponse()
        told = answer.read()
    if answer.status != 201:
        raise SystemExit(f"bench: no game users are made: {told.decode(errors='replace')[:300]}")


def _credits(one: Played, seconds: int, faults: list[str]) -> Measured:
    before = credits_booked(one.url)
    seen = load.post_credits(one.server, one.customers, seconds, CONNECTIONS, 1)
    _check("credits", seen, credits_booked(one.url) - before, faults)
    return seen


def _bets(one: Played, texts: Sequence[str], seconds: int, faults: list[str]) -> Measured:
    before = _booked(one.url)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(texts))
        file.flush()
        head = (
            f"POST /transaction/bet HTTP/1.1\r\nHost: 127.0.0.1:{one.server.port}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        )
        script = f"local file, head = {json.dumps(file.name)}, {json.dumps(head)}\n{_BETS}"
        seen = load.run_wrk(one.server, "/transaction/bet", script, seconds, CONNECTIONS, 1)
    _check("bets", seen, _booked(one.url) - before, faults)
    return seen


def _check(what: str, seen: Measured, booked: int, faults: list[str]) -> None:
    if seen.refused or seen.failed:
        faults.append(f"{what}: {seen.refused} answers were not 2xx and {seen.failed} requests failed")
    if booked < seen.requests or seen.requests == 0:
        faults.append(f"{what}: {seen.requests} requests were answered and {booked} are booked")


def _booked(url: str) -> int:
    return int(psql(url, "SELECT count(*) FROM journal WHERE kind = 'bet'"))


def _signed(one: Played, count: int) -> list[str]:
    """Return bets of one, over the players in turn, each after its signature."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(partial(_sign, one.key), (_body(one.players, number) for number in range(count))))


def _sign(key: RSAPrivateKey, body: str) -> str:
    return f"{b64encode(key.sign(body.encode(), PKCS1v15(), SHA256())).decode()} {body}"


def _body(players: Sequence[str], number: int) -> str:
    return json.dumps(
        {
            "user": players[number % len(players)],
            "transaction_uuid": str(uuid4()),
            "request_uuid": str(uuid4()),
            "supplier_transaction_id": str(uuid4()),
            "token": uuid4().hex,
            "currency": "USD",
            "amount": 1,
            "round": f"round-{number}",
            "round_closed": False,
            "game_code": "clt_dragonrising",
        }
    )

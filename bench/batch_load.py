"""A ledger whose accounts are full, and `wrk` that loads `POST /api/transfers/batch` with transfers between them."""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from typing import Final

from bench import load
from bench.load import Measured, Server
from bench.postgres import Customer, Login, create_database, drop_database, psql, seed_admin, seed_ours
from ledger.domain.accounts import world_id
from ledger.services.postgres_cluster import Cluster

PATH: Final = "/api/transfers/batch"
_FUNDING: Final = "10000000.00"  # more than a run can move
_MOST: Final = 8_000  # transfers of one request
_QUIET: Final = 1.0
_PATIENCE: Final = 60.0

# `size` transfers of the least amount in each request, all with keys of their own.
_BATCHES: Final = """
local sent = 0
function init(args) math.randomseed(os.time()) end
function request()
  sent = sent + 1
  local parts, many = {'{"transfers":['}, #accounts
  local place = 1
  for number = 1, size do
    local from = hot and 1 or math.random(many)
    local to = math.random(many - 1)
    if to >= from then to = to + 1 end
    parts[place + 1] = '{"idempotency_key":"'
    parts[place + 2] = run .. "-" .. sent .. "-" .. number
    parts[place + 3] = '","from":"'
    parts[place + 4] = accounts[from]
    parts[place + 5] = '","to":"'
    parts[place + 6] = accounts[to]
    parts[place + 7] = number < size and '","amount":"0.01"},' or '","amount":"0.01"}]}'
    place = place + 7
  end
  local body = table.concat(parts)
  return head .. #body .. "\\r\\n\\r\\n" .. body
end
"""


@dataclass(frozen=True)
class Funded:
    """A server of ours with customers who have money, and its admin."""

    server: Server
    url: str
    customers: Sequence[Customer]
    admin: Login


@dataclass(frozen=True)
class Batches:
    """What a run of batches came to: transfers a second in the database and in answers, and milliseconds a request."""

    booked: float
    answered: float
    p50: float


@contextmanager
def funded(cluster: Cluster, name: str, accounts: int) -> Iterator[Funded]:
    """Run a server on a fresh database, its accounts funded through the endpoint itself; drop the database after."""
    url = create_database(cluster, name)
    try:
        with load.serving("ledger", partial(load.ours, url), "/api/health/ready") as server:
            one = Funded(server, url, seed_ours(url, accounts), seed_admin(url))
            _fund(one)
            psql(cluster.superuser_url(name), "VACUUM ANALYZE")
            yield one
    finally:
        drop_database(cluster, name)


def run_batches(
    one: Funded,
    size: int,
    hot: bool,
    connections: int,
    seconds: int,
    faults: list[str],
    each_second: Callable[[], None] = lambda: None,
) -> Measured:
    """Load the endpoint for that long; return when all that was taken is booked."""
    where = f"batches of {size:,}, {'hot' if hot else 'spread'}"
    before = booked(one.url)
    seen = load.run_wrk(one.server, PATH, _script(one, size, hot), seconds, connections, 1, each_second)
    _settle(one.url)
    _check(where, seen, booked(one.url) - before, size, connections, faults)
    return seen


def post_batches(
    one: Funded, size: int, hot: bool, connections: int, run_in: int, seconds: int, faults: list[str]
) -> Batches:
    """Load the endpoint; the rate is read off the journal by the second, from `run_in` seconds after the start on."""
    samples: list[tuple[float, int]] = []

    def note() -> None:
        samples.append(sample(one.url))

    seen = run_batches(one, size, hot, connections, run_in + seconds + 1, faults, note)
    begin = next((each for each in samples if each[0] >= samples[0][0] + run_in), samples[0])
    lasted = samples[-1][0] - begin[0]
    if lasted < seconds / 2:
        faults.append(f"batches of {size:,}: the database was too slow to be asked how far it was")
        return Batches(0.0, 0.0, seen.p50)
    return Batches((samples[-1][1] - begin[1]) / lasted, seen.per_second * size, seen.p50)


def sample(url: str) -> tuple[float, int]:
    """Return the database's time and how many records there are."""
    line = psql(url, "SELECT extract(epoch FROM clock_timestamp()), coalesce(max(seq), 0) FROM journal")
    instant, head = line.split("|")
    return float(instant), int(head)


def booked(url: str) -> int:
    """Return how many transfers the journal holds."""
    return int(psql(url, "SELECT count(*) FROM journal WHERE kind = 'transfer'"))


def balanced(one: Funded, faults: list[str]) -> None:
    """Look whether nothing has come or gone but between accounts, and every balance is its last entry's."""
    total = psql(one.url, "SELECT sum(balance) FROM accounts")
    off = psql(
        one.url,
        "SELECT count(*) FROM accounts AS a JOIN transactions AS t ON t.account_id = a.id AND t.version = a.version "
        "WHERE t.balance <> a.balance",
    )
    if (total, off) != ("0", "0"):
        faults.append(f"the balances add up to {total}, and {off} of them are not their last entries'")


def _fund(one: Funded) -> None:
    world = world_id("USD/2")
    ids = [customer.account_id for customer in one.customers]
    token = load.log_in(one.server, one.admin)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with closing(HTTPConnection("127.0.0.1", one.server.port, timeout=60.0)) as connection:
        for start in range(0, len(ids), _MOST):
            transfers = [
                {"idempotency_key": f"fund-{account}", "from": world, "to": account, "amount": _FUNDING}
                for account in ids[start : start + _MOST]
            ]
            connection.request("POST", PATH, json.dumps({"transfers": transfers}), headers)
            answer = connection.getresponse()
            told = answer.read()
            posted = answer.status == 200 and {each["status"] for each in json.loads(told)["data"]} == {"posted"}
            if not posted:
                raise SystemExit(f"bench: the accounts get no money: {told.decode(errors='replace')[:300]}")


def _script(one: Funded, size: int, hot: bool) -> str:
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{one.server.port}\r\n"
        f"Authorization: Bearer {load.log_in(one.server, one.admin)}\r\n"
        "Content-Type: application/json\r\nContent-Length: "
    )
    accounts = ",".join(json.dumps(customer.account_id) for customer in one.customers)
    given = (json.dumps(secrets.token_hex(8)), size, json.dumps(hot), json.dumps(head))
    names = "local run, size, hot, head = " + ", ".join(map(str, given))
    return f"{names}\nlocal accounts = {{{accounts}}}\n{_BATCHES}"


def _settle(url: str) -> None:
    """Return when nothing is written any more: what was taken before its client left is still being booked."""
    deadline = time.monotonic() + _PATIENCE
    quiet_since, last = time.monotonic(), sample(url)[1]
    while time.monotonic() - quiet_since < _QUIET:
        if time.monotonic() > deadline:
            raise SystemExit("bench: the server goes on writing when nobody asks")
        time.sleep(0.1)
        head = sample(url)[1]
        if head != last:
            quiet_since, last = time.monotonic(), head


def _check(where: str, seen: Measured, many: int, size: int, connections: int, faults: list[str]) -> None:
    if seen.refused or seen.failed:
        faults.append(f"{where}: {seen.refused} answers were not 2xx and {seen.failed} requests failed")
    # Answered or not, a request that was taken is booked whole: anything else means that some were refused.
    if many % size or not seen.requests * size <= many <= (seen.requests + connections) * size or not seen.requests:
        faults.append(f"{where}: {seen.requests} requests were answered and {many:,} transfers are booked")

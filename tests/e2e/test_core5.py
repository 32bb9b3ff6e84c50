# mypy: disable-error-code="untyped-decorator"
"""Accounts, transfers, holds and history over real sockets: who may do what, and a kill under a load of all of it."""

from __future__ import annotations

import signal
from collections import Counter
from typing import Any
from uuid import uuid4

import pytest_twisted

from ledger.domain.accounts import WORLD_TYPE, world_id
from ledger.domain.journal import read_body
from tests.e2e.attack import PASSWORD, Scene, scene
from tests.e2e.books import ASSET, Books
from tests.e2e.client import ALL, Clients, Follower, StreamFollower
from tests.e2e.mixed import MixedLoad
from tests.e2e.server import Machine, until

KINDS = {
    *("credit", "transfer", "reversal", "hold", "capture", "void", "expiry"),
    *("account", "account_update", "period_close"),
}


@pytest_twisted.ensureDeferred
async def test_killed_under_a_load_of_every_kind_it_loses_nothing_and_does_nothing_twice(
    machine: Machine, books: Books, clients: Clients
) -> None:
    server = await machine.serve("--database", books.url).ready()
    api = clients(server)
    admin, customers = await api.admin(books), books.seed(12)
    everything = Follower(ALL, token=admin)
    one = StreamFollower(f"users:{customers[0].user_id}", token=customers[0].token)
    for follower in (everything, one):
        await follower.connect(server)
    load = MixedLoad(api, customers, admin).start()
    await load.more(400)
    server.send(signal.SIGKILL)
    assert await server.ended() == -signal.SIGKILL
    for follower in (everything, one):
        await follower.lost()
    again = await machine.serve("--database", books.url, port=server.port).ready()
    for follower in (everything, one):
        await follower.connect(again)
    await load.more(300)
    await load.stop()
    await load.settle(books, api)
    due = "SELECT FROM holds WHERE status = 'open' AND expires_at < now() + interval '10 seconds'"
    await until(lambda: not books.rows(due), 20)
    await machine.verify("--database", books.url)
    check_available(books)
    told = published(books)
    await everything.reach(told[-1][0])
    assert everything.seen == [(seq, part) for seq, part, _ in told]
    counts = Counter(seq for seq, _, account in told if account == customers[0].account_id)
    await one.reach(max(counts))
    assert one.seen == [(seq, part) for seq, many in counts.items() for part in range(many)]
    assert {kind for (kind,) in books.rows("SELECT DISTINCT kind FROM journal")} == KINDS
    for follower in (everything, one):
        await follower.cut()
    await again.stop()


def check_available(books: Books) -> None:
    """What each account holds is what moved, and what it has set aside are its open holds."""
    rows = books.rows(
        """SELECT a.balance, a.held, a.credit_limit,
                  (SELECT coalesce(sum(CASE type WHEN 'credit' THEN amount ELSE -amount END), 0)
                   FROM transactions WHERE account_id = a.id),
                  (SELECT coalesce(sum(amount), 0) FROM holds WHERE account_id = a.id AND status = 'open')
           FROM accounts AS a WHERE type <> %s""",
        WORLD_TYPE,
    )
    assert len(rows) > 12
    for balance, held, limit, moved, aside in rows:
        assert (balance, held) == (moved, aside)
        assert balance - held + limit >= 0


def published(books: Books) -> list[tuple[int, int, str]]:
    """All that whoever follows everything must have been told of the journal: seq, part, and of which account."""
    system = {account for (account,) in books.rows("SELECT id::text FROM accounts WHERE type = %s", WORLD_TYPE)}
    told = []
    for (body,) in books.rows("SELECT body FROM journal ORDER BY seq"):
        record = read_body(body)
        accounts = [item.account for item in record.items if item.account not in system]
        told += [(record.seq, part, account) for part, account in enumerate(accounts)]
    return told


CALLERS = ("token of ada's", "ada", "bob", "wallet", "support", "admin")
WORDS = {
    "A": "already_processed",
    "F": "forbidden",
    "H": "hold_not_found",
    "I": "invalid_uuid_format",
    "L": "amount_exceeds_limit",
    "M": "missing_fields",
    "N": "account_not_found",
    "Q": "invalid_request",
    "R": "insufficient_permissions",
    "T": "transfer_not_found",
    "U": "unauthorized_access",
    "W": "user_not_found",
}
# What each caller is answered, in the order above: `+` is a success.
OF_ACCOUNTS = {
    # whose, reading, spending, naming, governing
    "ada": ("++UU++", "++UUU+", "++UUU+", "RRRRR+"),
    "savings": ("R+UU++", "R+UUU+", "R+UUU+", "RRRRR+"),
    "bob": ("UU+U++", "UU+UU+", "UU+UU+", "RRRRR+"),
    "wallet": ("UUU+++", "UUU+U+", "UUU+U+", "RRRRR+"),
    "game": ("UUUU++", "UUUUUF", "UUUUUF", "RRRRRF"),
    "world": ("NNNNN+", "NNNNN+", "NNNNNF", "RRRRRF"),
    "nothing": ("NNNNNN", "NNNNNN", "NNNNNN", "RRRRRN"),
    "no id": ("IIIIII", "IIIIII", "IIIIII", "RRRRRI"),
}
READING = (
    "/api/accounts/{}",
    "/api/accounts/{}/balance",
    "/api/accounts/{}/balance?at=2020-01-01T00:00:00Z",
    "/api/accounts/{}/transactions?limit=1",
    "/api/accounts/{}/statement?to=2020-01-01T00:00:00Z",
    "/api/holds?limit=1&account_id={}",
    "/api/transfers?limit=1&account_id={}",
)


class Cast:
    """The callers, and the accounts that they are after."""

    tokens: dict[str, str]
    accounts: dict[str, str]

    def __init__(self, scene: Scene, books: Books) -> None:
        self.scene, self.books = scene, books

    async def set_up(self) -> Cast:
        """Have everybody come in, and give each account some money."""
        api, ada, bob, admin = self.scene.api, self.scene.ada, self.scene.bob, self.scene.admin
        email = "support@example.com"
        body = {"email": email, "full_name": "S", "role": "support", "password": PASSWORD}
        assert (await api.ask("POST", "/api/users/admin", {**body, "password_confirmation": PASSWORD}, admin)).data
        support = (await api.ask("POST", "/api/auth/login", {"email": email, "password": PASSWORD})).data
        wallet = (await api.ask("POST", "/api/register", {"name": "W"})).data
        savings = (await api.ask("POST", "/api/accounts", {"account_type": "SAVINGS"}, ada.access)).data["id"]
        assert (await api.ask("POST", "/api/games/users", {"users": ["gina"]}, admin)).data
        ((game,),) = self.books.rows("SELECT id::text FROM accounts WHERE name = 'gina'")
        given = (ada.account_token, ada.access, bob.access, wallet["token"], support["access_token"], admin)
        self.tokens = dict(zip(CALLERS, given, strict=True))
        ids = (
            ada.account_id,
            savings,
            bob.account_id,
            wallet["account_id"],
            game,
            world_id(ASSET),
            str(uuid4()),
            "none",
        )
        self.accounts = dict(zip(OF_ACCOUNTS, ids, strict=True))
        for name in ("ada", "savings", "bob", "wallet"):
            assert (await self.move("world", name, "100.00")).status == 201
        return self

    async def move(self, source: str, target: str, amount: str = "0.01", caller: str = "admin") -> Any:
        """Ask for a transfer."""
        body = {"from": self.accounts[source], "to": self.accounts[target], "amount": amount}
        return await self.scene.api.ask("POST", "/api/transfers", body, self.tokens[caller])

    async def expect(self, words: str, method: str, path: str, body: object = None) -> int:
        """Have everyone ask for something, and check what they are told; returns how many had success."""
        for caller, letter in zip(CALLERS, words, strict=True):
            reply = await self.scene.api.ask(method, path, body, self.tokens[caller])
            found = "+" if reply.status < 300 else reply.reason
            assert found == WORDS.get(letter, "+"), (method, path, caller, reply.json)
        for token in (None, "nobody's", self.tokens["wallet"][:-1]):
            reply = await self.scene.api.ask(method, path, body, token)
            assert (reply.status, reply.reason) == (401, "invalid_token")
            assert reply.headers.getRawHeaders("WWW-Authenticate") == ["Bearer"]
        return words.count("+")


@pytest_twisted.ensureDeferred
async def test_who_may_do_what(machine: Machine, books: Books, clients: Clients) -> None:
    cast = await Cast(await scene(machine, books, clients), books).set_up()
    ids, head, done = cast.accounts, books.head(), 0
    for name, (reading, spending, naming, governing) in OF_ACCOUNTS.items():
        for path in READING:
            await cast.expect(reading, "GET", path.format(ids[name]))
        target = ids["bob" if name == "ada" else "ada"]
        done += await cast.expect(spending, "POST", "/api/transfers", {"from": ids[name], "to": target, "amount": 1})
        holding = spending.replace("N+", "NF")  # nothing is set aside in system accounts
        done += await cast.expect(holding, "POST", "/api/holds", {"account_id": ids[name], "amount": "0.01"})
        done += await cast.expect(naming, "PATCH", f"/api/accounts/{ids[name]}", {"name": "N"})
        done += await cast.expect(governing, "PATCH", f"/api/accounts/{ids[name]}", {"status": "ACTIVE"})
    assert books.head() == head + done
    await of_transfers_and_holds(cast)
    await of_all_else(cast)
    await machine.verify("--database", books.url)
    await cast.scene.server.stop()


async def of_transfers_and_holds(cast: Cast) -> None:
    """What is somebody's is nobody else's, and what is not there is not there for anybody."""
    transfer = (await cast.move("ada", "bob")).data["id"]
    body = {"account_id": cast.accounts["ada"], "amount": "1.00"}
    hold = (await cast.scene.api.ask("POST", "/api/holds", body, cast.tokens["ada"])).data["id"]
    path = f"/api/accounts/{cast.accounts['game']}/transactions"
    (game,) = (await cast.scene.api.ask("GET", path, token=cast.tokens["admin"])).data
    head = cast.books.head()
    much = {"amount": "999.00"}
    for words, of_reversal, name in (("+++U++", "UUAUUA", transfer), ("UUUU++", "UUUUUF", game["transfer_id"])):
        await cast.expect(words, "GET", f"/api/transfers/{name}")
        await cast.expect(of_reversal, "POST", f"/api/transfers/{name}/reverse", much)
    await cast.expect("++UU++", "GET", f"/api/holds/{hold}")
    await cast.expect("LLUUUL", "POST", f"/api/holds/{hold}/capture", much)
    for letter, name in (("T", str(uuid4())), ("T", hold), ("I", "none")):
        await cast.expect(letter * 6, "GET", f"/api/transfers/{name}")
        await cast.expect(letter * 6, "POST", f"/api/transfers/{name}/reverse")
    for letter, name in (("H", str(uuid4())), ("H", transfer), ("I", "none")):
        await cast.expect(letter * 6, "GET", f"/api/holds/{name}")
        await cast.expect(letter * 6, "POST", f"/api/holds/{name}/capture", {})
        await cast.expect(letter * 6, "POST", f"/api/holds/{name}/void")
    assert cast.books.head() == head


async def of_all_else(cast: Cast) -> None:
    """What the role alone decides comes before everything that is wrong with the request."""
    head = cast.books.head()
    dated = {"effective_at": "2020-01-01T00:00:00Z"}
    await cast.expect("RRRRRM", "POST", "/api/transfers", dated)
    await cast.expect("RRRRRQ", "POST", "/api/transfers/batch", {"transfers": []})
    await cast.expect("RRRRRM", "POST", "/api/periods/close", {})
    await cast.expect("RRRRR+", "GET", "/api/journal?limit=1")
    await cast.expect("RRRRR+", "GET", "/api/journal/verify")
    await cast.expect("++++++", "GET", "/api/accounts?limit=1")
    await cast.expect("RRRRR+", "GET", f"/api/accounts?user_id={cast.scene.bob.user_id}")
    await cast.expect("RRRRRI", "GET", "/api/accounts?user_id=none")
    await cast.expect("RRRRRW", "POST", "/api/accounts", {"account_type": "CHECKING", "user_id": str(uuid4())})
    assert cast.books.head() == head
    opened = await cast.expect("R++R++", "POST", "/api/accounts", {"account_type": "CHECKING"})
    assert cast.books.head() == head + opened

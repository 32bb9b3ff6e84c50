# mypy: disable-error-code="untyped-decorator"
"""Wallets over real sockets: opened, filled, charged, listed and watched, and their tokens replaced meanwhile."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any
from urllib.parse import quote

import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from tests.e2e.books import Books
from tests.e2e.client import Api, Clients, Reply, StreamFollower, hang_up, websocket
from tests.e2e.server import Machine, until

UNAUTHENTICATED = 4401


class Wallet:
    """An account that somebody opened, with its newest token."""

    def __init__(self, api: Api, opened: Any) -> None:
        self.api = api
        self.account_id: str = opened["account_id"]
        self.token: str = opened["token"]

    async def ask(self, method: str, path: str, body: object = None, key: str | None = None) -> Reply:
        """Ask with the token."""
        return await self.api.ask(method, path, body, self.token, key)

    async def move(self, kind: str, amount: str, key: str | None = None, **more: str) -> Reply:
        """Top up or charge."""
        return await self.ask("POST", f"/api/transactions/{kind}", {"amount": amount, **more}, key)

    async def balance(self) -> str:
        """What is in it."""
        return str((await self.ask("GET", "/api/account")).data["balance"])

    async def renew(self) -> str:
        """Replace the token, and return the old one."""
        old = self.token
        reply = await self.ask("POST", "/api/account/token")
        assert (reply.status, reply.data["account_id"]) == (201, self.account_id)
        self.token = reply.data["token"]
        return old

    async def history(self, query: str = "", limit: int = 100) -> list[Any]:
        """All pages, one after the other."""
        told: list[Any] = []
        cursor = ""
        while True:
            reply = await self.ask("GET", f"/api/transactions?limit={limit}{query}{cursor}")
            told += reply.data
            pagination = reply.json["metadata"]["pagination"]
            if not pagination["has_more"]:
                return told
            cursor = f"&cursor={quote(pagination['next_cursor'])}"


async def open_wallet(api: Api, **more: str) -> Wallet:
    """Open an account."""
    reply = await api.ask("POST", "/api/register", {"name": "Coffee card", **more})
    assert reply.status == 201, reply.json
    return Wallet(api, reply.data)


async def at_once(*asked: Any) -> list[Reply]:
    """The answers to requests that are made at the same time."""
    return list(await gatherResults([Deferred.fromCoroutine(one) for one in asked]))


@pytest_twisted.ensureDeferred
async def test_a_wallet_from_its_opening_on(machine: Machine, books: Books, clients: Clients) -> None:
    server = await machine.serve("--database", books.url).ready()
    api = clients(server)
    wallet, yen = await open_wallet(api), await open_wallet(api, currency="JPY")
    assert (await yen.ask("GET", "/api/account")).data["balance"] == "0"
    socket = await websocket(server, wallet.token)
    assert (await socket.subscribe(f"accounts:{wallet.account_id}"))["type"] == "subscribed"

    filled = await wallet.move("topup", "20", "first", description="Birthday")
    assert filled.status == 201
    again = await wallet.move("topup", "20.00", "first", description="Birthday")
    assert (again.data, again.is_replay) == (filled.data, True)
    paid = await wallet.move("charge", "3.50", description="Flat white")
    too_much = await wallet.move("charge", "16.51")
    assert (too_much.status, too_much.reason) == (422, "insufficient_funds")
    assert await wallet.balance() == "16.50"

    listed = await wallet.history()
    assert listed == [paid.data, filled.data]
    assert [one["kind"] for one in listed] == ["charge", "topup"]
    assert await wallet.history("&kind=topup") == [filled.data]
    assert await wallet.history("&type=debit") == [paid.data]
    assert await wallet.history(f"&from={quote(paid.data['timestamp'])}") == [paid.data]
    assert await wallet.history(f"&to={quote(paid.data['timestamp'])}") == [filled.data]

    for reply in (filled, paid):
        message = await socket.next()
        assert message["type"] == "balance_updated"
        assert (message["data"]["user_id"], message["data"]["balance"]) == (None, reply.data["balance"])
        assert message["data"]["transfer_id"] == reply.data["transfer_id"]
        assert message["data"]["transaction"] == {name: reply.data[name] for name in ("id", "type", "amount", "kind")}
    await hang_up(socket)
    await server.stop()
    await machine.verify("--database", books.url)


@pytest_twisted.ensureDeferred
async def test_one_account_by_every_door(machine: Machine, books: Books, clients: Clients) -> None:
    server = await machine.serve("--database", books.url).ready()
    api = clients(server)
    person = {"name": "Ada", "email": "ada@example.com", "password": "correct horse battery"}
    made = (await api.ask("POST", "/users", person)).data
    access = (await api.ask("POST", "/api/auth/login", person)).data["access_token"]
    wallet = Wallet(api, {"account_id": made["account"]["id"], "token": made["token"]})

    async def by_jwt(method: str, path: str, body: object = None) -> Reply:
        return await api.ask(method, path, body, access)

    credited = await api.ask("POST", "/credit", {"user_id": made["id"], "amount": 9}, access, "k")
    topped = await by_jwt("POST", "/api/transactions/topup", {"amount": 5})
    debited = await api.ask("POST", "/debit", {"user_id": made["id"], "amount": "2", "description": "x"}, wallet.token)
    charged = await by_jwt("POST", "/api/transactions/charge", {"amount": 1, "account_id": wallet.account_id})
    answers = [charged.data, debited.data, topped.data, credited.data]
    listed = (await by_jwt("GET", "/api/transactions")).data
    assert listed == await wallet.history(limit=1)
    assert [one["kind"] for one in listed] == ["charge", "debit", "topup", "credit"]
    for told, answer in zip(listed, answers, strict=True):
        assert {name: told[name] for name in told if name in answer} == {
            name: answer[name] for name in answer if name in told
        }
    state = (await by_jwt("GET", f"/api/account?account_id={wallet.account_id}")).data
    assert (state["balance"], state["name"], state["version"]) == ("11.00", None, 4)

    stranger = await open_wallet(api)
    for reply in (
        await by_jwt("GET", f"/api/transactions?account_id={stranger.account_id}"),
        await by_jwt("POST", "/api/transactions/charge", {"amount": 1, "account_id": stranger.account_id}),
        await by_jwt("POST", f"/api/account/token?account_id={stranger.account_id}"),
    ):
        assert (reply.status, reply.reason) == (403, "unauthorized_access")
    renewed = await by_jwt("POST", "/api/account/token")
    assert (await wallet.ask("GET", "/api/account")).reason == "invalid_token"
    wallet.token = renewed.data["token"]
    assert await wallet.balance() == "11.00"
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_a_new_token_stops_the_old_one_at_both_servers(machine: Machine, books: Books, clients: Clients) -> None:
    servers = [await one.ready() for one in [machine.serve("--database", books.url) for _ in range(2)]]
    here, there = (clients(server) for server in servers)
    wallet = await open_wallet(here)
    topic = f"accounts:{wallet.account_id}"
    for who in ("owner", "admin"):
        assert [(await api.ask("GET", "/api/account", token=wallet.token)).status for api in (here, there)] == [200] * 2
        sockets = [await websocket(server, wallet.token) for server in servers]
        for socket in sockets:
            assert (await socket.subscribe(topic))["type"] == "subscribed"
        stream = StreamFollower(topic, token=wallet.token)
        await stream.connect(servers[1])
        started = time.monotonic()
        if who == "owner":
            old = await wallet.renew()
        else:
            old = wallet.token
            reply = await here.ask("POST", f"/api/accounts/{wallet.account_id}/token", token=await here.admin(books))
            assert reply.status == 201
            wallet.token = reply.data["token"]
        assert (await here.ask("GET", "/api/account", token=old)).reason == "invalid_token"
        await until(lambda sockets=sockets: all(socket.lost for socket in sockets))  # type: ignore[misc]
        assert [socket.code for socket in sockets] == [UNAUTHENTICATED] * 2
        assert await stream.lost() == UNAUTHENTICATED
        assert (await there.ask("GET", "/api/account", token=old)).reason == "invalid_token"
        assert time.monotonic() - started < 5  # a second is the aim; this machine may be busy
    for server in servers:
        await server.stop()


@pytest_twisted.ensureDeferred
async def test_money_for_ten_is_charged_ten_times(machine: Machine, books: Books, clients: Clients) -> None:
    server = await machine.serve("--database", books.url).ready()
    wallet = await open_wallet(clients(server))
    await wallet.move("topup", "10.00")
    replies = await at_once(*(wallet.move("charge", "1.00", f"key {number}") for number in range(100)))
    assert Counter(reply.status for reply in replies) == {201: 10, 422: 90}
    assert {reply.reason for reply in replies if reply.status == 422} == {"insufficient_funds"}
    assert await wallet.balance() == "0.00"
    booked = {reply.data["id"] for reply in replies if reply.status == 201}
    assert {one["id"] for one in await wallet.history("&kind=charge", limit=3)} == booked
    await server.stop()
    await machine.verify("--database", books.url)


@pytest_twisted.ensureDeferred
async def test_the_token_is_replaced_while_charges_run(machine: Machine, books: Books, clients: Clients) -> None:
    server = await machine.serve("--database", books.url).ready()
    wallet = await open_wallet(clients(server))
    await wallet.move("topup", "1000.00")
    replies: list[Reply] = []
    for _ in range(10):
        old = wallet.token
        asked = [Deferred.fromCoroutine(wallet.move("charge", "1.00")) for _ in range(20)]
        await wallet.renew()
        late = await wallet.api.ask("POST", "/api/transactions/charge", {"amount": 1}, old)
        assert (late.status, late.reason) == (401, "invalid_token")
        replies += await gatherResults(asked)
    booked = sum(reply.status == 201 for reply in replies)
    assert {reply.reason for reply in replies if reply.status != 201} <= {"invalid_token"}
    assert booked > 0
    assert await wallet.balance() == f"{1000 - booked}.00"
    assert len(await wallet.history("&kind=charge")) == booked
    await server.stop()
    await machine.verify("--database", books.url)


@pytest_twisted.ensureDeferred
async def test_without_self_funding_only_admins_fill_wallets(machine: Machine, books: Books, clients: Clients) -> None:
    server = await machine.serve("--database", books.url, "--self-funding", "off").ready()
    api = clients(server)
    wallet = await open_wallet(api)
    refused = await wallet.move("topup", "1.00")
    assert (refused.status, refused.reason) == (403, "insufficient_permissions")
    body = {"amount": "1.00", "account_id": wallet.account_id}
    assert (await api.ask("POST", "/api/transactions/topup", body, await api.admin(books))).status == 201
    assert (await wallet.move("charge", "1.00")).status == 201
    await server.stop()

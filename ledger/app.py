"""The server: which services it is made of, in which order they start, and who knows whom. Read this page first."""

import os
import random
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec
from twisted.logger import Logger

from ledger.config import Config
from ledger.domain.accounts import Owner
from ledger.domain.jobs import QUEUES
from ledger.domain.policy import Caller
from ledger.pubsub.access import Context
from ledger.pubsub.feed import Feed
from ledger.pubsub.hub import Hub
from ledger.pubsub.sockets import STOPPING, Sockets
from ledger.pubsub.sse import EventsResource
from ledger.pubsub.websocket import websocket_resource
from ledger.resources.addresses import Addresses
from ledger.resources.documentation import documentation
from ledger.resources.exchange import Exchange
from ledger.resources.guards import Guards
from ledger.resources.live import LiveFront
from ledger.resources.metrics import PATH as METRICS
from ledger.resources.metrics import Metrics, http_metrics
from ledger.resources.metrics_port import metrics_site
from ledger.resources.rate_limit import RateLimiter
from ledger.resources.routes import all_endpoints
from ledger.resources.site import LedgerSite
from ledger.services.audit import Audit
from ledger.services.balance_watcher import BalanceWatcher
from ledger.services.child import Child
from ledger.services.chores import own_table, own_workers
from ledger.services.core import Core
from ledger.services.credentials import Credentials
from ledger.services.cron import Cron
from ledger.services.database import Database
from ledger.services.embedded_postgres import EmbeddedPostgres
from ledger.services.feed import FeedService
from ledger.services.game_wallets import GameWallets
from ledger.services.hold_sweeper import HoldSweeper
from ledger.services.http import Http
from ledger.services.ids import new_id
from ledger.services.job_counts import JobCounts
from ledger.services.job_desk import JobDesk
from ledger.services.jobs import Jobs
from ledger.services.jwt_secret import kept_secret
from ledger.services.ladder import Ladder, end_process
from ledger.services.login_guard import LoginGuard
from ledger.services.metering import (
    breaker_metrics,
    job_metrics,
    live_metrics,
    pool_metrics,
    server_metrics,
    service_metrics,
    writer_metrics,
)
from ledger.services.outbound import Breakers
from ledger.services.passwords import Passwords
from ledger.services.payment_worker import PaymentWorker
from ledger.services.process_meter import ProcessMeter
from ledger.services.reactor_lag import ReactorLag
from ledger.services.sessions import Sessions
from ledger.services.signing import Signer
from ledger.services.users import Users
from ledger.services.wallets import Wallets
from ledger.services.writer import Writer
from ledger.store import jobs as job_store
from ledger.store import tokens
from ledger.store.journal import CHANNEL, JournalWriter
from ledger.store.reader import JournalReader

log = Logger()

NAME: Final = "ledger"


class _Access:
    """The core as the live streams see it, where everything may be awaited."""

    def __init__(self, core: Core, credentials: Credentials) -> None:
        self._core = core
        self.watch = credentials.watch

    async def authenticate(self, token: str) -> Caller:
        """Return who bears a token, or refuse with `invalid_token`."""
        caller = self._core.authenticate(token)
        return caller if isinstance(caller, Caller) else await caller

    async def owner(self, account_id: str) -> Owner | None:
        """Return the unchanging facts of an account, or None."""
        owner = self._core.owner(account_id)
        return owner if owner is None or isinstance(owner, Owner) else await owner


def build(config: Config, reactor: Any) -> Ladder:
    """Return the service tree, bottom first: what stands lower is started earlier and stopped later."""
    ladder = Ladder(reactor, random.random, partial(end_process, reactor))
    ladder.setName(NAME)  # type: ignore[no-untyped-call]
    children: list[Child] = []

    url = config.database
    if url is None:
        postgres = EmbeddedPostgres(config.data_dir, reactor)
        url = postgres.url
        children.append(postgres)

    database = Database(url, reactor, config.pool_size)
    feed = Feed(JournalReader(database.pool), Hub(), reactor)
    writer = Writer(JournalWriter(reactor, url), reactor, feed.committed)
    passwords = Passwords(reactor)
    guard = LoginGuard(reactor.seconds, enabled=config.rate_limit is not None)
    signer = Signer(_secret(config), reactor.seconds)
    credentials = Credentials(database.pool, signer, reactor, database.listener.is_current)
    sessions = Sessions(database.pool, signer, passwords, credentials, new_id, guard)
    stopped = credentials.stopped
    users = Users(config, database.pool, writer.submit, passwords, guard, stopped, new_id, reactor)
    audit = Audit(database.pool, reactor, new_id)
    wallets = Wallets(config, database.pool, stopped, new_id, reactor)
    games = GameWallets(database.pool, writer.submit, new_id, config.max_amount)
    sweeper = HoldSweeper(database.pool, writer.submit, new_id)
    workers = own_workers(database.pool, sessions.prune, sweeper.sweep)
    queues = {**QUEUES, **dict(config.queues)}
    jobs = Jobs(database.pool, workers, queues, reactor, random.random, answers=database.listener.is_current)
    breakers = Breakers(reactor, random.random)
    desk = JobDesk(database.pool, workers, list(queues), breakers, new_id, reactor)
    core = Core(
        config, database, writer, credentials, users, sessions, audit, wallets, games, desk, ladder.status, reactor
    )
    workers.add(PaymentWorker(core.payments))

    listener = database.listener
    listener.on(CHANNEL, lambda head: feed.head_moved(int(head)))
    listener.on(tokens.CHANNEL, credentials.stopped)
    listener.on(job_store.CHANNEL, jobs.heard)
    listener.tell(feed)
    listener.tell(credentials)
    listener.tell(jobs)

    sockets = Sockets(reactor)
    limiter = None if config.rate_limit is None else RateLimiter(*config.rate_limit, seconds=reactor.seconds)
    guards = Guards(Addresses(config.trusted_proxies), limiter, audit.record)
    exchange = Exchange(core, guards, reactor.seconds, os.urandom)
    access = _Access(core, credentials)
    context = Context(feed, access, access, sockets, reactor)
    front = LiveFront(exchange)
    metrics, lag, process = Metrics(reactor), ReactorLag(reactor), ProcessMeter(reactor)
    counted = JobCounts(desk.stats, reactor)
    metrics.add(lambda: server_metrics(lag.seconds))
    metrics.add(process.metrics, renew=process.renew)
    metrics.add(lambda: http_metrics(exchange))
    metrics.add(lambda: writer_metrics(writer.meter))
    metrics.add(lambda: pool_metrics(database.pool, config.pool_size))
    metrics.add(lambda: live_metrics(feed, sockets))
    metrics.add(lambda: job_metrics(counted.queues, jobs.queues), renew=counted.renew)
    metrics.add(lambda: breaker_metrics(breakers.statuses()))
    metrics.add(lambda: service_metrics(ladder.status()))
    disk = str(config.data_dir) if config.database is None else "/"
    endpoints = all_endpoints(core, reactor.seconds, disk, metrics)
    pages: dict[str, Any] = {
        "/ws": websocket_resource(context, front, reactor),
        "/api/events": EventsResource(context, front),
        **documentation(front, reactor),
    }
    site = LedgerSite(reactor, exchange, endpoints, pages)
    http = Http(
        reactor,
        site,
        config.listen,
        reuse_port=config.reuse_port,
        close_sockets=lambda: sockets.close_all(STOPPING),
        reopen_sockets=sockets.reopen,
    )

    cron = Cron(database.pool, own_table(database.pool), desk.new, reactor)
    children += [database, passwords, FeedService(feed), writer, audit, jobs, cron]
    children += [BalanceWatcher(feed.hub), lag, http]
    if config.metrics_listen:  # below all else: what goes on at the start and the stop can be watched too
        watched = metrics_site(reactor, core, metrics, exchange.counts)
        port = Http(reactor, watched, config.metrics_listen, name="metrics", option="--metrics-listen")
        children.insert(0, port)
        ladder.on_started(lambda: _announce_metrics(port.addresses))
    for child in children:
        ladder.addService(child)
    ladder.on_started(lambda: _announce(http.addresses))
    return ladder


def _secret(config: Config) -> bytes:
    return kept_secret(config.data_dir) if config.jwt_secret is None else config.jwt_secret.reveal().encode()


def _announce_metrics(addresses: Sequence[str]) -> None:
    for address in addresses:
        log.info("Metrics are told at {address}{path}", address=address, path=METRICS)


def _announce(addresses: Sequence[str]) -> None:
    for address in addresses:
        log.info("Ledger listens on {address}", address=address)
    if addresses:
        body = msgspec.json.encode({"name": "Ada", "email": "ada@example.com", "password": "correct horse"}).decode()
        log.info("Try: curl -s {address}/users -d '{body}'", address=addresses[0], body=body, is_example=True)

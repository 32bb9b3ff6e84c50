"""All endpoints of the server, in the order of the documentation."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock

from ledger.resources.accounts import AccountEndpoints
from ledger.resources.audit import AuditEndpoints
from ledger.resources.auth import AuthEndpoints
from ledger.resources.backend import Backend
from ledger.resources.balance import BalanceEndpoints
from ledger.resources.balances_at import BalanceAtEndpoints
from ledger.resources.endpoint import Endpoint
from ledger.resources.game_wallet import GameUserEndpoints, GameWalletEndpoints
from ledger.resources.health import HealthEndpoints
from ledger.resources.history import HistoryEndpoints
from ledger.resources.holds import HoldEndpoints
from ledger.resources.jobs import JobEndpoints
from ledger.resources.journal import JournalEndpoints
from ledger.resources.metrics import Metrics, MetricsEndpoints
from ledger.resources.money import CashEndpoints
from ledger.resources.openapi import DocumentEndpoints
from ledger.resources.payment_ends import PaymentEndEndpoints
from ledger.resources.payments import PaymentEndpoints
from ledger.resources.periods import PeriodEndpoints
from ledger.resources.profile import ProfileEndpoints
from ledger.resources.reversals import ReversalEndpoints
from ledger.resources.statement import StatementEndpoints
from ledger.resources.transfer_batch import TransferBatchEndpoints
from ledger.resources.transfers import TransferEndpoints
from ledger.resources.user_admin import UserAdminEndpoints
from ledger.resources.users import UserEndpoints
from ledger.resources.wallet import WalletEndpoints


def all_endpoints(
    backend: Backend,
    seconds: Callable[[], float],
    disk: str = ".",
    metrics: Metrics | None = None,
    *,
    document_at_once: bool = True,
) -> tuple[Endpoint, ...]:
    """Declare every endpoint; `disk` is a path on the disk whose room is watched. Without metrics there are none."""
    endpoints = (
        *UserEndpoints(backend.users).endpoints(),
        *CashEndpoints(backend).endpoints(),
        *BalanceEndpoints(backend).endpoints(),
        *WalletEndpoints(backend).endpoints(),
        *HistoryEndpoints(backend).endpoints(),
        *BalanceAtEndpoints(backend).endpoints(),
        *StatementEndpoints(backend).endpoints(),
        *PeriodEndpoints(backend).endpoints(),
        *JournalEndpoints(backend).endpoints(),
        *AccountEndpoints(backend).endpoints(),
        *HoldEndpoints(backend).endpoints(),
        *TransferEndpoints(backend).endpoints(),
        *TransferBatchEndpoints(backend).endpoints(),
        *ReversalEndpoints(backend).endpoints(),
        *GameWalletEndpoints(backend.games, backend.config.games_public_key).endpoints(),
        *GameUserEndpoints(backend.games).endpoints(),
        *AuthEndpoints(backend.sessions).endpoints(),
        *ProfileEndpoints(backend.users).endpoints(),
        *UserAdminEndpoints(backend.users).endpoints(),
        *AuditEndpoints(backend.audit).endpoints(),
        *PaymentEndpoints(backend).endpoints(),
        *PaymentEndEndpoints(backend).endpoints(),
        *JobEndpoints(backend.jobs).endpoints(),
        *HealthEndpoints(backend, seconds, disk).endpoints(),
        *MetricsEndpoints(metrics or Metrics(Clock())).endpoints(),
    )
    return (*endpoints, *DocumentEndpoints(endpoints, at_once=document_at_once).endpoints())

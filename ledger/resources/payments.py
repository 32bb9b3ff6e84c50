"""Payments: made, checked, listed, and looked at."""

from __future__ import annotations

from typing import Any, Final

from ledger.domain.accounts import Owner
from ledger.domain.errors import Category, Refused
from ledger.domain.game_users import ASSET as GAMES_ASSET
from ledger.domain.money import asset_named
from ledger.domain.payments import Nature, PaymentTold, draft_told, payment_told
from ledger.domain.policy import Action, Caller, require_account, require_user
from ledger.resources.backend import Backend
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.resources.paging import order_of, window
from ledger.resources.payment_ends import OF_ONE, OF_STATUS, REFUSES, found, require_funding
from ledger.resources.payment_forms import (
    Broken,
    PaymentForm,
    PaymentsQuery,
    PaymentWanted,
    StatsQuery,
    Validation,
    filter_of,
    minor_units,
    named_account,
    read_account,
    read_form,
)
from ledger.resources.transfer_forms import may_read
from ledger.services.payments import PaymentStats, PaymentStatus
from ledger.store.payments import NEWEST_FIRST, SORTS

_OF_FORMS: Final = (
    *(*REFUSES, "invalid_request", "missing_fields", "invalid_amount_format", "invalid_direction"),
    *("invalid_payment_type", "invalid_uuid_format", "unauthorized_access", "account_not_found", "forbidden"),
)


class PaymentEndpoints:
    """What there is below /api/payments but what brings one to its end."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare them; paths without a parameter come first."""
        one = "/api/payments/<id>"
        form: dict[str, Any] = {"body": PaymentForm, "documents": PaymentWanted}
        return (
            Endpoint(
                "POST",
                "/api/payments",
                self.create,
                summary="Make a payment, to be processed later",
                policy=Action.MAKE_PAYMENTS,
                answer=PaymentTold,
                status=201,
                refuses=(*_OF_FORMS, *OF_STATUS, "negative_amount", "amount_exceeds_limit"),
                **form,
            ),
            Endpoint(
                "GET",
                "/api/payments",
                self.page,
                summary="One's payments",
                policy=Action.READ_PAYMENTS,
                query=PaymentsQuery,
                answer=list[PaymentTold],
                refuses=(
                    *(*REFUSES, "invalid_request", "invalid_pagination", "invalid_sort", "invalid_direction"),
                    *("invalid_status", "invalid_payment_type", "invalid_datetime_format"),
                ),
            ),
            Endpoint(
                "POST",
                "/api/payments/validate",
                self.validate,
                summary="Check whether a payment would be processed, and write nothing",
                policy=Action.MAKE_PAYMENTS,
                answer=Validation,
                refuses=_OF_FORMS,
                **form,
            ),
            Endpoint(
                "GET",
                "/api/payments/stats",
                self.stats,
                summary="How one's accounts do, and one's newest payments",
                policy=Action.SUM_UP_PAYMENTS,
                query=StatsQuery,
                answer=PaymentStats,
                refuses=(*REFUSES, "invalid_request", "invalid_uuid_format", "unauthorized_access", "user_not_found"),
            ),
            Endpoint(
                "GET",
                one,
                self.read,
                summary="A payment",
                policy=Action.READ_PAYMENTS,
                answer=PaymentTold,
                refuses=OF_ONE,
            ),
            Endpoint(
                "GET",
                f"{one}/status",
                self.status,
                summary="Where a payment stands",
                policy=Action.READ_PAYMENTS,
                answer=PaymentStatus,
                refuses=OF_ONE,
            ),
        )

    async def create(self, caller: Caller, call: Call[PaymentForm, None]) -> Answer:
        """Make it; funds are not touched."""
        nature = await self._wanted(caller, call.body, any_amount=False)
        payment = await self._backend.payments.create(nature)
        call.notes["payment_id"] = payment.id
        return Answer(payment_told(payment))

    async def validate(self, caller: Caller, call: Call[PaymentForm, None]) -> Answer:
        """Judge it as if it were made and processed now."""
        nature = await self._wanted(caller, call.body, any_amount=True)
        account = await self._backend.accounts.read(nature.account_id)
        refused: Refused | None = Refused("negative_amount", field="amount")
        if nature.amount > 0:
            refused = await self._backend.payments.verdict(nature)
        told = draft_told(nature)
        if refused is None:
            return Answer(Validation(True, "The payment is valid", told, account))
        if refused.category not in (Category.BUSINESS_RULE, Category.CONFLICT):
            raise refused
        error = Broken(refused.reason, refused.message, refused.category.status)
        return Answer(Validation(False, refused.message, told, account, error))

    async def page(self, caller: Caller, call: Call[None, PaymentsQuery]) -> Answer:
        """List the caller's own by pages."""
        query = call.query
        wanted, asked = filter_of(query), window(query)
        order = order_of(query.sort, SORTS, NEWEST_FIRST)
        payments = self._backend.payments
        found, total = await payments.page(caller.user_id or "", wanted, order, asked.page_size, asked.offset)
        return Answer([payment_told(payment) for payment in found], metadata=asked.metadata(total))

    async def stats(self, caller: Caller, call: Call[None, StatsQuery]) -> Answer:
        """Sum up."""
        user_id = call.query.user_id or caller.user_id or ""
        require_user(caller, Action.SUM_UP_PAYMENTS, user_id)
        return Answer(await self._backend.payments.stats(user_id))

    async def read(self, caller: Caller, call: Call[None, None]) -> Answer:
        """Show it; PROCESSING is one that a job is at work on."""
        return Answer(payment_told(await found(self._backend, caller, Action.READ_PAYMENTS, call)))

    async def status(self, caller: Caller, call: Call[None, None]) -> Answer:
        """Show it with what would become of it now."""
        payment = await found(self._backend, caller, Action.READ_PAYMENTS, call)
        return Answer(await self._backend.payments.status(payment))

    async def _wanted(self, caller: Caller, form: PaymentForm, *, any_amount: bool) -> Nature:
        """Return the payment that a form asks for, or refuse it for its first field that fails."""
        named = named_account(form)
        owner = None if named is None else await self._owner(named)
        scale = asset_named(owner.asset).scale if owner is not None and may_read(caller, owner) else None
        written = read_form(form, scale, any_amount=any_amount)
        require_funding(self._backend, caller, written.direction)
        read_account(written)
        owner = require_account(caller, Action.MAKE_PAYMENTS, owner)
        if owner.is_system or owner.asset == GAMES_ASSET or owner.user_id is None:
            raise Refused("forbidden", "Only accounts of users make payments", field="user_bank_account_id")
        return Nature(
            user_id=owner.user_id,
            account_id=owner.account_id,
            asset=owner.asset,
            amount=minor_units(written.amount, asset_named(owner.asset).scale),
            direction=written.direction,
            payment_type=written.payment_type,
            description=written.description,
        )

    async def _owner(self, account_id: str) -> Owner | None:
        found = self._backend.owner(account_id)
        return found if found is None or isinstance(found, Owner) else await found

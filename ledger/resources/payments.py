"""Payments: made, checked, listed, processed at once or by a job, and cancelled."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ledger.domain.accounts import Owner
from ledger.domain.errors import Category, Refused
from ledger.domain.game_users import ASSET as GAMES_ASSET
from ledger.domain.jobs import Job
from ledger.domain.money import asset_named
from ledger.domain.payments import Nature, Payment, PaymentTold, draft_told, payment_told
from ledger.domain.policy import Action, Caller, require_account, require_role, require_user
from ledger.resources.backend import Backend
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.resources.paging import order_of, window
from ledger.resources.payment_forms import (
    Broken,
    PaymentForm,
    PaymentsQuery,
    PaymentWanted,
    ScheduleWanted,
    StatsQuery,
    Validation,
    filter_of,
    minor_units,
    named_account,
    read_account,
    read_form,
)
from ledger.resources.reading import identifier
from ledger.resources.transfer_forms import may_read
from ledger.services.payments import PaymentStats, PaymentStatus
from ledger.store.payments import NEWEST_FIRST, SORTS

_REFUSES: Final = ("insufficient_permissions", "service_unavailable")
_OF_ONE: Final = (*_REFUSES, "invalid_uuid_format", "unauthorized_access", "payment_not_found")
_OF_STATUS: Final = ("account_frozen", "account_suspended", "account_inactive")
_OF_FORMS: Final = (
    *(*_REFUSES, "invalid_request", "missing_fields", "invalid_amount_format", "invalid_direction"),
    *("invalid_payment_type", "invalid_uuid_format", "unauthorized_access", "account_not_found", "forbidden"),
)


class PaymentEndpoints:
    """Everything below /api/payments."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare them; paths without a parameter come first."""
        one = "/api/payments/<id>"
        form: dict[str, Any] = {"body": PaymentForm, "documents": PaymentWanted}
        cancelling: dict[str, Any] = {
            "policy": Action.CANCEL_PAYMENTS,
            "answer": PaymentTold,
            "refuses": (*_OF_ONE, "already_processed"),
        }
        return (
            Endpoint(
                "POST",
                "/api/payments",
                self.create,
                summary="Make a payment, to be processed later",
                policy=Action.MAKE_PAYMENTS,
                answer=PaymentTold,
                status=201,
                refuses=(*_OF_FORMS, *_OF_STATUS, "negative_amount", "amount_exceeds_limit"),
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
                    *(*_REFUSES, "invalid_request", "invalid_pagination", "invalid_sort", "invalid_direction"),
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
                refuses=(*_REFUSES, "invalid_request", "invalid_uuid_format", "unauthorized_access", "user_not_found"),
            ),
            Endpoint(
                "GET",
                one,
                self.read,
                summary="A payment",
                policy=Action.READ_PAYMENTS,
                answer=PaymentTold,
                refuses=_OF_ONE,
            ),
            Endpoint(
                "GET",
                f"{one}/status",
                self.status,
                summary="Where a payment stands",
                policy=Action.READ_PAYMENTS,
                answer=PaymentStatus,
                refuses=_OF_ONE,
            ),
            Endpoint(
                "POST",
                f"{one}/process",
                self.process,
                summary="Process a payment now",
                policy=Action.PROCESS_PAYMENTS,
                answer=PaymentTold,
                refuses=(
                    *(*_OF_ONE, *_OF_STATUS, "invalid_idempotency_key", "already_processed", "account_not_found"),
                    *("amount_exceeds_limit", "insufficient_funds", "daily_limit_exceeded", "duplicate_transaction"),
                ),
                idempotent=True,
            ),
            Endpoint(
                "POST",
                f"{one}/schedule",
                self.schedule,
                summary="Have a job process a payment",
                policy=Action.PROCESS_PAYMENTS,
                body=ScheduleWanted,
                answer=Job,
                status=202,
                refuses=(*_OF_ONE, "invalid_request", "already_processed"),
            ),
            Endpoint("POST", f"{one}/cancel", self.cancel, summary="Cancel a payment", **cancelling),
            Endpoint("DELETE", one, self.cancel, summary="Cancel a payment", **cancelling),
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
        return Answer(payment_told(await self._found(caller, Action.READ_PAYMENTS, call)))

    async def status(self, caller: Caller, call: Call[None, None]) -> Answer:
        """Show it with what would become of it now."""
        payment = await self._found(caller, Action.READ_PAYMENTS, call)
        return Answer(await self._backend.payments.status(payment))

    async def process(self, caller: Caller, call: Call[None, None]) -> Answer:
        """Post it, once; what is refused leaves it as it is."""
        payment = await self._found(caller, Action.PROCESS_PAYMENTS, call)
        self._require_funding(caller, payment.direction)
        told, is_replay = await self._backend.payments.process(payment, caller.scope, call.key)
        return Answer(msgspec.Raw(told), replayed=is_replay)

    async def schedule(self, caller: Caller, call: Call[ScheduleWanted, None]) -> Answer:
        """Queue it; a job that was queued in the last minute is told instead of another."""
        payment = await self._found(caller, Action.PROCESS_PAYMENTS, call)
        self._require_funding(caller, payment.direction)
        body = call.body
        return Answer(await self._backend.payments.schedule(payment, body.priority, float(body.delay_seconds or 0)))

    async def cancel(self, caller: Caller, call: Call[None, None]) -> Answer:
        """End it, if it is pending."""
        payment = await self._found(caller, Action.CANCEL_PAYMENTS, call)
        return Answer(msgspec.Raw(await self._backend.payments.cancel(payment)))

    async def _found(self, caller: Caller, action: Action, call: Call[Any, Any]) -> Payment:
        """Return the payment that a path names, if the caller may do this with it."""
        payment = await self._backend.payments.find(identifier(call.params["id"], "id"))
        require_user(caller, action, payment.user_id)
        return payment

    def _require_funding(self, caller: Caller, direction: str) -> None:
        """Refuse a payment that brings money in where users may not do that themselves."""
        if direction == "CREDIT" and not self._backend.config.self_funding:
            require_role(caller, Action.BRING_MONEY_IN_FOR_OTHERS)

    async def _wanted(self, caller: Caller, form: PaymentForm, *, any_amount: bool) -> Nature:
        """Return the payment that a form asks for, or refuse it for its first field that fails."""
        named = named_account(form)
        owner = None if named is None else await self._owner(named)
        scale = asset_named(owner.asset).scale if owner is not None and may_read(caller, owner) else None
        written = read_form(form, scale, any_amount=any_amount)
        self._require_funding(caller, written.direction)
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

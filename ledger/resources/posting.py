"""From a command to the answer of whoever asked for it."""

from __future__ import annotations

from typing import Any

import msgspec

from ledger.domain.commands import Command, Replayed
from ledger.resources.backend import Backend
from ledger.resources.endpoint import Answer, Call


async def post(backend: Backend, command: Command, call: Call[Any, Any]) -> Answer:
    """Have a command decided, note for the audit log which record it led to, and answer as the command does."""
    outcome = await backend.submit(command)
    call.notes["record_id"] = outcome.record.id
    return Answer(msgspec.Raw(command.answer(outcome.record)), replayed=isinstance(outcome, Replayed))

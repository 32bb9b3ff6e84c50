"""Many transfers in one request: each with its own key and outcome, or all of them or none."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from itertools import islice, repeat
from operator import attrgetter
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta
from twisted.internet.defer import Deferred

from ledger.domain.commands import Answered, Reply, answered
from ledger.domain.errors import Refused
from ledger.domain.journal import canonical
from ledger.domain.policy import Action, Caller
from ledger.domain.transfers import Transfer, TransferTold
from ledger.resources.answers import ErrorTold, error_told
from ledger.resources.backend import Backend
from ledger.resources.endpoint import MIB, Answer, Call, Endpoint
from ledger.resources.readers import PartReader
from ledger.resources.transfer_forms import REFUSES, TransferRequest, accounts_of, command_of
from ledger.services.settling import is_in_doubt

MOST: Final = 8_000
MOST_TOGETHER: Final = 1_000
MOST_LEGS_TOGETHER: Final = 10_000
_SLICE: Final = 256
_SLICE_BYTES: Final = 65_536  # a slice of transfers of many legs ends earlier: each slice is one turn of the reactor
_SLICE_LEGS: Final = 512
_AHEAD: Final = 8  # slices of one request that are under way


T = TypeVar("T")

_weight_of: Final[Callable[[Transfer], int]] = attrgetter("weight")

_KEY: Final = Meta(min_length=1, max_length=255, pattern=r"^[ -~]+\Z", extra={"reason": "invalid_idempotency_key"})
_KEY_LENGTH: Final = Meta(min_length=1, max_length=255)


class BatchedTransfer(TransferRequest, frozen=True, kw_only=True, gc=False):
    """A transfer of a batch."""

    idempotency_key: Annotated[str, _KEY]


class _Printable(BatchedTransfer, frozen=True, kw_only=True, gc=False):
    """One that is written in printable ASCII: to look at its key's pattern would take longer than all else."""

    idempotency_key: Annotated[str, _KEY_LENGTH]


class BatchRequest(msgspec.Struct, frozen=True):
    """Transfers, each decided on its own in this order; `atomic`: all of them, or none."""

    transfers: Annotated[list[BatchedTransfer], Meta(min_length=1, max_length=MOST)]
    atomic: bool = False


class _Batch(msgspec.Struct, frozen=True):
    transfers: list[msgspec.Raw]
    atomic: bool = False


class BatchOutcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one transfer: `posted`, `replayed` or `refused`."""

    status: str
    transfer: TransferTold | None = None
    error: ErrorTold | None = None


_ITEMS: Final = PartReader(BatchedTransfer, _Printable)
_POSTED: Final = b'{"status":"posted","transfer":%b}'
_REPLAYED: Final = b'{"status":"replayed","transfer":%b}'


class TransferBatchEndpoints:
    """POST /api/transfers/batch."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare it."""
        return (
            Endpoint(
                "POST",
                "/api/transfers/batch",
                self.post,
                summary="Post many transfers at once",
                policy=Action.POST_BATCHES,
                body=_Batch,
                documents=BatchRequest,
                is_bulk=True,
                body_limit=16 * MIB,
                answer=list[BatchOutcome],
                refuses=REFUSES,
            ),
        )

    async def post(self, caller: Caller, call: Call[_Batch, None]) -> Answer:
        """Post them; what one transfer is refused for keeps none of the others from being posted, unless `atomic`."""
        items, is_whole = call.body.transfers, call.body.atomic
        most = MOST_TOGETHER if is_whole else MOST
        if not 1 <= len(items) <= most:
            message = f"A batch holds 1 to {most:,} transfers"
            raise Refused("invalid_request", message, field="transfers", limit=most)
        call.notes["transfers"] = len(items)
        told = await (self._post_whole if is_whole else self._post_each)(caller, items)
        told[0] = b"[" + told[0]  # megabytes in all, which are put together once
        told[-1] += b"]"
        return Answer(msgspec.Raw(b",".join(told)))

    async def _post_whole(self, caller: Caller, items: Sequence[msgspec.Raw]) -> list[bytes]:
        commands: list[Transfer] = []
        for part in _parts(items):
            for read in await self._read(caller, part):
                if isinstance(read, Refused):
                    raise Refused(read.reason, read.message, **{**read.details, "index": len(commands)})
                commands.append(read)
            await self._backend.pause()
        if sum(map(_weight_of, commands)) > MOST_LEGS_TOGETHER:
            message = f"An atomic batch has {MOST_LEGS_TOGETHER:,} legs at most"
            raise Refused("invalid_request", message, field="transfers", limit=MOST_LEGS_TOGETHER)
        outcomes = await self._backend.submit_bundle(commands, is_whole=True)
        if isinstance(outcomes[0], Exception):
            raise outcomes[0]
        told: list[bytes] = []
        decided = zip(commands, outcomes, strict=True)
        for some in _slices(commands, _weight_of, _SLICE_LEGS):
            told += [_told(answered(*one)) for one in islice(decided, len(some))]
            await self._backend.pause()
        return told

    async def _post_each(self, caller: Caller, items: Sequence[msgspec.Raw]) -> list[bytes]:
        told: list[bytes] = []
        under_way: deque[_Slice] = deque()
        for part in _parts(items):
            if len(under_way) == _AHEAD:
                told += await under_way.popleft().told()
            under_way.append(_Slice(self._backend, await self._read(caller, part)))
            await self._backend.pause()
        for rest in under_way:
            told += await rest.told()
        return told

    async def _read(self, caller: Caller, items: Sequence[msgspec.Raw]) -> list[Transfer | Refused]:
        """Read some transfers into commands, with refusals in the places of those that cannot be."""
        backend, scope = self._backend, caller.scope
        requests = _requests(items)
        owners = backend.owners_at_hand
        well_read = [one for one in requests if not isinstance(one, Refused)]
        if not all(_is_at_hand(one, owners) for one in well_read):
            owners = await backend.owners({account for one in well_read for account in accounts_of(one)})
        read: list[Transfer | Refused] = []
        for one in requests:
            if isinstance(one, Refused):
                read.append(one)
                continue
            try:
                new_id = backend.new_id()
                read.append(command_of(one, owners, caller, new_id, scope, one.idempotency_key, backend.config))
            except Refused as refused:
                read.append(refused)
        return read


class _Slice:
    """Some transfers under way, those that could not be read among them."""

    def __init__(self, backend: Backend, read: Sequence[Transfer | Refused]) -> None:
        self._read = read
        commands = [one for one in read if not isinstance(one, Refused)]
        self._outcomes: Deferred[list[Reply]] | None = None
        if commands:
            self._outcomes = backend.submit_bundle(commands, is_answered=True)

    async def told(self) -> list[bytes]:
        """Return what became of each, once that is known."""
        outcomes: Iterator[Reply] = iter(())
        if self._outcomes is not None:
            try:
                outcomes = iter(await self._outcomes)
            except Refused as refused:
                outcomes = repeat(refused)
        return [_told(one if isinstance(one, Refused) else next(outcomes)) for one in self._read]


def _parts(items: Sequence[msgspec.Raw]) -> Iterator[Sequence[msgspec.Raw]]:
    """Return the items in slices that are no longer than one turn of the reactor may read."""
    for start in range(0, len(items), _SLICE):
        part = items[start : start + _SLICE]
        is_short = len(b"".join(part)) <= _SLICE_BYTES  # most are, and to measure each is a tenth of reading it
        yield from (part,) if is_short else _slices(part, _bytes_of, _SLICE_BYTES)


def _slices(items: Sequence[T], weight_of: Callable[[T], int], most: int) -> Iterator[Sequence[T]]:
    """Return the items in slices, each of one item at least, and of no more than weigh so much together."""
    start, weight = 0, 0
    for index, item in enumerate(items):
        weight += weight_of(item)
        if index > start and (weight > most or index - start == _SLICE):
            yield items[start:index]
            start, weight = index, weight_of(item)
    yield items[start:]


def _is_at_hand(request: BatchedTransfer, owners: Container[str]) -> bool:
    """Whether a transfer is between two known accounts, and asks nothing of others."""
    return request.legs is None and request.expect is None and request.source in owners and request.target in owners


def _bytes_of(item: msgspec.Raw) -> int:
    return len(memoryview(item))


def _requests(items: Sequence[msgspec.Raw]) -> Sequence[BatchedTransfer | Refused]:
    """Read items, with refusals in the places of those that cannot be."""
    if len(items) == 1 and _bytes_of(items[0]) > MIB:
        return [Refused("payload_too_large", limit=MIB)]  # as it would be alone; reading it would take too long
    return _ITEMS.bodies(items)


def _told(outcome: Reply) -> bytes:
    """Return what became of one transfer, as the JSON of a `BatchOutcome`."""
    if isinstance(outcome, Answered):
        return (_REPLAYED if outcome.is_replay else _POSTED) % outcome.answer
    if isinstance(outcome, Refused) and is_in_doubt(outcome):
        raise outcome  # to be sent again, all of it: what was posted is replayed then
    refused = outcome if isinstance(outcome, Refused) else Refused("internal_server_error")
    return canonical(BatchOutcome("refused", error=error_told(refused)))

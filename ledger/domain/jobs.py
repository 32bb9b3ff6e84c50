"""Jobs: what one is, the states it goes through, and what each outcome of an attempt leads to."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec

from ledger.domain.errors import CATALOGUE, Refused
from ledger.domain.retry import delay_after

State = Literal["available", "scheduled", "executing", "retryable", "completed", "cancelled", "dead"]
STATES: Final[tuple[State, ...]] = (
    *("available", "scheduled", "executing", "retryable"),
    *("completed", "cancelled", "dead"),
)
ENDED: Final[tuple[State, ...]] = ("completed", "cancelled", "dead")

# The workers of each. Holds have a queue of their own: what is to be heard of at once waits for no long job.
QUEUES: Final = MappingProxyType({"banking": 3, "payments": 2, "notifications": 3, "holds": 1, "default": 1})

HIGHEST, ORDINARY, LOWEST = 0, 5, 9  # priorities
ATTEMPTS: Final = 4  # at most, unless a worker says otherwise: as many as the most patient category has
LONGEST_DELAY: Final = 366 * 86_400.0
_LONGEST_MESSAGE: Final = 500


class Cancel(Exception):
    """Raised by a worker: the job is to end quietly, there is nothing left to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Snooze(Exception):
    """Raised by a worker: the job is to be run again after so many seconds, and this run does not count."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = min(max(0.0, seconds), LONGEST_DELAY)


class Trouble(msgspec.Struct, frozen=True):
    """Why an attempt failed, safe to be shown: a reason of the catalogue (or `cancelled`) and a sentence."""

    reason: str
    message: str

    def refusal(self) -> Refused:
        """The refusal that this stands for."""
        return Refused(self.reason if self.reason in CATALOGUE else "internal_server_error", self.message)


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job to be queued; one with the same key, queued in the last `unique_for` seconds, takes its place."""

    id: str
    queue: str
    worker: str
    args: Mapping[str, Any]
    max_attempts: int
    timeout: float
    priority: int = ORDINARY
    delay: float = 0.0
    unique_key: str | None = None
    unique_for: float | None = None


class Job(msgspec.Struct, frozen=True):
    """A job as it is shown; `completed_at` is when it ended, whichever way."""

    id: str
    queue: str
    worker: str
    args: dict[str, Any]
    state: State
    priority: int
    attempt: int
    max_attempts: int
    scheduled_at: str
    attempted_at: str | None
    completed_at: str | None
    errors: list[dict[str, Any]]


class Claimed(msgspec.Struct, frozen=True):
    """A job that is ours to run, for as long as its fence stands; one with a `final` trouble is only to be given up."""

    id: str
    queue: str
    worker: str
    args: dict[str, Any]
    priority: int
    attempt: int
    max_attempts: int
    timeout: float
    fence: int
    final: Trouble | None = None


class Step(msgspec.Struct, frozen=True):
    """What becomes of a claimed job: its next state, in how many seconds it is due (None: as it was), and why."""

    state: State
    delay: float | None = None
    trouble: Trouble | None = None
    final: Trouble | None = None
    uncounted: bool = False  # the attempt


DONE: Final = Step("completed")
GIVEN_BACK: Final = Step("available", uncounted=True)  # before it was begun
LET_GO: Final = Step("available")  # unfinished


def after(outcome: BaseException | None, job: Claimed, chance: float) -> Step:
    """Return what an attempt that ended so leads to; `chance` (0 to 1) spreads the retries."""
    if outcome is None:
        return DONE
    if isinstance(outcome, Snooze):
        return Step("scheduled", outcome.seconds, uncounted=True)
    if isinstance(outcome, Cancel):
        return Step("cancelled", trouble=trouble_of(outcome))
    refused = outcome if isinstance(outcome, Refused) else Refused("internal_server_error")
    delay = delay_after(refused, job.attempt, chance)
    if delay is None or job.attempt >= job.max_attempts:
        return Step("dead", trouble=trouble_of(outcome))
    return Step("retryable", delay, trouble_of(outcome))


def beyond_hope(job: Claimed) -> Trouble | None:
    """Why a claimed job is not to be run any more, if so."""
    if job.final is None and job.attempt > job.max_attempts:
        return Trouble("internal_server_error", f"It was begun {job.max_attempts} times, and never came to an end")
    return job.final


def trouble_of(outcome: BaseException) -> Trouble:
    """Tell why an attempt failed, without anything that an unforeseen exception may have picked up."""
    if isinstance(outcome, Cancel):
        return Trouble("cancelled", clean(outcome.reason))
    if isinstance(outcome, Refused):
        return Trouble(outcome.reason, clean(outcome.message))
    return Trouble("internal_server_error", type(outcome).__name__)


def clean(text: str) -> str:
    """Return a text that the database can hold, and nobody minds to read."""
    return text.replace("\0", "").encode(errors="replace").decode()[:_LONGEST_MESSAGE]

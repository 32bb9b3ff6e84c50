"""Children whose every start and stop is written down, and can be told to fail, to hang, or to end later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ledger.services.child import Child


class FakeChild(Child):
    """Notes `+name` when started, `name` when ready, `-name` when told to stop, `.name` when stopped."""

    def __init__(self, name: str, notes: list[str], *leans_on: str) -> None:
        self.name = name
        self.notes = notes
        self.leans_on = leans_on
        self.before_ready: Callable[[], Deferred[None] | None] = lambda: None
        self.before_stopped: Callable[[], Deferred[None] | None] = lambda: None

    async def start(self) -> None:
        self.notes.append(f"+{self.name}")
        pending = self.before_ready()
        if pending is not None:
            await pending
        self.notes.append(self.name)

    async def stop(self) -> None:
        self.notes.append(f"-{self.name}")
        pending = self.before_stopped()
        if pending is not None:
            await pending
        self.notes.append(f".{self.name}")

    def die(self, message: str = "gone") -> None:
        """Report a death, as the running child would."""
        self.fail(Failure(OSError(message)))  # type: ignore[no-untyped-call]


def refuse(error: Exception) -> Callable[[], Deferred[None] | None]:
    """A step that fails with `error`."""

    def step() -> Deferred[None] | None:
        raise error

    return step


class FakeReactor(Clock):
    """A clock that can also be told to run."""

    def __init__(self) -> None:
        super().__init__()
        self.hooks: list[Callable[[], Any]] = []
        self.runs = False

    def callWhenRunning(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        if self.runs:
            callable(*args, **kwargs)
        else:
            self.hooks.append(lambda: callable(*args, **kwargs))

    def run(self) -> None:
        """Begin to run."""
        self.runs = True
        hooks, self.hooks = self.hooks, []
        for hook in hooks:
            hook()


class Log:
    """What was logged during a test."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.expected: list[type[Exception]] = [OSError]  # what the children here die of

    def tracebacks(self, kind: type[Exception]) -> int:
        """How many events carry a failure of this kind, which is thereby expected."""
        self.expected.append(kind)
        return sum(isinstance(event["log_failure"].value, kind) for event in self.events if "log_failure" in event)

    def unexpected(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those events that no test has asked for."""
        return [
            event
            for event in events
            if "what" not in event  # the last words of a ladder
            and not isinstance(event["log_failure"].value, tuple(self.expected))
        ]


async def stubborn() -> None:
    """A start that neither returns nor lets itself be cancelled."""
    try:
        await Deferred()
    except CancelledError:
        await Deferred()

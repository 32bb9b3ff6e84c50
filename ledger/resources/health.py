"""Health: whether the server lives, is ready for work, and how its parts do; plain objects without an envelope."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from ledger.domain.policy import Action, Caller, Reach, reach
from ledger.resources.answers import Instant
from ledger.resources.backend import Backend
from ledger.resources.endpoint import Answer, Call, Endpoint, Handler
from ledger.services.child import ChildStatus
from ledger.services.outbound import BreakerStatus
from ledger.version import VERSION

LIVE: Final = "/api/health/live"
LEAST_FREE: Final = 0.02  # of the memory, or of the disk: less than this is trouble
_MEMORY: Final = Path("/proc/meminfo")


class Alive(msgspec.Struct, frozen=True):
    """The process answers."""

    status: str
    uptime: int


class Ready(msgspec.Struct, frozen=True):
    """Whether work is taken."""

    status: str


class Basic(msgspec.Struct, frozen=True):
    """The short form; the uptime is in milliseconds."""

    status: str
    timestamp: str
    version: str
    uptime: int


class Checks(msgspec.Struct, frozen=True):
    """`ok` or `error` for each thing that work depends on."""

    database: str
    memory: str
    disk: str


class Service(msgspec.Struct, frozen=True):
    """One child of the service tree."""

    name: str
    state: str
    restarts: int
    last_failure: str | None


class Detailed(msgspec.Struct, frozen=True, omit_defaults=True):
    """The long form; the service tree, and the breakers of external services, are for admins."""

    status: str
    timestamp: str
    version: str
    uptime: int
    checks: Checks
    services: Sequence[Service] | None = None
    breakers: Sequence[BreakerStatus] | None = None


class HealthEndpoints:
    """GET /api/health and what is below it."""

    def __init__(self, backend: Backend, seconds: Callable[[], float], disk: str = ".") -> None:
        self._backend = backend
        self._seconds = seconds
        self._disk = disk
        self._started = seconds()
        self._instant = Instant()

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare them."""

        def declare(path: str, handler: Handler, summary: str, answer: type, **more: Any) -> Endpoint:
            return Endpoint(
                "GET",
                path,
                handler,
                summary=summary,
                policy=Action.SEE_HEALTH,
                answer=answer,
                envelope=False,
                rate_limited=False,
                **more,
            )

        return (
            declare("/api/health", self.basic, "Whether the server is up", Basic),
            declare(
                "/api/health/detailed", self.detailed, "How the parts of the server do", Detailed, knows_caller=True
            ),
            declare("/api/health/ready", self.ready, "Whether work is taken: 200 or 503", Ready, also=(503,)),
            declare(LIVE, self.live, "Whether the process answers", Alive),
        )

    async def basic(self, _caller: Caller | None, _call: Call[None, None]) -> Answer:
        """Tell version and uptime."""
        return Answer(Basic("ok", self._now(), VERSION, self._uptime()))

    async def detailed(self, caller: Caller | None, _call: Call[None, None]) -> Answer:
        """Check what work depends on."""
        health = await self._backend.health()
        checks = Checks(_verdict(health.database), _verdict(memory_is_free()), _verdict(disk_is_free(self._disk)))
        status = "ok" if "error" not in msgspec.structs.astuple(checks) else "degraded"
        services = breakers = None
        if reach(caller, Action.SEE_SERVICES) is not Reach.NONE:
            services, breakers = [_service(child) for child in health.services], health.breakers
        return Answer(Detailed(status, self._now(), VERSION, self._uptime(), checks, services, breakers))

    async def ready(self, _caller: Caller | None, _call: Call[None, None]) -> Answer:
        """Tell whether the database answers and all children run."""
        health = await self._backend.health()
        if health.database and all(child.state == "running" for child in health.services):
            return Answer(Ready("ready"))
        return Answer(Ready("not_ready"), status=503)

    async def live(self, _caller: Caller | None, _call: Call[None, None]) -> Answer:
        """Tell that the process answers."""
        return Answer(Alive("alive", self._uptime()))

    def _now(self) -> str:
        return self._instant.text(self._seconds())

    def _uptime(self) -> int:
        return int((self._seconds() - self._started) * 1000)


def memory_is_free(meminfo: Path = _MEMORY) -> bool:
    """Whether the machine has memory left; where it does not say, it is taken to have."""
    try:
        rows = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        total, available = (int(rows[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return True
    return available >= total * LEAST_FREE


def disk_is_free(path: str) -> bool:
    """Whether there is room on the disk that holds `path`; a path that cannot be asked about is trouble."""
    try:
        disk = os.statvfs(path)
    except OSError:
        return False
    return disk.f_bavail >= disk.f_blocks * LEAST_FREE


def _verdict(well: bool) -> str:
    return "ok" if well else "error"


def _service(child: ChildStatus) -> Service:
    return Service(child.name, child.state, child.restarts, child.last_failure)

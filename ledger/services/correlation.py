"""Which request the code that runs at the moment works for."""

from contextvars import ContextVar
from typing import Final

correlation: Final[ContextVar[str | None]] = ContextVar("correlation", default=None)

"""The log: one line an event, as text for people or as JSON for machines.

A line that is written while a request is being worked on carries its correlation id. What looks like a secret is masked
in every line; that it is there at all is a mistake, for what is secret travels as a `Secret`, which shows nothing. An
event with `is_example=True` is shown as it is: a password in an example is nobody's.
"""

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO, cast

import msgspec
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
)
from twisted.python.logfile import LogFile
from zope.interface import implementer

from ledger.domain.masking import MASK, masked, names_a_secret
from ledger.services.correlation import correlation

_PLAIN: Final = (str, int, float, bool, type(None))
_QUIET: Final = ("twisted.internet.protocol", "twisted.web", "autobahn", "yoyo", "ledger.resources.site")

_filtering: Any = FilteringLogObserver  # zope interfaces mean nothing to mypy
Format = Callable[[LogEvent], str]


def observer_for(twistd: Mapping[str, Any], log_format: str) -> Any:
    """Return what writes our log where twistd would write its own; None where twistd was told of another way."""
    if twistd.get("syslog") or twistd.get("logger"):
        return None
    logfile = twistd.get("logfile")
    out: TextIO
    if logfile and logfile != "-":
        out = cast("TextIO", LogFile.fromFullPath(logfile))  # type: ignore[no-untyped-call]
    elif twistd.get("nodaemon"):
        out = sys.stdout
    else:
        out = cast("TextIO", LogFile.fromFullPath("twistd.log"))  # type: ignore[no-untyped-call]
    return observer(out, json_line if log_format == "json" else text_line)


def observer(out: TextIO, line: Format) -> Any:
    """Return an observer that writes what is worth a line."""
    levels = LogLevelFilterPredicate(LogLevel.info)
    for namespace in _QUIET:
        levels.setLogLevelForNamespace(namespace, LogLevel.warn)
    return _filtering(_Lines(out, line), [levels])


@implementer(ILogObserver)
class _Lines:
    def __init__(self, out: TextIO, line: Format) -> None:
        self._out = out
        self._line = line

    def __call__(self, event: LogEvent) -> None:
        self._out.write(self._line(event) + "\n")
        self._out.flush()


def text_line(event: LogEvent) -> str:
    """Return `time level message [correlation id]`, and below it the traceback where there is one."""
    line = f"{_instant(event)} {_level(event):<8} {_message(event)}"
    if "correlation_id" not in event and (request := correlation.get()) is not None:
        line = f"{line} [{request}]"  # an event with an id of its own says it in its message
    trace = _traceback(event)
    return line if trace is None else f"{line}\n{trace}"


def json_line(event: LogEvent) -> str:
    """Return one JSON object: time, level, logger, message, the event's own plain fields, and any traceback."""
    fields = {name: _shown(event, name, value) for name, value in event.items() if _is_plain(name, value)}
    if "correlation_id" not in event and (request := correlation.get()) is not None:
        fields["correlation_id"] = request
    told = {
        "time": _instant(event),
        "level": _level(event),
        "logger": event.get("log_namespace", ""),
        "message": _message(event),
    }
    trace = _traceback(event)
    if trace is not None:
        told["traceback"] = trace
    return msgspec.json.encode({**fields, **told}).decode()


def _is_plain(name: str, value: object) -> bool:
    return isinstance(value, _PLAIN) and not name.startswith("log_") and name not in ("message", "isError", "system")


def _shown(event: LogEvent, name: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    return MASK if names_a_secret(name) else _masked(event, value)


def _masked(event: LogEvent, text: str) -> str:
    return text if event.get("is_example") is True else masked(text)


def _instant(event: LogEvent) -> str:
    return datetime.fromtimestamp(event["log_time"], UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _level(event: LogEvent) -> str:
    level = event.get("log_level")
    return "info" if level is None else str(level.name)


def _message(event: LogEvent) -> str:
    # One event, one line: what a client sent may stand in a message, and must not forge another.
    return _masked(event, formatEvent(event)).replace("\n", "\\n").replace("\r", "\\r")


def _traceback(event: LogEvent) -> str | None:
    failure = event.get("log_failure")
    return None if failure is None else masked(str(failure.getTraceback()).rstrip())

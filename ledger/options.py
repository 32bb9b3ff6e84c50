"""The options of `twistd ledger` and of the `ledger` script, as Twisted's option parser reads them."""

import os
from typing import Any

from twisted.python import usage

from ledger.config import OPTIONS, Config, Option, read_config
from ledger.domain.errors import ConfigurationError


class ServerOptions(usage.Options):
    """Every option of the table; unknown ones, and bad values, end the program with one line."""

    longdesc = "A self-hosted ledger. Each option is also an environment variable: LEDGER_LISTEN, LEDGER_DATABASE …"

    def __init__(self) -> None:
        self.given: dict[str, list[str]] = {}
        super().__init__()  # type: ignore[no-untyped-call]

    def postOptions(self) -> None:
        """Check everything at once."""
        self.config()

    def config(self) -> Config:
        """Return the configuration; a bad value is a usage error of one line."""
        try:
            return read_config(self.given, os.environ)
        except ConfigurationError as error:
            raise usage.UsageError(str(error)) from error


def _method(option: Option) -> Any:
    def take(self: ServerOptions, value: str) -> None:
        self.given.setdefault(option.name, []).append(value)

    def switch_on(self: ServerOptions) -> None:
        self.given[option.name] = ["on"]

    method = switch_on if option.is_flag else take
    method.__doc__ = option.help + (f" [default: {option.default}]" if option.default else "")
    return method


# Twisted finds options as methods of the class: these come from the one table.
for _option in OPTIONS:
    setattr(ServerOptions, "opt_" + _option.name.replace("-", "_"), _method(_option))

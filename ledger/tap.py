"""What twistd asks for: the options, and the service they describe."""

import resource
import signal
from contextlib import suppress
from typing import Any

from twisted.python import usage

from ledger.app import build
from ledger.domain.errors import ConfigurationError
from ledger.logs import observer_for
from ledger.options import ServerOptions
from ledger.services.collector import collect_seldom
from ledger.services.ladder import Ladder


class Options(ServerOptions):
    """The options as twistd reads them; a bad value ends it with that one line, without the whole help."""

    def postOptions(self) -> None:
        """Check everything at once."""
        try:
            config = self.config()
        except usage.UsageError as error:
            raise SystemExit(f"ledger: {error}") from error
        if config.database is not None and config.jwt_secret is None:
            # One made here would be unknown to other servers on that database.
            raise SystemExit("ledger: --jwt-secret-file: with --database, name a file with a secret of 32 bytes")


def makeService(options: ServerOptions) -> Ladder:
    """Return the service tree; twistd starts it with the reactor."""
    # The reactor is the process's own, and chosen by twistd before this is called.
    from twisted.internet import reactor as installed

    reactor: Any = installed
    _allow_many_sockets()
    config = options.config()
    try:
        ladder = build(config, reactor)
    except ConfigurationError as error:
        raise SystemExit(f"ledger: {error}") from error
    ladder.log_observer = observer_for(options.parent or {}, config.log_format)
    ladder.on_started(collect_seldom)
    reactor.addSystemEventTrigger("before", "shutdown", _stop_once)
    return ladder


def _allow_many_sockets() -> None:
    # The usual soft limit of 1,024 open files is one that subscribers reach; the hard one is the administrator's word.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS takes no "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _stop_once() -> None:
    # Whoever presses Ctrl-C again while the first is obeyed would only make Twisted log a traceback for each.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

"""What twistd asks for: the options, and the service they describe."""

from ledger.app import build
from ledger.logs import observer_for
from ledger.options import ServerOptions
from ledger.services.ladder import Ladder

Options = ServerOptions


def makeService(options: ServerOptions) -> Ladder:
    """Return the service tree; twistd starts it with the reactor."""
    # The reactor is the process's own, and chosen by twistd before this is called.
    from twisted.internet import reactor

    config = options.config()
    ladder = build(config, reactor)
    ladder.log_observer = observer_for(options.parent or {}, config.log_format)
    return ladder

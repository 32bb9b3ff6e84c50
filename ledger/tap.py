"""What twistd asks for: the options, and the service they describe."""

from ledger.app import build
from ledger.options import ServerOptions
from ledger.services.ladder import Ladder

Options = ServerOptions


def makeService(options: ServerOptions) -> Ladder:
    """Return the service tree; twistd starts it with the reactor."""
    # The reactor is the process's own, and chosen by twistd before this is called.
    from twisted.internet import reactor

    return build(options.config(), reactor)

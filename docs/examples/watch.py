"""Follow a topic over WebSocket: python docs/examples/watch.py URL TOKEN TOPIC [SINCE]."""

import json
import sys

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol, connectWS
from twisted.internet import reactor


class Watcher(WebSocketClientProtocol):
    """Authenticates, subscribes, and prints what it is told."""

    def onOpen(self) -> None:
        """Say who we are and what we want to follow."""
        token, topic, *since = sys.argv[2:]
        self.say(type="auth", token=token)
        self.say(type="subscribe", topic=topic, **({"since": since[0]} if since else {}))

    def say(self, **message: str) -> None:
        """Send one message."""
        self.sendMessage(json.dumps(message).encode())

    def onMessage(self, payload: bytes, _is_binary: bool) -> None:
        """Print one message."""
        print(payload.decode(), flush=True)

    def onClose(self, _was_clean: bool, code: int, reason: str) -> None:
        """Say why it ended."""
        print(f"closed: {code} {reason}", file=sys.stderr)
        if reactor.running:
            reactor.stop()


factory = WebSocketClientFactory(sys.argv[1])
factory.protocol = Watcher
connectWS(factory)
reactor.run()

"""Tells twistd about `twistd ledger`; the application itself is imported only when it runs."""

from twisted.application.service import ServiceMaker

ledger = ServiceMaker("Ledger", "ledger.tap", "A self-hosted ledger server, live over WebSockets", "ledger")  # type: ignore[no-untyped-call]

"""Statements with named parameters, planned once a connection."""

import re
from collections.abc import Iterable
from typing import Final

from ledger.store.postgres import Session

_PARAMETER: Final = re.compile(r"%\((\w+)\)s")


class Prepared:
    """SQL with `%(name)s` where parameters go, each cast to its type; `execute` runs it by its name."""

    def __init__(self, name: str, sql: str) -> None:
        names = list(dict.fromkeys(_PARAMETER.findall(sql)))
        numbered = _PARAMETER.sub(lambda match: f"${names.index(match[1]) + 1}", sql)
        self.name = name
        self.prepare = f"PREPARE {name} AS {numbered}"
        self.execute = f"EXECUTE {name} ({', '.join(f'%({parameter})s' for parameter in names)})"


class Preparations:
    """What one session has prepared."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: set[str] = set()

    async def have(self, statements: Iterable[Prepared]) -> None:
        """Prepare those that the session does not know yet."""
        new = [statement for statement in statements if statement.name not in self._known]
        if new:
            await self._session.run("; ".join(statement.prepare for statement in new))
            self._known.update(statement.name for statement in new)

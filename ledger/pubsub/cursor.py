"""Places in a stream: a record's number, and how many of its messages have been seen."""

import re
from typing import Final

import msgspec

from ledger.domain.errors import Refused

WHOLE: Final = 2**63  # no record has so many messages

_TEXT: Final = re.compile(r"([0-9]{1,18})(?::([0-9]{1,9}))?", re.ASCII)


class Cursor(msgspec.Struct, frozen=True, order=True):
    """Everything up to this message has been seen; without a part, the whole record."""

    seq: int
    part: int = WHOLE

    def covers(self, seq: int, part: int) -> bool:
        """Whether this message has been seen."""
        return seq < self.seq or (seq == self.seq and part <= self.part)

    @property
    def complete(self) -> int:
        """The last record of which nothing is missing."""
        return self.seq if self.part == WHOLE else self.seq - 1


def read_cursor(since: object) -> Cursor:
    """Return the place that a client means by a number, `"SEQ"` or `"SEQ:PART"`, or refuse with `invalid_cursor`."""
    if isinstance(since, int) and not isinstance(since, bool) and 0 <= since < 10**18:
        return Cursor(since)
    if isinstance(since, str) and (match := _TEXT.fullmatch(since)):
        seq, part = match.groups()
        return Cursor(int(seq)) if part is None else Cursor(int(seq), int(part))
    raise Refused("invalid_cursor", field="since")

"""Texts as string literals of SQL."""

from typing import Any


class Literal:
    """A text that stands for itself in a statement: psycopg2 puts it there as it is quoted here.

    psycopg2's own quoting looks at each byte, which takes longer for a batch than all else that is done to send it.
    Here only the quote is doubled: `Session` sees to it that backslashes mean nothing, and that text is UTF-8, in which
    no other character has the quote's byte.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str | bytes) -> None:
        """Raises `ValueError` where PostgreSQL could not hold it."""
        self._text = text if isinstance(text, bytes) else text.encode()
        if b"\0" in self._text:
            raise ValueError("text cannot hold NUL")

    def __conform__(self, _: Any) -> "Literal":
        return self

    def getquoted(self) -> bytes:
        """Return the literal."""
        return b"".join((b"'", self._text.replace(b"'", b"''"), b"'"))

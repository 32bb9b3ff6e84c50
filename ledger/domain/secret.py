"""Text that must not be seen: passwords and tokens on their way through the server."""

from typing import Any, NoReturn


class Secret:
    """A text that shows itself only where it is asked to; nothing can print, log or encode it by accident."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")


def read_secret(kind: type, value: Any) -> Any:
    """Decode what msgspec itself cannot: a `Secret` from its text."""
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise ValueError("Expected `str`")

"""A bounded memory of what never changes, or is forgotten when it does."""

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Remembered(OrderedDict[K, V], Generic[K, V]):
    """A dictionary that drops what it has held longest once it is full; looking up costs no more than in any other."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def keep(self, key: K, value: V) -> None:
        """Remember a value."""
        if len(self) >= self._most and key not in self:
            self.popitem(last=False)  # a plain dict would look for its first key past all that were deleted
        self[key] = value

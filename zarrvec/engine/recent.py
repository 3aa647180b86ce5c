"""What was used lately, up to a number of bytes? For one event loop: no other thread may use it."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A cache bounded by bytes; what was used longest ago goes first.

    Parameters
    ----------
    limit_bytes
        Bound on what is held. What is larger than that is not kept.

    Examples
    --------
    >>> recent = Recent(10)
    >>> recent.put("a", b"12345", 5), recent.put("b", b"67", 2), recent.get("a")
    (None, None, b'12345')
    >>> recent.put("c", b"8901", 4), recent.get("b"), dict(recent.items())
    (None, None, {'a': b'12345', 'c': b'8901'})
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: K) -> V | None:
        """Return what is held of a key."""
        held = self._held.get(key)
        if held is None:
            return None
        self._held.move_to_end(key)
        return held[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Hold a value of so many bytes."""
        self.drop(key)
        if size > self._limit_bytes:
            return
        self._held[key] = value, size
        self._bytes += size
        while self._bytes > self._limit_bytes:
            self.drop(next(iter(self._held)))

    def drop(self, key: K) -> None:
        """Hold nothing of a key any more."""
        _, size = self._held.pop(key, (None, 0))
        self._bytes -= size

    def items(self) -> list[tuple[K, V]]:
        """Return all that is held, what was used longest ago first."""
        return [(key, value) for key, (value, _) in self._held.items()]

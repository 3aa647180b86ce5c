"""What is kept of indexes in memory? Roots and posting lists, up to a number of bytes, for all threads.

What is kept never goes stale: a segment is never changed, and its name is used once. What was used longest ago goes first.
"""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from zarrvec.engine.bridge import call_after_fork
from zarrvec.errors import OptionError

DEFAULT_CACHE_BYTES: Final = 512 << 20

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Borrower(Protocol):
    """Holds on to values that a cache holds."""

    def take(self, found: Any) -> None:
        """Take a mapping of those that are held."""

    def forget(self) -> None:
        """Let go of all values; the cache has dropped one. Both are called while nobody else changes the cache."""


class ByteCache(Generic[K, V]):
    """A cache bounded by bytes; every method may be called by many threads.

    Parameters
    ----------
    limit_bytes
        Bound on what is held. What is larger than that is not kept.

    Examples
    --------
    >>> cache = ByteCache(10)
    >>> cache.put_many({"a": (b"12345", 5), "b": (b"67", 2)})
    >>> cache.get_many(["a", "c"])
    {'a': b'12345'}
    >>> cache.put_many({"d": (b"890123", 6)})
    >>> sorted(cache.get_many("abd")), cache.bytes_held
    (['d'], 6)
    """

    def __init__(self, limit_bytes: int) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._borrowers: weakref.WeakSet[Borrower] = weakref.WeakSet()
        self._limit_bytes = limit_bytes
        self.bytes_held = 0
        """Bytes of all that is held."""
        call_after_fork(self._after_fork)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self.clear()  # another thread may have been in the middle of a change

    @property
    def limit_bytes(self) -> int:
        """Bound on what is held; setting a lower one drops what is too much.

        Raises
        ------
        OptionError
            If it is set below 0.
        """
        return self._limit_bytes

    @limit_bytes.setter
    def limit_bytes(self, value: int) -> None:
        if value < 0:
            raise OptionError(f"limit_bytes={value}: expected 0 (keep nothing) or more")
        with self._lock:
            self._limit_bytes = value
            self._shrink()

    def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """Return those that are held."""
        with self._lock:
            return self._get_many(keys)

    def _get_many(self, keys: Iterable[K]) -> dict[K, V]:
        get, use = self._held.get, self._held.move_to_end
        found = {}
        for key in keys:
            held = get(key)
            if held is not None:
                use(key)
                found[key] = held[0]
        return found

    def lend(self, keys: Iterable[K], borrower: Borrower) -> None:
        """Give those that are held to a borrower, which is told, while it lives, when any value is dropped.

        So it needs no `get_many` for them, and keeps no memory alive that is not held here.
        """
        with self._lock:
            self._borrowers.add(borrower)
            borrower.take(self._get_many(keys))

    def put_many(self, items: Mapping[K, tuple[V, int]]) -> None:
        """Keep values of the bytes given; the last of them longest."""
        with self._lock:
            for key, (value, size) in items.items():
                if size > self._limit_bytes:
                    continue
                _, before = self._held.pop(key, (None, None))
                self._held[key] = value, size
                self.bytes_held += size
                if before is not None:
                    self.bytes_held -= before
                    self._recall()
            self._shrink()

    def clear(self) -> None:
        """Drop all."""
        with self._lock:
            self._held.clear()
            self.bytes_held = 0
            self._recall()

    def _shrink(self) -> None:
        if self.bytes_held > self._limit_bytes:
            self._recall()
        while self.bytes_held > self._limit_bytes:
            _, (_, size) = self._held.popitem(last=False)
            self.bytes_held -= size

    def _recall(self) -> None:
        for borrower in self._borrowers:
            borrower.forget()
        self._borrowers.clear()


class CachedList:
    """The bytes of a posting list in memory, at an address that kernels read."""

    __slots__ = ("address", "bits", "data")

    def __init__(self, data: npt.NDArray[np.uint8], bits: int) -> None:
        self.data = data
        """(bytes,) uint8; holding this object keeps it alive."""
        self.address: int = data.__array_interface__["data"][0]
        """Of the first byte."""
        self.bits = bits
        """4 if the low planes were not read."""


ROOTS: Final[ByteCache[Hashable, Any]] = ByteCache(DEFAULT_CACHE_BYTES // 2)
"""Roots of indexes."""
LISTS: Final[ByteCache[tuple[str, int], CachedList]] = ByteCache(DEFAULT_CACHE_BYTES)
"""Posting lists by segment and number."""

"""Where in memory do posting lists lie that are scanned again and again? Side by side in large pages.

A scan of a few lists among hundreds of megabytes waits for translations of addresses, of which a processor keeps some
thousand. Source: ``specs/decisions/0019-high-planes-first.md``.
"""

import contextlib
import mmap
import threading
import weakref
from bisect import bisect
from collections import deque
from typing import Final

import numpy as np
import numpy.typing as npt

from zarrvec.engine.bridge import call_after_fork

_LARGE_PAGE: Final = 2 << 20
_REGION_BYTES: Final = 64 << 20
_LINE_BYTES: Final = 64
"""Of the cache of a processor: copies begin at multiples of it."""
_ADVICE: Final[int | None] = getattr(mmap, "MADV_HUGEPAGE", None)


class Arena:
    """Makes copies in large pages, by regions that are given back to the system when no copy in them is left.

    Any thread may make and drop copies. Where the system has no such pages they are ordinary copies.

    Parameters
    ----------
    region_bytes
        Of a region: what is longer is copied elsewhere.

    Examples
    --------
    >>> arena = Arena()
    >>> copies = [arena.copy_of(np.full(5, number, "u1")) for number in (7, 8)]
    >>> [copy.tolist() for copy in copies]
    [[7, 7, 7, 7, 7], [8, 8, 8, 8, 8]]
    """

    def __init__(self, region_bytes: int = _REGION_BYTES) -> None:
        self._region_bytes = region_bytes
        self._after_fork()
        call_after_fork(self._after_fork)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        # none of the parent's, which another thread may have been changing
        self._regions: list[weakref.ref[_Region]] = []

    def copy_of(self, data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return a copy of (n,) uint8."""
        size = -(-data.size // _LINE_BYTES) * _LINE_BYTES
        if _ADVICE is None or not 0 < size <= self._region_bytes:
            return data.copy()
        try:
            with self._lock:
                piece = self._take(size)
        except OSError:  # the process may not have so much at once
            return data.copy()
        copy = np.asarray(piece)[: data.size]
        copy[...] = data
        return copy

    def _take(self, size: int) -> "_Piece":
        regions = [region for reference in self._regions if (region := reference()) is not None]
        for region in regions:
            piece = region.take(size)
            if piece is not None:
                break
        else:
            region = _Region(self._region_bytes)
            regions.append(region)
            piece = region.take(size)
            assert piece is not None
        self._regions = list(map(weakref.ref, regions))
        return piece


class _Region:
    """Memory of which pieces are taken and given back. The pieces keep it alive."""

    __slots__ = ("__weakref__", "_free", "_memory", "address", "given_back")

    def __init__(self, size: int) -> None:
        whole = mmap.mmap(-1, size + _LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        assert _ADVICE is not None
        with contextlib.suppress(OSError):  # not every system that knows of such pages has them
            whole.madvise(_ADVICE)
        self._memory = np.frombuffer(whole, dtype=np.uint8)
        self.address = -(-self._memory.ctypes.data // _LARGE_PAGE) * _LARGE_PAGE
        self._free = [(0, size)]
        """Where nothing is, from and to, ascending."""
        self.given_back: deque[tuple[int, int]] = deque()
        """What was free after that, for pieces are dropped by any thread at any time."""

    def take(self, size: int) -> "_Piece | None":
        """Return the first piece of that size that is free."""
        while self.given_back:
            self._put_back(*self.given_back.popleft())
        for number, (start, stop) in enumerate(self._free):
            if stop - start >= size:
                self._free[number : number + 1] = [(start + size, stop)] if stop - start > size else []
                return _Piece(self, start, size)
        return None

    def _put_back(self, start: int, stop: int) -> None:
        at = bisect(self._free, (start, stop))
        first, last = at, at
        if at > 0 and self._free[at - 1][1] == start:
            first, start = at - 1, self._free[at - 1][0]
        if at < len(self._free) and self._free[at][0] == stop:
            last, stop = at + 1, self._free[at][1]
        self._free[first:last] = [(start, stop)]


class _Piece:
    """Bytes in a region, as numpy asks for them; given back when no array needs them any more."""

    __slots__ = ("__array_interface__", "_region", "_span")

    def __init__(self, region: _Region, start: int, size: int) -> None:
        self._region = region
        self._span = start, start + size
        self.__array_interface__ = {
            "data": (region.address + start, False), "shape": (size,), "typestr": "|u1", "version": 3,
        }  # fmt: skip

    def __del__(self) -> None:
        self._region.given_back.append(self._span)

"""Where in memory are the posting lists of an index? Told without asking the cache for each of them.

The cache may drop a list at any time. It then tells all that it has lent lists to, which forget all of theirs; who is just
scanning them holds on to what `Resident.lists` returned.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from zarrvec.search.cache import LISTS, CachedList

Key = tuple[str, int]


class Lists(NamedTuple):
    """Posting lists in memory, as long as this is held."""

    addresses: npt.NDArray[np.uint64]
    """(parts, nlist) uint64: of the first byte of each; 0 where it isn't there."""
    held: dict[Key, CachedList]
    """What keeps them alive."""


class Resident:
    """The posting lists of an index that are in the cache, with so many bits of their codes.

    Parameters
    ----------
    parts
        Ids of its segments.
    nlist
        Lists of each.
    bits
        4 or 8.

    Examples
    --------
    >>> resident = Resident(["a", "b"], nlist=3, bits=8)
    >>> kept = CachedList(np.zeros(5, "u1"), 8)
    >>> LISTS.put_many({("b", 2): (kept, 5)})
    >>> resident.borrow([("b", 1), ("b", 2)])
    >>> (resident.lists.addresses == kept.address).tolist()
    [[False, False, False], [False, False, True]]
    >>> LISTS.clear()
    >>> resident.lists is None
    True
    """

    __slots__ = ("__weakref__", "_bits", "_nlist", "_parts", "lists")

    def __init__(self, parts: Iterable[str], nlist: int, bits: int) -> None:
        self._parts = {part: row for row, part in enumerate(parts)}
        self._nlist = nlist
        self._bits = bits
        self.lists: Lists | None = None
        """Those that are known to be there; more may come while it is held."""

    def borrow(self, keys: Iterable[Key]) -> None:
        """Ask the cache for some lists."""
        LISTS.lend(keys, self)

    def take(self, found: Mapping[Key, CachedList]) -> None:
        """Note lists; the cache calls this, and drops nothing meanwhile."""
        lists = self.lists
        if lists is None:
            lists = Lists(np.zeros((len(self._parts), self._nlist), dtype=np.uint64), {})
        for key, kept in found.items():
            if kept.bits >= self._bits:
                lists.held[key] = kept  # first, for others may be scanning
                lists.addresses[self._parts[key[0]], key[1]] = kept.address
        self.lists = lists

    def forget(self) -> None:
        """Forget all lists; the cache calls this when it has dropped any."""
        self.lists = None

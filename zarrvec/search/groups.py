"""Of which posting lists does a search look at the centroids, where there are too many to look at all?

Pure. Near lists lie in groups, each with a centroid of its own, and a search looks at the lists of the nearest groups: only
their rows of the table of lists are read. Source: ``specs/vector-index.md``, section "Groups".
"""

from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from zarrvec.search.clustering import Assigner, train_centroids
from zarrvec.search.depth import Compass
from zarrvec.search.list_table import ListTable
from zarrvec.search.quantize import quantize_centroids
from zarrvec.search.records import LIST_HEAD
from zarrvec.search.similarity import similarity_order

ROOT_BYTES: Final = 8 << 20
"""A table of lists up to this size is read whole; a longer one is read by groups."""
GROUPS: Final = 8
"""Groups for each square root of the lists. Fewer would be read faster at first, but more lists would have to be seen."""
OVERGROWN: Final = 4
"""A group of more than so many times the mean of the lists is cut."""
ALWAYS: Final = 64
"""A search looks at as many lists as if it probed so many more: rows of the table are short, posting lists are long."""

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


class Grouped(NamedTuple):
    """The groups of an index that is not yet stored."""

    table: ListTable
    """As for lists: ``offset`` is the first list of a group, ``count`` its lists, ``radius`` how far centroids of lists are
    from that of the group."""
    seen: float
    """Lists that a search looks at for each one that it probes."""


class Nearness(NamedTuple):
    """In which order each query meets the groups."""

    order: Int64
    """(q, groups) int64: groups, the nearest first."""
    before: Int64
    """(q, groups) int64: lists of all nearer groups."""

    @classmethod
    def of(cls, compass: Compass, sizes: Int64, queries: Float32) -> Self:
        """Compare (q, d) queries with the centroids of groups of so many lists."""
        order = np.argsort(compass.keys(queries)[0], axis=1, kind="stable")
        met = sizes[order]
        return cls(order, np.cumsum(met, axis=1) - met)

    def seen(self, seen: float, nprobe: int) -> npt.NDArray[np.bool_]:
        """Return (q, groups): whether the lists of a group are looked at, in the order of the query.

        Examples
        --------
        >>> near = Nearness(np.array([[1, 0, 2]]), np.array([[0, 100, 150]]))
        >>> near.seen(2.0, 1).tolist(), near.seen(2.0, 12).tolist()
        ([[True, True, False]], [[True, True, True]])
        """
        return self.before < seen * (nprobe + ALWAYS)

    def needed(self, seen: float) -> Int64:
        """Return (q, groups): the least nprobe, less 1, with which a group is looked at; by the numbers of the groups.

        Examples
        --------
        >>> near = Nearness(np.array([[1, 0, 2]]), np.array([[0, 100, 150]]))
        >>> near.needed(2.0).tolist()
        [[0, 0, 11]]
        """
        needed = np.empty_like(self.order)
        np.put_along_axis(
            needed, self.order, np.maximum(0, np.floor(self.before / seen).astype(np.int64) - ALWAYS), axis=1
        )
        return needed


def are_grouped(nlist: int, width: int) -> bool:
    """Return whether the table of so many lists is read by groups.

    Examples
    --------
    >>> are_grouped(20_000, 384), are_grouped(21_000, 384)
    (False, True)
    """
    return nlist * (LIST_HEAD.itemsize + width) > ROOT_BYTES


def ordered_in_groups(centroids: Float32, seed: int) -> tuple[Int64, Int64]:
    """Return a permutation of the lists by groups, near groups and lists near each other, and the lists in each group.

    Examples
    --------
    >>> order, sizes = ordered_in_groups(np.array([[0], [9], [1], [8], [2]], "f4"), 0)
    >>> sorted(order.tolist()), int(sizes.sum())
    ([0, 1, 2, 3, 4], 5)
    """
    nearest = train_centroids(centroids, max(1, round(GROUPS * len(centroids) ** 0.5)), seed=seed)
    group = Assigner(nearest).nearest(centroids, 1)[0][:, 0]
    by_group = np.split(
        np.argsort(group, kind="stable"), np.cumsum(np.bincount(group, minlength=len(nearest)))[:-1]
    )
    limit = max(1, OVERGROWN * len(centroids) // len(nearest))
    runs: list[Int64] = []
    for number in similarity_order(nearest):
        lists = by_group[number]
        if lists.size:
            lists = lists[similarity_order(centroids[lists])]
            runs += np.array_split(lists, -(-lists.size // limit))
    return np.concatenate(runs), np.array([run.size for run in runs], dtype=np.int64)


def groups_of(centroids: Float32, sizes: Int64) -> ListTable:
    """Return what is stored of groups, but for checksums.

    Parameters
    ----------
    centroids
        (nlist, d) float32, as they are decoded, group after group.
    sizes
        (groups,) the lists of each.

    Examples
    --------
    >>> table = groups_of(np.array([[0, 0], [2, 0], [9, 9]], "f4"), np.array([2, 1]))
    >>> table.heads["offset"].tolist(), table.vectors()[0].tolist(), table.heads["radius"].round(3).tolist()
    ([0, 2], [1.0, 0.0], [1.0, 0.0])
    """
    firsts = np.cumsum(sizes) - sizes
    means = np.add.reduceat(centroids.astype(np.float64), firsts, axis=0) / sizes[:, None]
    codes, scales = quantize_centroids(means.astype(np.float32))
    heads = np.zeros(len(sizes), dtype=LIST_HEAD)
    heads["offset"], heads["count"], heads["scale"] = firsts, sizes, scales
    table = ListTable(heads, codes)
    away = np.linalg.norm(centroids - np.repeat(table.vectors(), sizes, axis=0).astype(np.float64), axis=1)
    heads["radius"] = np.nextafter(np.maximum.reduceat(away, firsts).astype(np.float32), np.float32(np.inf))
    return table

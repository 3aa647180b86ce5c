"""Which k rows are nearest so far, of each of many queries.

The order is by float64 distance and then by id, so that the answer does not depend on how the rows were split. Rows are
let in by threshold, so few reach the sort that merges them; a plain partition would leave open which of several rows at
one distance stays.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

NO_ID: Final = np.iinfo(np.int64).max
"""Id of a place that no row has taken; sorts after every row, at infinite distance too."""


class TopK:
    """The k nearest rows of each query, updated in place.

    Parameters
    ----------
    queries
        Number of queries.
    k
        Number of rows kept for each.

    Examples
    --------
    >>> import numpy as np
    >>> top = TopK(queries=1, k=2)
    >>> top.update(np.array([0, 0, 0]), np.array([7, 5, 6]), np.array([0.5, 0.5, 9.0]))
    >>> top.ids.tolist(), top.distances.tolist()
    ([[5, 7]], [[0.5, 0.5]])
    """

    __slots__ = ("distances", "ids", "k")

    def __init__(self, *, queries: int, k: int) -> None:
        self.k = k
        self.distances: npt.NDArray[np.float64] = np.full((queries, k), np.inf)
        """(q, k) float64, ascending."""
        self.ids: npt.NDArray[np.int64] = np.full((queries, k), NO_ID, dtype=np.int64)
        """(q, k) int64; `NO_ID` where there are fewer than k rows yet."""

    def thresholds(self, queries: slice) -> npt.NDArray[np.float64]:
        """Return the distance above which no row enters, of each query in the slice."""
        return self.distances[queries, -1]

    def update(
        self, query: npt.NDArray[np.intp], ids: npt.NDArray[np.int64], distances: npt.NDArray[np.float64]
    ) -> None:
        """Offer rows, each once in the life of this object.

        Parameters
        ----------
        query
            (m,) the query that the row is offered to.
        ids
            (m,) int64.
        distances
            (m,) float64, not NaN.
        """
        near = distances <= self.distances[query, -1]
        query, ids, distances = query[near], ids[near], distances[near]
        if not query.size:
            return
        touched, group = np.unique(query, return_inverse=True)
        groups = np.concatenate([np.repeat(np.arange(touched.size), self.k), group])
        all_ids = np.concatenate([self.ids[touched].ravel(), ids])
        all_distances = np.concatenate([self.distances[touched].ravel(), distances])
        order = _in_order(groups, all_distances, all_ids)
        first = np.searchsorted(groups[order], np.arange(touched.size))
        kept = order[first[:, None] + np.arange(self.k)]
        self.ids[touched], self.distances[touched] = all_ids[kept], all_distances[kept]


def _in_order(
    groups: npt.NDArray[np.intp], distances: npt.NDArray[np.float64], ids: npt.NDArray[np.int64]
) -> npt.NDArray[np.intp]:
    """Return the order by group, distance and id, as `np.lexsort` does in six times the time: few distances are equal."""
    small = groups.astype(np.uint16) if groups.max() < 1 << 16 else groups  # sorted by digits
    order = np.argsort(distances)
    order = order[np.argsort(small[order], kind="stable")]
    before, after = order[:-1], order[1:]
    same = (small[before] == small[after]) & (distances[before] == distances[after])
    if (ids[before] != ids[after])[same].any():
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        some = order[tied]
        order[tied] = some[np.lexsort((ids[some], distances[some], groups[some]))]
    return order

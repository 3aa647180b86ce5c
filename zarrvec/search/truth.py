"""Which are the true nearest rows of the queries that an index is calibrated on, and what of them is found by lists and codes?

Source: ``specs/vector-index.md``, section "Calibration".
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from zarrvec.search.calibrate import calibrate, limit_to_groups, list_ranks
from zarrvec.search.depth import Compass
from zarrvec.search.groups import Grouped
from zarrvec.search.head import Calibration
from zarrvec.search.metrics import Metric
from zarrvec.search.quantize import dequantize
from zarrvec.search.records import Entries, ListTable
from zarrvec.search.topk import NO_ID, TopK

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
_TRUTH_ROWS: Final = 8192
_CLOSE: Final = 1e-3
"""Smaller parts of the squared lengths have few digits as their difference: such rows and queries are subtracted."""
_PAIRS: Final = 8192
"""Pairs of a query and a row that are subtracted at once."""


class Truth:
    """The true nearest rows of some queries, in float32, as rows go by.

    Parameters
    ----------
    queries
        (c, d) float32, of the space of the index.
    metric
        Of the index.
    columns
        Rows for each.

    Examples
    --------
    >>> truth = Truth(np.array([[1, 0]], "f4"), "l2", columns=2)
    >>> truth.add(np.array([7, 8]), np.array([[1, 1], [1, 2]], "f4"))
    >>> other = Truth(np.array([[1, 0]], "f4"), "l2", columns=2)
    >>> other.add(np.array([9]), np.array([[1, 0]], "f4"))
    >>> truth.merge(*other.found())
    >>> truth.neighbours(None).tolist()
    [[9, 7]]
    """

    def __init__(self, queries: Float32, metric: Metric, *, columns: int) -> None:
        self.queries = queries
        self._squares: Float32 | None = np.einsum("ij,ij->i", queries, queries) if metric == "l2" else None
        self._top = TopK(queries=len(queries), k=columns)
        self._waiting: list[tuple[Int64, Int64, Float64]] = []
        self._waiting_count = 0

    def add(self, ids: Int64, vectors: Float32) -> None:
        """Offer rows."""
        at, size = 0, self._top.k  # parts grow, so that few rows get past those before
        while at < len(ids):
            part = slice(at, at + size)
            query, row, distances = self._nearer(vectors[part])
            self._waiting.append((query, ids[part][row], distances))
            self._waiting_count += len(query)
            if self._waiting_count > self._top.ids.size:
                self._merge()  # seldom: it sorts
            at, size = at + size, min(2 * size, _TRUTH_ROWS)

    def _nearer(self, rows: Float32) -> tuple[Int64, Int64, Float64]:
        """Return queries, rows, and their distances, where these are less than those known."""
        limits = self._top.distances[:, -1:].astype(np.float32)
        scores = self.queries @ rows.T
        if self._squares is None:
            np.negative(scores, out=scores)
            query, row = np.nonzero(scores <= limits)
            return query, row, scores[query, row].astype(np.float64)
        norms = np.einsum("ij,ij->i", rows, rows)
        scores *= -2
        scores += norms
        query, row = np.nonzero(scores <= limits - self._squares[:, None])
        squares = self._squares[query].astype(np.float64)
        distances = scores[query, row] + squares
        close = np.flatnonzero(distances <= _CLOSE * (squares + norms[row]))
        for start in range(0, len(close), _PAIRS):
            some = close[start : start + _PAIRS]
            apart = rows[row[some]].astype(np.float64) - self.queries[query[some]]
            distances[some] = np.einsum("ij,ij->i", apart, apart)
        return query, row, distances

    def _merge(self) -> None:
        if self._waiting:
            query, ids, distances = (np.concatenate(column) for column in zip(*self._waiting, strict=True))
            self._top.update(query, ids, distances)
        self._waiting, self._waiting_count = [], 0

    def found(self) -> tuple[Int64, npt.NDArray[np.float64]]:
        """Return (c, columns) ids and scores of the rows that went by, for `merge`."""
        self._merge()
        return self._top.ids, self._top.distances

    def merge(self, ids: Int64, scores: npt.NDArray[np.float64]) -> None:
        """Take in what was found among other rows."""
        self._merge()
        query, column = np.nonzero(ids != NO_ID)
        self._top.update(query, ids[query, column], scores[query, column])

    def neighbours(self, own: Int64 | None) -> Int64:
        """Return (c, t) ids, nearest first, without the queries' own if they are rows."""
        self._merge()
        ids = self._top.ids
        if own is not None:
            is_own = ids == own[:, None]
            is_own[~is_own.any(axis=1), -1] = True  # pushed out by others at the same place
            ids = ids[~is_own].reshape(len(ids), -1)
        return ids[:, : int((ids != NO_ID).sum(axis=1).min(initial=ids.shape[1]))]


def measure(
    queries: Float32,
    neighbours: Int64,
    lists: Callable[[Int64], npt.NDArray[np.int32]],
    entries: Callable[[Int64], Entries],
    compass: Compass,
    groups: ListTable | None,
    *,
    source: str,
) -> tuple[Calibration, Grouped | None]:
    """Measure recall, and what is lost by looking at the nearest groups only.

    Parameters
    ----------
    queries
        (c, d) float32.
    neighbours
        (c, t) ids of their true neighbours, of `Truth.neighbours`.
    lists
        Returns (..., 2) the lists of rows, the nearest first, -1 for none.
    entries
        Returns the entries of rows in their nearest lists.
    compass
        Of all lists.
    groups
        Of lists, if there are some.
    source
        What the queries are, for `zarrvec.search.calibrate.calibrate`.
    """
    metric = compass.metric
    of_neighbours = lists(neighbours)
    ranks, nearest = list_ranks(queries, compass, of_neighbours)
    grouped = None
    if groups is not None:
        of_groups = Compass.of_table(groups, metric)
        seen, ranks = limit_to_groups(queries, of_neighbours, ranks, groups, of_groups)
        grouped = Grouped(groups, seen)
    scores = {bits: np.empty(neighbours.shape, dtype=np.float32) for bits in (4, 8)}
    for query, ids in zip(range(len(queries)), neighbours, strict=True):
        stored = entries(ids)
        around = compass.vectors[of_neighbours[query, :, 0]]
        for bits, scored in scores.items():
            codes = stored.codes if bits == 8 else stored.codes & np.uint8(0xF0) | np.uint8(8)
            decoded = dequantize(codes, stored.scales, around)
            scored[query] = decoded @ queries[query] * (-2 if metric == "l2" else -1)
            if stored.norms is not None:
                scored[query] += stored.norms
    calibration = calibrate(
        source=source, nlist=len(compass.vectors), ranks=ranks, nearest=nearest, scores=scores
    )
    return calibration, grouped

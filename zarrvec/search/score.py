"""Which rows of a block belong to the nearest so far.

A tile of rows and queries is one matrix product of lower bounds; rows whose bound lies above the k-th distance known are
out, the rest is measured in float64. When single precision leaves too many to measure (vectors far from the centre but
near each other, or of extreme size), the tile is bounded once more in double precision.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from zarrvec.search.metrics import (
    Float64,
    Metric,
    QueryTerms,
    RowTerms,
    lower_bounds,
    pair_distances,
    query_terms,
    row_terms,
    unit_rows,
    working_dtype,
)
from zarrvec.search.topk import TopK

_ROW_TILE: Final = 8192
_ROW_BYTES: Final = 28
"""Bytes of a tile for each component: a row in float32, in float64, and the copies that make them."""
_CELL_BYTES: Final = 96
"""Bytes of a tile for each pair of row and query at worst: bound, partition, position, id, distance, sort."""
_DENSE: Final = 4
"""Measuring pays while no more than this times k rows a query are left; beyond it the bound is tightened first."""
_DOUBLE: Final = np.dtype(np.float64)


class Scorer:
    """The running top k of many queries over blocks of rows.

    Parameters
    ----------
    metric
        One of `zarrvec.search.metrics.METRICS`.
    queries
        (q, d) float64, finite.
    k
        Rows kept for each query.
    dtype
        Of the rows.
    fill
        (d,) the row that an array holds where nothing was written, or None. Of a run of such rows only k are compared,
        since they tie and the lower id wins.
    memory_bytes
        Bound on the temporary arrays, unless one row and one query need more.

    Examples
    --------
    >>> import numpy as np
    >>> scorer = Scorer(
    ...     metric="l2", queries=np.zeros((1, 2)), k=1, dtype=np.dtype("f4"), fill=None, memory_bytes=1 << 20
    ... )
    >>> scorer.add(np.array([[3, 4], [np.nan, 0], [0, 2]], "f4"), np.array([0, 1, 2]))
    >>> scorer.top.ids.tolist(), scorer.top.distances.tolist(), scorer.rows
    ([[2]], [[4.0]], 2)
    """

    def __init__(
        self,
        *,
        metric: Metric,
        queries: Float64,
        k: int,
        dtype: np.dtype[Any],
        fill: npt.NDArray[Any] | None,
        memory_bytes: int,
    ) -> None:
        count, width = queries.shape
        self.top = TopK(queries=count, k=k)
        self.rows = 0
        """Rows compared so far."""
        self._metric = metric
        self._queries = unit_rows(queries)[0] if metric == "cosine" else queries
        self._given = queries
        self._k = k
        self._fill = fill
        self._dtype = working_dtype(dtype, width)
        self._centre: Float64 | None = None
        self._terms: dict[np.dtype[Any], QueryTerms] = {}
        self._row_tile = max(1, min(_ROW_TILE, memory_bytes // 2 // (_ROW_BYTES * width)))
        self._query_tile = max(1, memory_bytes // 2 // (_CELL_BYTES * self._row_tile))

    def add(self, rows: npt.NDArray[Any], ids: npt.NDArray[np.int64]) -> None:
        """Compare rows with all queries; rows with a NaN or an infinity are passed over.

        Parameters
        ----------
        rows
            (n, d) in the dtype given.
        ids
            (n,) int64, ascending.
        """
        for start in range(0, len(rows), self._row_tile):
            tile = slice(start, start + self._row_tile)
            self._add_tile(rows[tile], ids[tile])

    def _add_tile(self, rows: npt.NDArray[Any], ids: npt.NDArray[np.int64]) -> None:
        finite = _finite(rows)
        if finite is not None:
            rows, ids = rows[finite], ids[finite]
        self.rows += len(rows)
        repeats = self._repeats(rows)
        if repeats.size:
            rows, ids = np.delete(rows, repeats, axis=0), np.delete(ids, repeats)
        if not len(rows):
            return
        if self._centre is None:
            self._centre = self._centre_of(rows)
        terms: dict[np.dtype[Any], RowTerms] = {}
        for start in range(0, len(self._queries), self._query_tile):
            part = slice(start, min(start + self._query_tile, len(self._queries)))
            query, row = self._near(part, rows, terms)
            query += start
            distances = pair_distances(self._metric, rows, row, self._queries, query)
            self.top.update(query, ids[row], distances)

    def _repeats(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
        """Return the rows that equal the fill row, but for the first k of them."""
        if self._fill is None:
            return np.empty(0, dtype=np.intp)
        likely = np.flatnonzero((rows[:, 0] == self._fill[0]) & (rows[:, -1] == self._fill[-1]))
        if len(likely) <= self._k:
            return likely[:0]
        same: npt.NDArray[np.intp] = likely[(rows[likely] == self._fill).all(axis=1)]
        return same[self._k :]

    def _centre_of(self, rows: npt.NDArray[Any]) -> Float64:
        """Return the mean of the rows, rounded to the precision in which it is subtracted; zero if that overflows."""
        with np.errstate(over="ignore", invalid="ignore"):
            mean = rows.mean(axis=0, dtype=np.float64).astype(self._dtype).astype(np.float64)
        return mean if np.isfinite(mean).all() else np.zeros_like(mean)

    def _query_terms(self, dtype: np.dtype[Any]) -> QueryTerms:
        if dtype not in self._terms:
            assert self._centre is not None
            self._terms[dtype] = query_terms(self._metric, self._given, dtype, self._centre)
        return self._terms[dtype]

    def _near(
        self, part: slice, rows: npt.NDArray[Any], terms: dict[np.dtype[Any], RowTerms]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return the pairs (query within the part, row) that no bound rules out."""
        assert self._centre is not None
        known = self.top.thresholds(part)
        wanted = _DENSE * self._k * len(known)
        dtype = self._dtype
        while True:
            if dtype not in terms:
                terms[dtype] = row_terms(self._metric, rows, dtype, self._centre)
            last = dtype == _DOUBLE
            if last or not terms[dtype].unbounded:
                near = self._bounded(self._query_terms(dtype).take(part), terms[dtype], known, wanted)
                if last or np.count_nonzero(near) <= wanted:
                    query, row = np.nonzero(near)
                    return query, row
            dtype = _DOUBLE

    def _bounded(
        self, queries: QueryTerms, rows: RowTerms, known: Float64, wanted: int
    ) -> npt.NDArray[np.bool_]:
        bounds = lower_bounds(queries, rows)
        limits = queries.limits(known)
        near = ~(bounds > _rounded_up(limits, bounds.dtype)[:, None])
        if np.count_nonzero(near) > wanted and self._k < bounds.shape[1]:
            # any k rows of known upper bound will do; those of the least lower bounds do best
            some = np.argpartition(bounds, self._k - 1, axis=1)[:, : self._k]
            least = np.take_along_axis(bounds, some, axis=1).astype(np.float64)
            with np.errstate(invalid="ignore"):
                upper = (least + rows.slack[some]).max(axis=1) + queries.slack
            limits = np.fmin(limits, np.where(np.isnan(upper), np.inf, upper))
            near &= ~(bounds > _rounded_up(limits, bounds.dtype)[:, None])
        return near


def _finite(rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    """Return which rows are finite, or None if all are."""
    if rows.dtype.kind != "f":
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        sums = rows.sum(axis=1, dtype=np.float64)
    doubtful = np.flatnonzero(~np.isfinite(sums))
    if not doubtful.size:
        return None
    finite = np.ones(len(rows), dtype=np.bool_)
    finite[doubtful] = np.isfinite(rows[doubtful]).all(axis=1)
    return finite


def _rounded_up(limits: Float64, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        up: npt.NDArray[Any] = np.nextafter(limits.astype(dtype), dtype.type(np.inf))
    return up

"""Which are the true nearest rows of the queries that an index is calibrated on, and what of them is found by lists and codes?

Source: ``specs/vector-index.md``, section "Calibration".
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from zarrvec.search.calibrate import CALIBRATED_K, calibrate, limit_to_groups, list_ranks
from zarrvec.search.depth import Compass
from zarrvec.search.groups import Grouped
from zarrvec.search.head import Calibration
from zarrvec.search.list_table import ListTable
from zarrvec.search.loss import Ranked, as_compiled, losses
from zarrvec.search.metrics import Metric
from zarrvec.search.quantize import dequantize
from zarrvec.search.records import Entries
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
    >>> ids, distances = truth.neighbours(None)
    >>> ids.tolist(), distances.tolist()
    ([[9, 7]], [[0.0, 1.0]])
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
            query, row, distances = self._nearer(
                vectors[part], self._top.distances[:, -1:].astype(np.float32)
            )
            self._waiting.append((query, ids[part][row], distances))
            self._waiting_count += len(query)
            if self._waiting_count > self._top.ids.size:
                self._merge()  # seldom: it sorts
            at, size = at + size, min(2 * size, _TRUTH_ROWS)

    def _nearer(self, rows: Float32, limits: Float32) -> tuple[Int64, Int64, Float64]:
        """Return queries, rows, and their distances, where these are not above (c, 1) limits."""
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

    def neighbours(self, own: Int64 | None) -> tuple[Int64, Float64]:
        """Return (c, t) ids and distances, nearest first, without the queries' own if they are rows."""
        self._merge()
        ids, distances = self._top.ids, self._top.distances
        if own is not None:
            is_own = ids == own[:, None]
            is_own[~is_own.any(axis=1), -1] = True  # pushed out by others at the same place
            ids, distances = (column[~is_own].reshape(len(ids), -1) for column in (ids, distances))
        columns = int((ids != NO_ID).sum(axis=1).min(initial=ids.shape[1]))
        return ids[:, :columns], distances[:, :columns]

    def distances(self, rows: Float32) -> Float64:
        """Return (c, m) distances of (m, d) rows."""
        limits = np.full((len(self.queries), 1), np.inf, dtype=np.float32)
        return self._nearer(rows, limits)[2].reshape(len(self.queries), len(rows))


class Others(NamedTuple):
    """Rows that stand for all."""

    ids: Int64
    """(m,)."""
    vectors: Float32
    """(m, d)."""
    rows: int
    """How many rows there are."""


def measure(
    truth: Truth,
    own: Int64 | None,
    others: Others,
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
    truth
        What all rows were offered to.
    own
        (c,) ids of the queries, if they are rows.
    others
        Some hundred of all rows, drawn at random.
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
    queries = truth.queries
    neighbours, distances = truth.neighbours(own)
    of_neighbours = lists(neighbours)
    ranks, nearest = list_ranks(queries, compass, of_neighbours)
    grouped = None
    if groups is not None:
        of_groups = Compass.of_table(groups, compass.metric)
        seen, ranks = limit_to_groups(queries, of_neighbours, ranks, groups, of_groups)
        grouped = Grouped(groups, seen)
    lost = {bits: [0.0] * len(CALIBRATED_K) for bits in (4, 8)}
    if neighbours.size:
        away = truth.distances(others.vectors)
        weights = (away > distances[:, -1:]).astype(np.float64)
        left = others.rows - neighbours.shape[1] - (own is not None)
        weights *= left / np.maximum(weights.sum(axis=1, keepdims=True), 1)
        weights = np.concatenate([np.ones(neighbours.shape), weights], axis=1)
        away = np.concatenate([distances, away], axis=1)
        shared = entries(others.ids), compass.vectors[lists(others.ids)[:, 0]]
        scores = {bits: np.empty(away.shape, dtype=np.float32) for bits in lost}
        rounded = as_compiled(queries)
        for query, ids in enumerate(neighbours):
            theirs = entries(ids), compass.vectors[of_neighbours[query, :, 0]]
            for bits, scored in scores.items():
                score = _scores(queries[query], rounded[query], *theirs, bits, compass.metric)
                scored[query, : len(ids)] = score
        for bits, scored in scores.items():
            scored[:, neighbours.shape[1] :] = _scores(queries, rounded, *shared, bits, compass.metric)
            lost[bits] = losses(Ranked(scored, away, weights), CALIBRATED_K, bits)
    calibration = calibrate(
        source=source, nlist=len(compass.vectors), ranks=ranks, nearest=nearest, lost=lost
    )
    return calibration, grouped


def _scores(
    queries: Float32, rounded: Float32, stored: Entries, around: Float32, bits: int, metric: Metric
) -> Float32:
    """Return the scores of (m,) entries by their codes, (m,) for a query or (c, m) for several.

    Parameters
    ----------
    queries, rounded
        (d,) or (c, d), as they are, and as they are multiplied with codes.
    stored
        The entries.
    around
        (m, d) centroids of their lists.
    """
    codes = stored.codes if bits == 8 else stored.codes & np.uint8(0xF0) | np.uint8(8)
    away = dequantize(codes, stored.scales, np.zeros_like(around))
    scores = (queries @ around.T + rounded @ away.T) * np.float32(-2 if metric == "l2" else -1)
    if stored.norms is not None:
        scores += stored.norms
    return scores

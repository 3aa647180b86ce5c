"""How many of the nearest rows do codes rank behind others?

Measured on the true nearest rows of some queries and on others that stand for all the rest. Source:
``specs/vector-index.md``, section "Calibration".
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from zarrvec.search.depth import candidates_for

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
_LARGEST: Final = 127 * 256 + 127
_TOP: Final = 2**24
"""Of the numbers of a query in compiled code, the largest and the sum: see `zarrvec.search._numba_products`."""
_MOST_LOST_AGAIN: Final = 0.02
"""Part of the nearest rows that may be missed by ranking again those that codes rank first."""


class Ranked(NamedTuple):
    """Rows of some queries: their true nearest ones, nearest first, and others."""

    scores: Float32
    """(c, t) float32: by their codes, smaller for nearer."""
    distances: Float64
    """(c, t) float64: as they are."""
    weights: Float64
    """(c, t) float64: how many rows each stands for, 0 for none."""


def as_compiled(queries: Float32) -> Float32:
    """Return (c, d) float32 queries as compiled code multiplies them with codes: as int16, in steps of each query's own.

    Examples
    --------
    >>> as_compiled(np.array([[1, 0.5, 1e-6]], "f4")).round(4).tolist()
    [[1.0, 0.5, 0.0]]
    """
    sizes = np.abs(queries)
    with np.errstate(divide="ignore"):
        factors = np.minimum(
            _LARGEST / sizes.max(axis=1, initial=0).astype(np.float64),
            (_TOP - queries.shape[1]) / sizes.sum(axis=1, dtype=np.float64),
        )
    factors[~np.isfinite(factors)] = 1
    rounded: Float32 = (np.rint(queries * factors[:, None]) / factors[:, None]).astype(np.float32)
    return rounded


def losses(ranked: Ranked, counts: tuple[int, ...], bits: int) -> list[float]:
    """Return for each k the share of the k nearest that codes rank behind others; 1 where ranking again doesn't help either.

    Rows with one score are found in any order. One that is as near as the k-th is none that may not be found.

    Examples
    --------
    >>> scores, distances = np.array([[3, 1, 2, 4]], "f4"), np.array([[1.0, 2, 3, 4]])
    >>> losses(Ranked(scores, distances, np.ones((1, 4))), (1, 2), 8)
    [1.0, 0.5]
    """
    order = np.argsort(ranked.scores, axis=1, kind="stable")
    scores = np.take_along_axis(ranked.scores, order, axis=1)
    found = []
    for k in counts:
        last = min(k, scores.shape[1]) - 1
        weights = np.where(ranked.distances > ranked.distances[:, last : last + 1], ranked.weights, 0.0)
        weights[:, : last + 1] = 1
        before = np.cumsum(np.take_along_axis(weights, order, axis=1), axis=1)
        nearest = ranked.scores[:, : last + 1]
        lost = _lost(nearest, scores, before, k)
        again = _lost(nearest, scores, before, candidates_for(k, bits))
        found.append(1.0 if again > _MOST_LOST_AGAIN else round(lost, 6))
    return found


def _lost(nearest: Float32, scores: Float32, before: Float64, places: int) -> float:
    """Return the share of the nearest that are not among so many first ones.

    Parameters
    ----------
    nearest
        (c, k) float32 scores of these.
    scores
        (c, t) float32 of all, ascending.
    before
        (c, t) float64: how many rows these and those before them stand for.
    """
    first = np.count_nonzero(before < places, axis=1)
    asked = np.flatnonzero(first < before.shape[1])  # of the others there are no more than that
    nearest_of, ascending, counted = nearest[asked], scores[asked], before[asked]
    each = np.arange(len(asked))
    limit = ascending[each, first[asked]][:, None]
    less, upto = (np.count_nonzero(of(ascending, limit), axis=1) for of in (np.less, np.less_equal))
    begin, end = np.where(less > 0, counted[each, less - 1], 0.0), counted[each, upto - 1]
    share = np.minimum(1.0, (places - begin) / (end - begin))
    beyond, tied = (np.count_nonzero(of(nearest_of, limit), axis=1) for of in (np.greater, np.equal))
    return float((beyond + (1 - share) * tied).sum() / nearest.size)

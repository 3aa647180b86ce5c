"""Which vectors does an index hold for the rows of an array, and what is a distance among them?

=========  ======================  ====================================================
metric     indexed vector          distance from the product with a query
=========  ======================  ====================================================
``cosine`` the row at length 1     ``1 - q.x``, the query at length 1 too
``l2``     the row less the origin ``|q|^2 + (|x|^2 - 2 q.x)``, the query less the origin too
``ip``     the row                 ``-q.x``
=========  ======================  ====================================================

The origin, about the mean of the rows, keeps digits where rows are far from 0 and near each other.
A zero row stays zero under ``cosine``, and so does a zero query: their distance is 1, as in exact search.
Source: ``specs/vector-index.md``, section "Space".
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from zarrvec.search.metrics import Metric, unit_rows

SHORTEST: Final = 1e-100
LONGEST: Final = 1e100
"""Between these lengths of float64 vectors, squares neither vanish nor overflow."""
_LARGEST_SQUARE: Final = np.float32(2.0**120)
"""Up to this squared length, about 1e36, squared distances of vectors and centroids don't overflow float32. faiss ends the process
where they do."""

_FAR: Final = 1e15
"""A query less an origin that is farther from 0, or a query that is itself, makes products that may overflow float32."""


def indexed_rows(
    rows: npt.NDArray[Any], metric: Metric, origin: npt.NDArray[np.float32] | None = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return the rows as an index holds them, and which of the given rows these are.

    Parameters
    ----------
    rows
        (n, d) of any dtype that can be searched.
    origin
        (d,) float32 for ``l2``; None for 0.

    Returns
    -------
    vectors
        (m, d) float32, the finite ones.
    kept
        (n,) whether a row is finite, and its squared length at most about 1e36; the others can't be indexed.

    Examples
    --------
    >>> vectors, kept = indexed_rows(np.array([[3, 4], [np.nan, 0], [0, 0]], "f8"), "cosine")
    >>> np.round(vectors, 2).tolist(), kept.tolist()
    ([[0.6000000238418579, 0.800000011920929], [0.0, 0.0]], [True, False, True])
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if origin is None:
            vectors = rows.astype(np.float32, copy=metric != "cosine")
        else:
            vectors = np.subtract(rows, origin, dtype=np.result_type(rows, np.float32)).astype(np.float32)
        squares = np.einsum("ij,ij->i", vectors, vectors)
        kept = squares <= _LARGEST_SQUARE
        if metric == "cosine":
            tiny = np.flatnonzero(~kept | (squares < np.finfo(np.float32).tiny))
            lengths = np.sqrt(np.where(squares > 0, squares, np.float32(1)))
            vectors = np.divide(vectors, lengths[:, None], dtype=np.float32)
            finite = tiny[np.isfinite(rows[tiny]).all(axis=1)]
            vectors[finite] = unit_rows(rows[finite])[0]
            kept[finite] = True
    return (vectors if kept.all() else vectors[kept]), kept


def beyond_float32(rows: npt.NDArray[Any], kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Return positions of finite rows that an index can't hold, of what `indexed_rows` was given and said.

    Examples
    --------
    >>> rows = np.array([[1e30, 0], [np.nan, 0], [1, 2]])
    >>> beyond_float32(rows, indexed_rows(rows, "l2")[1]).tolist()
    [0]
    """
    left_out = np.flatnonzero(~kept)
    beyond: npt.NDArray[np.intp] = left_out[np.isfinite(rows[left_out]).all(axis=1)]
    return beyond


def indexed_queries(
    queries: npt.NDArray[np.float64], metric: Metric, origin: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Return (q, d) float32 queries for products with the vectors of an index, which has this origin.

    Examples
    --------
    >>> indexed_queries(np.array([[0.0, 2.0]]), "cosine").tolist()
    [[0.0, 1.0]]
    """
    if metric == "cosine":
        lengths = np.sqrt(np.einsum("ij,ij->i", queries, queries))
        if lengths.size and lengths.min() > SHORTEST and lengths.max() < LONGEST:  # as nearly always
            units: npt.NDArray[np.float32] = (queries / lengths[:, None]).astype(np.float32)
            return units
        return unit_rows(queries)[0].astype(np.float32)
    return (queries if origin is None else queries - origin).astype(np.float32)


def are_too_large(queries: npt.NDArray[np.float64], metric: str) -> bool:
    """Return whether queries make products that float32 may not hold.

    Examples
    --------
    >>> are_too_large(np.array([[1e16, 0]]), "l2"), are_too_large(np.array([[1e16, 0]]), "cosine")
    (True, False)
    """
    return metric != "cosine" and bool(np.abs(queries).max(initial=0) > _FAR)


def is_far(origin: npt.NDArray[np.float32] | None) -> bool:
    """Return whether no query is near enough to this origin for products of float32, but such as `are_too_large`.

    Examples
    --------
    >>> is_far(None), is_far(np.array([1, -1e16], "f4"))
    (False, True)
    """
    return origin is not None and bool(np.abs(origin).max(initial=0) > _FAR)


def distances_of(
    scores: npt.NDArray[np.float32], queries: npt.NDArray[np.float32], metric: Metric
) -> npt.NDArray[np.float32]:
    """Return distances for scores, which are what a distance holds besides terms of the query alone.

    Parameters
    ----------
    scores
        (q, k) float32: ``-q.x`` for ``cosine`` and ``ip``, ``|x|^2 - 2 q.x`` for ``l2``; infinite where there is no hit.
    queries
        (q, d) float32 of `indexed_queries`.

    Examples
    --------
    >>> queries = np.array([[3, 4]], "f4")
    >>> distances_of(np.array([[-25, 0]], "f4"), queries, "l2").tolist()
    [[0.0, 25.0]]
    """
    if metric == "ip":
        return scores
    shift: Any = np.float32(1)
    if metric == "l2":  # in float64, in which it is the same to float32 in whatever order it is added
        shift = np.einsum("ij,ij->i", queries, queries, dtype=np.float64).astype(np.float32)[:, None]
    distances: npt.NDArray[np.float32] = scores + shift
    return np.maximum(distances, 0, out=distances)

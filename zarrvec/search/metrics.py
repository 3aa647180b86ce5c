"""How far a vector is from a query, and what a fast product already says about it.

===========  =======================================  ==============================================
metric       distance, smaller is nearer              note
===========  =======================================  ==============================================
``cosine``   1 - cos(x, q), in [0, 2]                 1 when either vector is zero
``l2``       sum((x - q)**2), the *squared* length    as ``METRIC_L2`` of faiss; its root is in the
                                                      unit of the data
``ip``       -dot(x, q)                               negated, so that nearest comes first here too
===========  =======================================  ==============================================

`pair_distances` is the definition: float64, the difference form for ``l2`` and the half squared chord of the unit
vectors for ``cosine``, which don't cancel when vectors are near. It is too slow for every pair. `lower_bounds` is one
matrix product in the working precision, loosened by the worst case of its rounding, so that a row whose bound lies
above a known distance is *proved* to be farther. Only the rest is measured by `pair_distances`.

With u the unit roundoff and d the width, a product of d terms is off by at most gamma_d |x||q|, gamma_d = d u / (1 - d u),
in whatever order BLAS adds (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1). The bounds
spend 4 (d + 16) u, which covers the norms, the casts and the float64 measurement too. For ``l2`` a common centre is
subtracted first, since distances don't change by it and the rounding shrinks with the norms.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt

from zarrvec.errors import OptionError

Metric: TypeAlias = Literal["cosine", "l2", "ip"]
METRICS: Final[tuple[str, ...]] = get_args(Metric)

Float64: TypeAlias = npt.NDArray[np.float64]
Floats: TypeAlias = npt.NDArray[Any]

_PAIR_VALUES: Final = 1 << 17
"""Values of one tile of `pair_distances`: three float64 copies of it stay within a CPU's second-level cache."""
_TINY: Final = float(np.finfo(np.float64).tiny)
"""What underflow can take from a distance measured in float64."""
_SAFE: Final = {np.dtype(np.float32): (1e-30, 1e30), np.dtype(np.float64): (1e-280, 1e280)}
"""Squared norms between which no product over- or underflows, by working precision."""


def check_metric(metric: object) -> Metric:
    """Return the metric if it is one.

    Raises
    ------
    OptionError
        If it is none of `METRICS`.

    Examples
    --------
    >>> check_metric("l2")
    'l2'
    """
    if not isinstance(metric, str) or metric not in METRICS:
        raise OptionError(f"metric={metric!r} is unknown: expected one of {', '.join(map(repr, METRICS))}")
    return cast("Metric", str(metric))  # numpy has strings of its own, which JSON does not know


def unit_rows(vectors: Floats) -> tuple[Float64, Float64]:
    """Return the rows divided by their lengths, and the lengths, without overflow on the way.

    Parameters
    ----------
    vectors
        (n, d), finite.

    Returns
    -------
    units
        (n, d) float64; a zero row stays zero.
    lengths
        (n,) float64.

    Examples
    --------
    >>> import numpy as np
    >>> units, lengths = unit_rows(np.array([[0, 4e200], [0, 0]]))
    >>> units.tolist(), lengths.tolist()
    ([[0.0, 1.0], [0.0, 0.0]], [4e+200, 0.0])
    """
    scaled = np.array(vectors, dtype=np.float64)
    largest = np.abs(scaled).max(axis=1, initial=0.0)
    scaled /= np.where(largest == 0, 1.0, largest)[:, None]
    lengths = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))
    scaled /= np.where(lengths == 0, 1.0, lengths)[:, None]
    with np.errstate(over="ignore"):
        return scaled, lengths * largest


def pair_distances(metric: Metric, rows: Floats, row: Floats, queries: Float64, query: Floats) -> Float64:
    """Measure the distance of given pairs in float64; this is what the metrics mean.

    Parameters
    ----------
    metric
        One of `METRICS`.
    rows
        (n, d), finite, of any supported dtype.
    row, query
        (m,) integers: pair i is ``rows[row[i]]`` and ``queries[query[i]]``.
    queries
        (q, d) float64, finite; of unit length (or zero) for ``cosine``.

    Returns
    -------
    (m,) float64. The same pair gives the same bits wherever it stands. A distance beyond float64 is infinite.

    Examples
    --------
    >>> import numpy as np
    >>> rows, queries = np.array([[1, 0], [0, 3]], "f4"), np.array([[1.0, 0.0]])
    >>> for metric in ("cosine", "l2", "ip"):
    ...     print(metric, pair_distances(metric, rows, np.array([0, 1]), queries, np.array([0, 0])).tolist())
    cosine [0.0, 1.0]
    l2 [0.0, 10.0]
    ip [-1.0, 0.0]
    """
    out = np.empty(len(row), dtype=np.float64)
    step = max(1, _PAIR_VALUES // rows.shape[1])
    measure = {"cosine": _half_squared_chord, "l2": _squared_difference, "ip": _negative_product}[metric]
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for start in range(0, len(row), step):
            tile = slice(start, start + step)
            out[tile] = measure(rows[row[tile]].astype(np.float64), queries[query[tile]])
    return out


def _squared_difference(x: Float64, q: Float64) -> Float64:
    x -= q
    return cast("Float64", np.einsum("ij,ij->i", x, x))


def _half_squared_chord(x: Float64, q: Float64) -> Float64:
    units, lengths = unit_rows(x)
    defined = (lengths > 0) & q.any(axis=1)
    return np.where(defined, _squared_difference(units, q) / 2, 1.0)


def _negative_product(x: Float64, q: Float64) -> Float64:
    out = -np.einsum("ij,ij->i", x, q)
    lost = ~np.isfinite(out)
    if lost.any():  # inf - inf on the way: the sign of the sum is that of the product of the unit vectors
        (x_units, x_lengths), (q_units, q_lengths) = unit_rows(x[lost]), unit_rows(q[lost])
        cosine = np.einsum("ij,ij->i", x_units, q_units)
        out[lost] = np.where(cosine == 0, 0.0, -cosine * x_lengths * q_lengths)
    return cast("Float64", out + 0.0)  # no negative zero


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryTerms:
    """What the bounds need of the queries; a distance is ``scale * (bound .. bound + slacks) + shift``."""

    vectors: Floats
    """(q, d) in the working precision."""
    scale: Float64
    """(q,) float64."""
    shift: Float64
    """(q,) float64; infinite if no bound is known."""
    slack: Float64
    """(q,) float64, in the unit of the bounds: how far every distance may lie above its bound and the slack of the row."""

    def limits(self, distances: Float64) -> Float64:
        """Return, for one distance of each query, the largest bound that a row as near as that can have."""
        with np.errstate(over="ignore", invalid="ignore"):
            limits = (distances + _TINY - self.shift) / self.scale
        known = np.isfinite(self.scale) & np.isfinite(self.shift) & np.isfinite(limits)
        return np.where(known, limits, np.inf)

    def take(self, part: slice) -> "QueryTerms":
        """Return the terms of some of the queries."""
        return QueryTerms(
            vectors=self.vectors[part], scale=self.scale[part], shift=self.shift[part], slack=self.slack[part]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RowTerms:
    """What the bounds need of the rows."""

    vectors: Floats
    """(n, d) in the working precision."""
    factor: Floats | None
    """(n,) in the working precision, or None for 1."""
    offset: Floats
    """(n,) in the working precision; -inf where no bound is known."""
    slack: Float64
    """(n,) float64: how far the distance may lie above the bound."""
    unbounded: bool
    """Whether some row has no bound in this precision."""


def working_dtype(source: np.dtype[Any], width: int) -> np.dtype[Any]:
    """Return the precision in which products of rows of this dtype and width are worth their bounds.

    Examples
    --------
    >>> import numpy as np
    >>> working_dtype(np.dtype("f2"), 384), working_dtype(np.dtype("f8"), 384)
    (dtype('float32'), dtype('float64'))
    """
    wide = source.kind == "f" and source.itemsize > np.dtype(np.float32).itemsize
    return np.dtype(np.float64 if wide or width > 1 << 17 else np.float32)


def _slack(width: int, dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return the relative and the absolute error (gradual or abrupt underflow) that the bounds spend."""
    information = np.finfo(dtype)
    return 4.0 * (width + 16) * float(information.eps) / 2, 4.0 * width * float(information.tiny)


def query_terms(metric: Metric, queries: Float64, dtype: np.dtype[Any], centre: Float64) -> QueryTerms:
    """Prepare the queries for `lower_bounds`.

    Parameters
    ----------
    queries
        (q, d) float64, finite.
    dtype
        float32 or float64, the working precision.
    centre
        (d,) float64, representable in `dtype`: any point near the rows; used by ``l2`` only.
    """
    count, width = queries.shape
    relative, absolute = _slack(width, dtype)
    ones, zeros = np.ones(count), np.zeros(count)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        if metric == "l2":
            moved = queries - centre
            squares = np.einsum("ij,ij->i", moved, moved)
            unsafe = ~(squares <= _SAFE[dtype][1])
            moved[unsafe] = 0
            return QueryTerms(
                vectors=(2.0 * moved).astype(dtype),
                scale=ones,
                shift=np.where(unsafe, np.inf, (1.0 - relative) * squares),
                slack=2.0 * relative * squares + absolute,
            )
        units, lengths = unit_rows(queries)
        if metric == "cosine":
            return QueryTerms(vectors=units.astype(dtype), scale=ones, shift=ones, slack=zeros)
        scale = np.where(lengths == 0, 1.0, lengths)
        return QueryTerms(vectors=units.astype(dtype), scale=scale, shift=zeros, slack=_TINY / scale)


def row_terms(metric: Metric, rows: Floats, dtype: np.dtype[Any], centre: Float64) -> RowTerms:
    """Prepare finite rows for `lower_bounds`; the parameters are as in `query_terms`."""
    relative, absolute = _slack(rows.shape[1], dtype)
    low, high = _SAFE[dtype]
    factor: Floats | None = None
    with np.errstate(over="ignore", invalid="ignore", under="ignore", divide="ignore"):
        if metric == "l2":
            vectors = np.subtract(rows, centre.astype(dtype), dtype=dtype)
        else:
            vectors = np.asarray(rows, dtype=dtype)
        squares = np.einsum("ij,ij->i", vectors, vectors)
        unsafe = ~(squares <= high)
        if metric == "l2":
            offset, slack = (1.0 - relative) * squares, 2.0 * relative * squares.astype(np.float64) + absolute
        elif metric == "ip":
            slack = relative * np.sqrt(squares.astype(np.float64) + absolute) + absolute
            offset, slack = (-slack).astype(dtype), 2.0 * slack
        else:
            small = np.flatnonzero(squares < low)
            unsafe[small] |= vectors[small].any(axis=1)
            factor = np.where(squares < low, 0, 1 / np.sqrt(squares)).astype(dtype)
            offset, slack = np.full(len(rows), -relative, dtype), np.full(len(rows), 2.0 * relative)
    offset -= dtype.type(absolute)
    unbounded = bool(unsafe.any())
    if unbounded:
        vectors = np.where(unsafe[:, None], dtype.type(0), vectors)
        offset[unsafe], slack[unsafe] = -np.inf, np.inf
        if factor is not None:
            factor[unsafe] = 0
    return RowTerms(vectors=vectors, factor=factor, offset=offset, slack=slack, unbounded=unbounded)


def lower_bounds(queries: QueryTerms, rows: RowTerms) -> Floats:
    """Return (q, n) bounds: no row is nearer than ``scale * bound + shift`` of its query; NaN if nothing is known.

    Examples
    --------
    >>> import numpy as np
    >>> x, q = np.array([[2, 0], [0, 3]], "f4"), np.array([[1.0, 0.0]])
    >>> single, centre = np.dtype("f4"), np.zeros(2)
    >>> queries, rows = query_terms("l2", q, single, centre), row_terms("l2", x, single, centre)
    >>> np.round(lower_bounds(queries, rows) + queries.shift, 3).tolist()
    [[1.0, 10.0]]
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        bounds = queries.vectors @ rows.vectors.T
        if rows.factor is not None:
            bounds *= rows.factor
        return cast("Floats", np.subtract(rows.offset, bounds, out=bounds))

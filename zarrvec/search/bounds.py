"""How near can the rows of a posting list be at best, and a row by its code?

Pure. The centroid and the radius of a list bound the distances of its rows, and the code of a row with its stored error
bounds that of the row, from below and above.

What is proved must hold whatever was rounded. With u = 2^-24, v the stored float32 form of a row x, c the decoded centroid
and r the decoded residual (a code times a scale):

- v is x but for a cast, off by u |v|; under ``l2`` the origin is taken off first, which is off by u |v| again. At unit length,
  under ``cosine``, v is off by (d + 8) u: a float32 sum of d squares is off by d u, as much again where squares are
  subnormal, and its root by half of that.
- c + r was rounded to float32 twice before the error of the code was measured: off by 2 u (|c| + |r|).
- That error and the radius are roots of float32 sums of d squares, off by a factor within 1 + d u. Squares below 2^-126 may
  have vanished, which hides 2^-63 in each of d components.
- The product of a query with the integers of a code is a float32 sum of d terms, off by 2 d u |q| |r|, casts included; so
  are those of the code with itself and with the centroid.
- The rest is float64, and so is the distance itself, which is off by less than any of these.

`Slack` spends twice as much on each, or more. Source: ``specs/vector-index.md``, section "Exact search".
"""

from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from zarrvec.search.depth import Compass
from zarrvec.search.metrics import Metric, unit_rows
from zarrvec.search.records import CODE_ZERO, Entries

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_SINGLE: Final = 2.0**-24
_DOUBLE: Final = 2.0**-53


class Slack(NamedTuple):
    """What rounding can take; see the top of the module."""

    sums: float
    """Relative, of a float32 sum of d terms."""
    cast: float
    """Relative, of a row at its place in the list."""
    double: float
    """Relative, of a float64 sum of d terms."""
    least: float
    """Absolute, of a length: what underflow can hide."""

    @classmethod
    def of(cls, width: int, metric: Metric) -> Self:
        """Return it for vectors of d dimensions."""
        sums = 4 * (width + 16) * _SINGLE
        return cls(
            sums=sums,
            cast=sums if metric == "cosine" else 8 * _SINGLE,
            double=4 * (width + 16) * _DOUBLE,
            least=float(np.sqrt(width)) * 2.0**-62,
        )

    def loosen(self, lengths: Float64, centroids: Float64, more: Float64 | float = 0.0) -> Float64:
        """Return no less than true lengths, for stored ones; `more` and the centroids' lengths bound the row's."""
        return lengths * (1 + self.sums) + self.cast * (lengths + centroids + more) + self.least


class Centres(NamedTuple):
    """The centroids of some lists."""

    vectors: Float64
    """(n, d)."""
    lengths: Float64
    """(n,)."""


class Gathered(NamedTuple):
    """The entries of some lists, m of them."""

    ids: Int64
    """(m,)."""
    place: Int64
    """(m,) which of the lists."""
    codes: Float32
    """(m, d) codes as integers around 0."""
    scales: Float64
    """(m,)."""
    errors: Float64
    """(m,) as stored."""
    lengths: Float64
    """(m,) of the residuals."""
    along: Float64
    """(m,) products of residuals and centroids."""

    @classmethod
    def of(cls, entries: Entries, centroid: Float64, place: int, allowed: Mask) -> Self:
        """Take the entries of one list whose rows may be found; `allowed` is (n,) for the rows, others may not."""
        ids = entries.ids.astype(np.int64)
        which = np.flatnonzero(ids < len(allowed))
        which = which[allowed[ids[which]]]
        codes = entries.codes[which].astype(np.float32)
        codes -= np.float32(CODE_ZERO)
        scales = entries.scales[which].astype(np.float64)
        return cls(
            ids=ids[which],
            place=np.full(len(which), place),
            codes=codes,
            scales=scales,
            errors=entries.errors[which].astype(np.float64),
            lengths=scales * np.sqrt(np.einsum("ij,ij->i", codes, codes)),
            along=scales * (codes @ centroid.astype(np.float32)),
        )


class Geometry:
    """Bounds of the distances between queries and what lists hold.

    Distances are those of `zarrvec.search.metrics`, but under ``ip`` those to the query at unit length.

    Parameters
    ----------
    compass
        Where lists lie.
    origin
        (d,) float32: what was taken off rows under ``l2``; None for 0.
    queries
        (q, d) float64 as given. Those of ``cosine`` and ``ip`` are not zero.

    Examples
    --------
    >>> compass = Compass.of(np.array([[0, 0], [3, 0]], "f4"), np.ones(2, "f4"), "l2")
    >>> geometry = Geometry(compass, None, np.array([[0.0, 2.0]]))
    >>> np.round(geometry.of_lists(geometry.centres(slice(None)), np.ones(2)), 3).tolist()
    [[1.0, 6.789]]
    """

    def __init__(self, compass: Compass, origin: Float32 | None, queries: Float64) -> None:
        self._metric = compass.metric
        self._centroids = compass.vectors
        self._slack = Slack.of(queries.shape[1], self._metric)
        if self._metric == "l2":
            self._queries = queries if origin is None else queries - origin
        else:
            self._queries = unit_rows(queries)[0]
        self._single = self._queries.astype(np.float32)
        self.lengths = _lengths(self._queries)
        """(q,) of the queries in the space of the index."""

    def centres(self, numbers: Int64 | slice) -> Centres:
        """Return the centroids of some lists."""
        vectors = self._centroids[numbers].astype(np.float64)
        return Centres(vectors, _lengths(vectors))

    def _to_centres(self, centres: Centres, part: slice) -> tuple[Float64, Float64]:
        """Return (q, n) squared distances, or products for ``ip``, and by how much they may be off."""
        products = self._queries[part] @ centres.vectors.T
        lengths = self.lengths[part, None]
        if self._metric == "ip":
            return products, self._slack.double * lengths * centres.lengths
        squares = lengths**2 + centres.lengths**2
        return squares - 2 * products, self._slack.double * (lengths + centres.lengths) ** 2

    def of_lists(self, centres: Centres, radii: Float64) -> Float64:
        """Return (q, n) lower bounds of the distances to all rows of some lists, given their (n,) radii."""
        away, off = self._to_centres(centres, slice(None))
        radii = self._slack.loosen(radii, centres.lengths)
        if self._metric == "ip":
            return -away - off - radii
        return self._scaled(np.sqrt(np.maximum(away - off, 0)) - radii, 1 - self._slack.sums)

    def of_entries(self, centres: Centres, entries: Gathered, part: slice) -> tuple[Float64, Float64]:
        """Return (q, m) lower and upper bounds of some queries' distances to the rows of entries."""
        slack, place, lengths = self._slack, entries.place, entries.lengths
        away, off = self._to_centres(centres, part)
        products = (self._single[part] @ entries.codes.T).astype(np.float64)
        products *= entries.scales
        errors = slack.loosen(entries.errors, centres.lengths[place], lengths)
        if self._metric == "ip":
            middle = -away[:, place] - products
            wide = off[:, place] + errors + (slack.sums + slack.least) * lengths
            return middle - wide, middle + wide
        squares = away[:, place] - 2 * (products - entries.along) + lengths**2
        around = 2 * (self.lengths[part, None] + centres.lengths[place]) + lengths
        off = off[:, place] + (slack.sums * around + slack.least) * lengths
        least = np.sqrt(np.maximum(squares - off, 0)) - errors
        most = np.sqrt(np.maximum(squares, 0) + off) + errors
        lower, upper = self._scaled(least, 1 - slack.sums), self._scaled(most, 1 + slack.sums)
        if self._metric == "cosine":
            zero = self._may_be_zero(centres, entries, errors)
            upper[:, zero] = np.maximum(upper[:, zero], 1.0)
        return lower, upper

    def _scaled(self, lengths: Float64, factor: float) -> Float64:
        return np.square(np.maximum(lengths, 0)) * (factor / 2 if self._metric == "cosine" else factor)

    def _may_be_zero(self, centres: Centres, entries: Gathered, errors: Float64) -> Mask:
        """Return which rows may be zero: those are at 1, farther than half their squared distance from a query."""
        centroids = centres.lengths[entries.place]
        reach = centroids + entries.lengths
        squares = centroids**2 + 2 * entries.along + entries.lengths**2
        zero: Mask = np.sqrt(np.maximum(squares - self._slack.sums * reach**2, 0)) <= errors
        return zero


def _lengths(vectors: Float64) -> Float64:
    lengths: Float64 = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return lengths

"""How do a vector and its centroid become a few bytes each, and how far is the vector from what they say?

Pure. Source: ``specs/vector-index.md``, section "Codes".
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from zarrvec.search._numpy_kernels import UNIT
from zarrvec.search.records import CODE_ZERO

_LEVELS: Final = 127
_SMALLEST: Final = np.finfo(np.float32).tiny
_STEPS: Final = (UNIT, 6, 2)
"""Of what codes of centroids may be multiples, to take fewer bytes when they are compressed; of `UNIT` compiled code has nothing to round."""
ROUNDED: Final = 0.02
"""Centroids may be rounded by this part of the mean squared distance of rows from them: recall is the same, see decision 0020."""
_ROUND_UP: Final = np.float32(1 + 1e-5)
"""Covers the rounding of float32 sums of up to 10^5 terms added pairwise; a bound must not be below the truth."""

Float32 = npt.NDArray[np.float32]


class Codes(NamedTuple):
    """Vectors as codes of their residuals."""

    codes: npt.NDArray[np.uint8]
    """(n, d) uint8."""
    scales: Float32
    """(n,) float32."""
    errors: Float32
    """(n,) float32: distance from the decoded vector, rounded up."""
    norms: Float32 | None
    """(n,) float32: squared length of the decoded vector; None if they are not wanted."""


def quantize_centroids(centroids: Float32, error: float = 0.0) -> tuple[npt.NDArray[np.int8], Float32]:
    """Return (nlist, d) int8 and (nlist,) float32 scales.

    Parameters
    ----------
    centroids
        (nlist, d) float32.
    error
        Mean squared distance from the centroids that is allowed, for codes of fewer values, which take fewer bytes when
        they are compressed; 0 for codes as fine as can be.

    Examples
    --------
    >>> codes, scales = quantize_centroids(np.array([[0, 0], [1, -2]], "f4"))
    >>> codes.tolist(), np.round(scales, 4).tolist()
    ([[0, 0], [64, -127]], [0.0, 0.015699999406933784])
    >>> quantize_centroids(np.array([[0, 0], [1, -2]], "f4"), error=0.05)[0].tolist()
    [[0, 0], [54, -126]]
    """
    for step in _STEPS if error > 0 else ():
        codes, scales = _in_steps(centroids, step)
        if _mean_square(codes * scales[:, None] - centroids) <= error:
            return codes, scales
    return _in_steps(centroids, 1)


def _in_steps(centroids: Float32, step: int) -> tuple[npt.NDArray[np.int8], Float32]:
    """Quantize to multiples of a number."""
    most = _LEVELS // step
    scales = np.abs(centroids).max(axis=1, initial=0).astype(np.float32) / np.float32(most * step)
    codes = np.rint(centroids / np.where(scales == 0, 1, scales * step)[:, None])
    return (np.clip(codes, -most, most) * step).astype(np.int8), scales


def _mean_square(vectors: Float32) -> float:
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)  # they may vanish in float32
    return float(squares.mean())


def quantize(
    vectors: Float32, centroids: Float32, residuals: Float32 | None = None, *, has_norms: bool = True
) -> Codes:
    """Encode each vector as its residual to its centroid.

    Parameters
    ----------
    vectors, centroids
        (n, d) float32 each, row by row; the centroids as they are decoded.
    residuals
        Their difference if it is known, which is written over.
    has_norms
        Whether the squared lengths are wanted.

    Examples
    --------
    >>> coded = quantize(np.array([[1, 2], [3, 3]], "f4"), np.array([[1, 1], [3, 3]], "f4"))
    >>> coded.codes.tolist(), dequantize(coded.codes, coded.scales, np.array([[1, 1], [3, 3]], "f4")).tolist()
    ([[128, 255], [128, 128]], [[1.0, 2.0], [3.0, 3.0]])
    """
    if residuals is None:
        residuals = vectors - centroids
    scales = np.abs(residuals).max(axis=1, initial=0) / np.float32(_LEVELS)
    residuals /= np.where(scales == 0, np.float32(1), scales)[:, None]
    np.rint(residuals, out=residuals)
    if (scales < _SMALLEST).any():  # of so few digits that a quotient may be larger
        np.clip(residuals, -_LEVELS, _LEVELS, out=residuals)
    codes = residuals.astype(np.int8).view(np.uint8) ^ np.uint8(CODE_ZERO)
    residuals *= scales[:, None]
    residuals += centroids
    norms = np.einsum("ij,ij->i", residuals, residuals) if has_norms else None
    residuals -= vectors
    errors = np.sqrt(np.einsum("ij,ij->i", residuals, residuals)) * _ROUND_UP
    return Codes(codes, scales, errors, norms)


def dequantize(codes: npt.NDArray[np.uint8], scales: Float32, centroids: Float32) -> Float32:
    """Return the (n, d) float32 vectors that codes stand for."""
    vectors = codes.astype(np.float32)
    vectors -= np.float32(CODE_ZERO)
    vectors *= scales[:, None]
    vectors += centroids
    return vectors

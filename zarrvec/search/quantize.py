"""How do a vector and its centroid become a few bytes each, and how far is the vector from what they say?

Pure. Source: ``specs/vector-index.md``, section "Codes".
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from zarrvec.search.records import CODE_ZERO

_LEVELS: Final = 127
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
    norms: Float32
    """(n,) float32: squared length of the decoded vector."""


def quantize_centroids(centroids: Float32) -> tuple[npt.NDArray[np.int8], Float32]:
    """Return (nlist, d) int8 and (nlist,) float32 scales.

    Examples
    --------
    >>> codes, scales = quantize_centroids(np.array([[0, 0], [1, -2]], "f4"))
    >>> codes.tolist(), np.round(scales, 4).tolist()
    ([[0, 0], [64, -127]], [0.0, 0.015699999406933784])
    """
    scales = np.abs(centroids).max(axis=1, initial=0).astype(np.float32) / np.float32(_LEVELS)
    codes = np.rint(centroids / np.where(scales == 0, 1, scales)[:, None])
    return np.clip(codes, -_LEVELS, _LEVELS).astype(np.int8), scales


def quantize(vectors: Float32, centroids: Float32) -> Codes:
    """Encode each vector as its residual to its centroid.

    Parameters
    ----------
    vectors, centroids
        (n, d) float32 each, row by row; the centroids as they are decoded.

    Examples
    --------
    >>> coded = quantize(np.array([[1, 2], [3, 3]], "f4"), np.array([[1, 1], [3, 3]], "f4"))
    >>> coded.codes.tolist(), dequantize(coded.codes, coded.scales, np.array([[1, 1], [3, 3]], "f4")).tolist()
    ([[128, 255], [128, 128]], [[1.0, 2.0], [3.0, 3.0]])
    """
    residuals = vectors - centroids
    scales = np.abs(residuals).max(axis=1, initial=0) / np.float32(_LEVELS)
    residuals /= np.where(scales == 0, np.float32(1), scales)[:, None]
    np.rint(residuals, out=residuals)
    np.clip(residuals, -_LEVELS, _LEVELS, out=residuals)
    codes = np.add(residuals, CODE_ZERO, dtype=np.float32).astype(np.uint8)
    residuals *= scales[:, None]
    residuals += centroids
    norms = np.einsum("ij,ij->i", residuals, residuals)
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

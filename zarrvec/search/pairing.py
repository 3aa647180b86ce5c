"""Which are the two lists of a row: the nearest, and the one in which it is found besides?

As `zarrvec.search.clustering` has it, but that the second may be any list if they are few, from one product of matrices:
twice the inner product of two residuals of a row is the sum of their squares less the squared distance of the centroids.
One thread works on it. Who appends sends what was written meanwhile, and threads of faiss or OpenBLAS that wait for
a share of busy cores take four times the work.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from zarrvec.search.clustering import CANDIDATES, SOAR_STRENGTH, Assigner, one_thread, second_lists
from zarrvec.search.origin import middle_of

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

_ALL_PAIRS_LISTS: Final = 1_024
"""For up to so many lists the distances of all centroids from each other are known."""
_BLOCK_DISTANCES: Final = 1 << 18
"""Distances that are compared at a time: 1 MiB."""


_LEAST: Final = np.finfo(np.float32).tiny
"""A row is where its centroid is if the squared distance is less: there is no division by that."""


class Pairs(NamedTuple):
    """The two lists of each row."""

    nearest: Int32
    """(n,) int32."""
    squares: Float32
    """(n,) float32: squared distance to the nearest centroid."""
    second: Int32
    """(n,) int32: the other list of least loss, see `zarrvec.search.clustering.second_lists`."""
    gains: Float32
    """(n,) float32: how much it helps to find the row there too; -inf where there is no other list."""


class Pairing:
    """Finds the two lists of rows.

    Parameters
    ----------
    centroids
        (nlist, d) float32.

    Examples
    --------
    >>> pairs = Pairing(np.array([[0, 0], [4, 0], [0, 9]], "f4")).find(np.array([[1, 1]], "f4"))
    >>> pairs.nearest.tolist(), pairs.squares.tolist(), pairs.second.tolist()
    ([0], [2.0], [1])
    """

    def __init__(self, centroids: Float32) -> None:
        self._given = centroids
        self._assigner: Assigner | None = None
        if not 1 < len(centroids) <= _ALL_PAIRS_LISTS:
            self._assigner = Assigner(centroids)
            return
        self._centre = middle_of(centroids)
        """Taken off everything: products lose digits if vectors are far from 0 and near each other."""
        self._centroids = centroids - self._centre
        with one_thread() as faiss:
            self._apart: Float32 = faiss.pairwise_distances(self._centroids, self._centroids)

    @property
    def nbytes(self) -> int:
        """Bytes in memory, about."""
        return 2 * self._given.nbytes + (0 if self._assigner is not None else self._apart.nbytes)

    def find(self, rows: Float32) -> Pairs:
        """Return the two lists of (n, d) float32 rows."""
        if self._assigner is not None:
            near, squares = self._assigner.nearest(rows, min(CANDIDATES, len(self._given)))
            second, gains = second_lists(rows, self._given, near, squares)
            return Pairs(near[:, 0], squares[:, 0], second, gains)
        found = Pairs(*(np.empty(len(rows), dtype=dtype) for dtype in ("i4", "f4", "i4", "f4")))
        step = max(1, _BLOCK_DISTANCES // len(self._given))
        with one_thread() as faiss, np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(rows), step):
                part = slice(start, start + step)
                distances = faiss.pairwise_distances(rows[part] - self._centre, self._centroids)
                for column, values in zip(found, self._choose(distances), strict=True):
                    column[part] = values
        return found

    def _choose(self, distances: Float32) -> tuple[npt.NDArray[Any], ...]:
        each, nearest = np.arange(len(distances)), distances.argmin(axis=1)
        squares = np.maximum(distances[each, nearest], 0)  # of what is rounded
        losses = self._apart[nearest]
        np.subtract(distances, losses, out=losses)
        losses += squares[:, None]
        losses *= losses
        away = squares >= _LEAST
        factors = np.divide(SOAR_STRENGTH / 4, squares, out=np.zeros_like(squares), where=away)
        losses *= factors[:, None]
        losses += distances
        losses[each, nearest] = np.inf
        second = losses.argmin(axis=1)
        ratio = np.divide(losses[each, second], squares, out=np.full_like(squares, np.inf), where=away)
        return nearest, squares, second, -ratio

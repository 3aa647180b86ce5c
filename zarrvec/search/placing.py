"""Into which lists does a row go, and as which entries?"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from zarrvec.search.pairing import Pairing
from zarrvec.search.quantize import quantize
from zarrvec.search.spool import Spool

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
_ROUND_UP: Final = np.float32(1 + 1e-5)
_BLOCK_ROWS: Final = 512
"""Rows that are encoded at once: few, for what is made of them on the way takes memory, but enough for few calls."""


class Placed(NamedTuple):
    """Where some rows went."""

    lists: npt.NDArray[np.int32]
    """(n, 2) int32: the nearest list, and the second one or -1."""
    squares: float
    """Sum of the squared distances to the nearest centroids."""


class Lister:
    """Puts rows into lists.

    Parameters
    ----------
    centroids
        (nlist, d) float32, as they are decoded.
    second_from
        Gain from which on a row is put into a second list, of `zarrvec.search.clustering.second_lists`.
    pairing
        Of these centroids, if there is one already.

    Examples
    --------
    >>> from zarrvec.search.records import Layout
    >>> lister = Lister(np.array([[0, 0], [4, 0]], "f4"), second_from=-np.inf)
    >>> with Spool(Layout(width=2, id_bytes=4, has_norms=False)) as spool:
    ...     placed = lister.place(np.array([5, 6]), np.array([[0, 0.5], [3, 0]], "f4"), spool)
    ...     placed.lists.tolist(), spool.count
    ([[0, 1], [1, 0]], 4)
    """

    def __init__(self, centroids: Float32, second_from: float, pairing: Pairing | None = None) -> None:
        self._pairing = Pairing(centroids) if pairing is None else pairing
        self._centroids = centroids
        self._second_from = second_from
        self.radii = np.zeros(len(centroids), dtype=np.float32)
        """(nlist,) float32: no row placed so far is farther from the centroid of a list that it is in."""

    def place(self, ids: Int64, vectors: Float32, spool: Spool, *, first: int = 0) -> Placed:
        """Put (n, d) float32 vectors, of the space of the index, into a spool; `first` is the number of the first list."""
        nearest, squares, second, gains = self._pairing.find(vectors)
        second = np.where((gains >= self._second_from) & (second != nearest), second, -1)
        twice = np.flatnonzero(second >= 0)
        blocks: list[tuple[Any, npt.NDArray[np.int32]]] = [
            (part, nearest[part]) for part in _blocks_of(len(ids))
        ]
        blocks += [(twice[part], second[twice[part]]) for part in _blocks_of(len(twice))]
        for which, lists in blocks:
            rows, around = vectors[which], self._centroids[lists]
            residuals = rows - around
            away = np.sqrt(np.einsum("ij,ij->i", residuals, residuals))
            np.maximum.at(self.radii, lists, away * _ROUND_UP)
            spool.add(
                ids[which], lists + first, quantize(rows, around, residuals, has_norms=spool.layout.has_norms)
            )
        return Placed(np.stack([nearest, second], axis=1), float(squares.sum(dtype=np.float64)))


def _blocks_of(count: int) -> list[slice]:
    return [slice(start, start + _BLOCK_ROWS) for start in range(0, count, _BLOCK_ROWS)]

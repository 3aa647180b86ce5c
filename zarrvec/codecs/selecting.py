"""Which vectors of a chunk does a selection touch, and what does it take of them?

Pure. A selection is what zarr asks of one chunk: for each axis an integer, a slice, or an array of integers or booleans, with the
meaning that numpy gives them together.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zarrvec.layout.coalesce import GAP_BYTES

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a selection takes of a chunk."""

    rows: Int64
    """(m,) the vectors that it touches, ascending, each once; a vector's number counts all leading axes in C order."""
    index: tuple[Any, ...]
    """What it takes of these, as an index of (m, d)."""
    shape: tuple[int, ...] | None
    """Shape of the result; None for that which indexing gives."""

    def of(self, vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return what the selection takes, given (m, d) vectors that it touches."""
        found: npt.NDArray[Any] = np.asarray(vectors[self.index])
        return found if self.shape is None else found.reshape(self.shape)


def select(selection: tuple[Any, ...], shape: tuple[int, ...]) -> Wanted:
    """Return what a selection takes of a chunk.

    Parameters
    ----------
    selection
        An entry for each axis.
    shape
        Of the chunk; its last axis is that of the vectors.

    Examples
    --------
    >>> wanted = select((slice(1, 3), slice(0, 2)), (5, 4))
    >>> wanted.rows.tolist(), wanted.of(np.arange(20).reshape(5, 4)[1:3]).tolist()
    ([1, 2], [[4, 5], [8, 9]])
    """
    numbers = np.arange(int(np.prod(shape[:-1], dtype=np.int64)), dtype=np.int64).reshape(shape[:-1])
    if len(selection) == len(shape) and all(_is_basic(part) for part in selection):
        touched = numbers[selection[:-1]]
        rows, places = np.unique(touched, return_inverse=True)
        index = (places.reshape(-1), selection[-1])
        result = touched.shape + np.empty(shape[-1], np.bool_)[selection[-1]].shape
        return Wanted(rows, index, result)
    chosen = np.broadcast_to(numbers[..., None], shape)[selection]
    columns = np.broadcast_to(np.arange(shape[-1]), shape)[selection]
    rows, places = np.unique(chosen, return_inverse=True)
    return Wanted(rows, (places.reshape(np.shape(chosen)), columns), None)


def runs_of(rows: Int64, row_bytes: int, gap_bytes: int = GAP_BYTES) -> list[tuple[int, int]]:
    """Return the runs of rows that are read together: a gap that is shorter than a request is worth is read too.

    Examples
    --------
    >>> runs_of(np.array([0, 1, 2, 10, 99]), row_bytes=10, gap_bytes=70)
    [(0, 11), (99, 100)]
    """
    if not len(rows):
        return []
    breaks = np.flatnonzero((np.diff(rows) - 1) * row_bytes > gap_bytes)
    starts = rows[np.concatenate([[0], breaks + 1])]
    stops = rows[np.concatenate([breaks, [len(rows) - 1]])] + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def _is_basic(part: Any) -> bool:
    return isinstance(part, slice | int | np.integer)

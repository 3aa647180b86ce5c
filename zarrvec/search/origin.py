"""Where is the middle of the rows, which an index for ``l2`` takes off rows and queries?

It must be known before rows become float32, which has no digits left for what lies close together far from 0. Any vector
near the rows will do: ``specs/vector-index.md``, section "Space".
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from zarr.types import AnyArray

from zarrvec.search.reading import read_rows

_RUNS: Final = 16
"""Places, evenly spread, where rows are looked at."""
_RUN_ROWS: Final = 64
_LARGEST: Final = 1e18
"""Rows with larger components may be beyond float32."""
_MANY: Final = 64
_SPREAD: Final = 4.0
"""None of so many rows has moved their mean far if none is so many times farther from it than half of them."""
_OUTLYING: Final = 16.0
"""Rows so many times farther from the medians than half of them are don't count: a single one could move the mean out of
reach of all others."""


def find_origin(array: AnyArray, memory_bytes: int) -> npt.NDArray[np.float32]:
    """Return the (d,) origin of an array, from some of its rows.

    Parameters
    ----------
    array
        Of vectors, not empty.
    memory_bytes
        Bound on the rows that are looked at.

    Examples
    --------
    >>> import zarr
    >>> array = zarr.create_array({}, data=np.array([[1e6, 0], [1e6 + 2, 2], [np.nan, 0]]))
    >>> find_origin(array, 1 << 20).tolist()
    [1000001.0, 1.0]
    """
    leading, width = array.shape[:-1], array.shape[-1]
    rows = int(np.prod(leading, dtype=np.int64))
    length = max(1, min(_RUN_ROWS, memory_bytes // (_RUNS * 8 * width)))
    starts = np.linspace(0, max(0, rows - length), _RUNS).astype(np.int64)
    ids = np.unique(np.minimum(starts[:, None] + np.arange(length), rows - 1))
    return middle_of(read_rows(array, ids, len(leading)))


def middle_of(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return the (d,) float32 mean of (n, d) rows, those left out that are not finite or far from most; 0 if there are no others.

    Examples
    --------
    >>> middle_of(np.array([[0, 1], [2, 3], [1e12, 0], [0, 2], [2, 2], [np.inf, 0]])).tolist()
    [1.0, 2.0]
    """
    rows = rows.astype(np.float64)
    rows = rows[(np.abs(rows) <= _LARGEST).all(axis=1)]
    if not len(rows):
        return np.zeros(rows.shape[1], dtype=np.float32)
    middle = rows.mean(axis=0)
    away = np.linalg.norm(rows - middle, axis=1)
    if len(rows) < _MANY or away.max() > _SPREAD * np.median(away):
        away = np.linalg.norm(rows - np.median(rows, axis=0), axis=1)
        middle = rows[away <= _OUTLYING * np.median(away)].mean(axis=0)
    rounded: npt.NDArray[np.float32] = middle.astype(np.float32)
    return rounded
